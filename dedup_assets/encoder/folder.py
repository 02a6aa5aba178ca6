"""What the files of a model folder ask for: each key of them is obeyed, or refused by name.

A model that is run otherwise than it was made for gives other vectors, and nothing would show it. What decides the
tokens and the layers (`tokenizer.json`, `config.json`) is read by transformers; here is what sentence-transformers
adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedup_assets.encoder.prompts import INSTEAD as _INSTEAD
from dedup_assets.encoder.prompts import PROMPTS, check_similarity, read_json
from dedup_assets.errors import ModelError, first_line

MODULES, TRANSFORMER_FILE = "modules.json", "sentence_bert_config.json"
ADAPTER = "adapter_config.json"

# tokenizers without a limit of their own report about 1e30 as their maximal length.
_NO_LIMIT = 1_000_000
# Window where neither the model nor the tokenizer states one; the commonest one of encoders.
_FALLBACK_MAX_LENGTH = 512
_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length")
_SHIFTED_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer")

_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "lasttoken": "last",
}

# Keys with the values that change nothing here. None stands for "not set" and is always among them.
_HARMLESS: dict[str, dict[str, tuple[Any, ...]]] = {
    TRANSFORMER_FILE: {
        "do_lower_case": (False,),
        "model_args": ({},),
        "model_kwargs": ({},),
        "tokenizer_args": ({},),
        "config_args": ({},),
        "config_kwargs": ({},),
        "processor_kwargs": ({},),
        "processing_kwargs": ({},),
        "backend": ("torch",),
        "transformer_task": ("feature-extraction",),
        "module_output_name": ("token_embeddings", "last_hidden_state"),
        "modality_config": (
            {},
            {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        ),
        "unpad_inputs": (False, True),
    },
    PROMPTS: {
        "model_type": ("SentenceTransformer",),
        "truncate_dim": (),
    },
    "pooling": {"include_prompt": (True, False)},  # with False and a prompt, the library runs the model
}
_READ = {
    TRANSFORMER_FILE: ("max_seq_length",),
    PROMPTS: ("__version__", "prompts", "default_prompt_name", "similarity_fn_name"),
    "pooling": ("word_embedding_dimension", "embedding_dimension", "pooling_mode"),
}


@dataclass(frozen=True)
class FolderSettings:
    """How a model is to be run: its pooling ("mean", "cls" or "last"), its window in tokens with the special ones, and
    how many numbers it says that a vector has (None: it does not say)."""

    pooling: str
    window: int
    dimension: int | None


def read_folder(root: Path, pooling: str | None = None, trusted: bool = False) -> FolderSettings:
    """The settings of a folder; `pooling` replaces the folder's own. The code in a `trusted` folder is run. Raises
    ModelError for any setting that is not supported, and for files that are not as published."""
    try:
        check_folder(root, trusted=trusted)
        return FolderSettings(pooling or pooling_of(root), window_of(root), pooled_dimension(root))
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise ModelError(
            f"a file of {root} holds a value of another kind than belongs there: {first_line(error)}. Expected the "
            "folder as published"
        ) from error


def check_folder(root: Path, by_library: bool = False, trusted: bool = False) -> None:
    """Raise ModelError for anything in the files of sentence-transformers that would not be obeyed.

    A folder without `modules.json` is a plain transformers model: its hidden states are pooled as the settings say.
    `by_library` says that sentence-transformers runs the folder, with its own modules and poolings.
    `trusted` says that the folder's own code is run.
    """
    home = transformer_folder(root)
    kinds = module_kinds(root)
    _check_code_and_files(home, trusted, kinds)
    modules = _modules(root)
    for module in modules:
        if module.get("kwargs") and not trusted:
            raise ModelError(f"{root / MODULES} gives kwargs {module['kwargs']!r}, which are not obeyed. {_EXPECTED}")
    if by_library:
        if not trusted:
            _check_activations(root)
            _check_methods(home / TRANSFORMER_FILE)
    elif modules and kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        odd = next((kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")), None)
        found = f"a module {odd}, which is not run here" if odd else f"the modules {', '.join(kinds)}"
        code = f" {_CODE}" if odd and "." in odd else ""
        raise ModelError(
            f"{root / MODULES} names {found}: without it the vectors would be others than the model's. {_EXPECTED}"
            f"{code}"
        )
    if not trusted:
        _check_keys(home / TRANSFORMER_FILE, TRANSFORMER_FILE, _OUTPUTS if by_library else ())
        _check_keys(root / PROMPTS, PROMPTS)
    check_similarity(root, kinds)
    if modules and not by_library:
        _check_keys(pooling_file(root), "pooling")
    tokenizer = home / "tokenizer_config.json"
    side = read_json(tokenizer).get("truncation_side", "right") if tokenizer.is_file() else "right"
    if side != "right":
        raise ModelError(
            f"{tokenizer} asks for truncation_side {side!r}: here a long text is cut at its end. {_EXPECTED}"
        )


# Modules that sentence-transformers runs first, and those that it runs after them.
_FIRST = {"Transformer", "CLIPModel"}
_LIBRARY_MODULES = {"Pooling", "Normalize", "Dense", "LayerNorm", "Dropout", "WeightedLayerPooling", "CNN", "LSTM"}


def _check_activations(root: Path) -> None:
    for module in _modules(root):
        path = root / module.get("path", "") / "config.json"
        if _kind(module) == "Dense" and path.is_file():
            name = read_json(path).get("activation_function")
            # The library imports what is named there.
            if name is not None and not str(name).startswith("torch.nn.modules."):
                raise ModelError(f"{path} names the activation {name!r}. Expected one of torch.nn.modules. {_INSTEAD}")


# Keys that select the output of a transformer, such as the text vectors of CLIP.
_OUTPUTS = ("modality_config", "module_output_name")
_METHODS = ("forward", "get_text_features", "get_image_features")


def _check_methods(path: Path) -> None:
    told = read_json(path).get("modality_config") if path.is_file() else None
    if not isinstance(told or {}, dict):
        raise ModelError(f"{path} sets modality_config = {told!r}. Expected an object. {_INSTEAD}")
    for kind in (told or {}).values():
        # The library calls the method of this name.
        if not isinstance(kind, dict) or kind.get("method") not in _METHODS:
            raise ModelError(f"{path} names the method {kind!r}. Expected one of {', '.join(_METHODS)}. {_INSTEAD}")


OTHER_POOLING = "a pooling other than mean, cls and last"


def needs_library(root: Path, prompted: bool = False, trusted: bool = False) -> str | None:
    """The part of a folder that needs sentence-transformers, such as "a module Dense"; None if there is none.

    `prompted` says that a prompt is put before every text, and `trusted` that the folder's own code is run.
    """
    kinds = module_kinds(root)
    own = [kind for kind in kinds if "." in kind]
    if own and trusted:
        return f"a module {own[0]} of its own"
    if kinds[:1] == [] or kinds[0] not in _FIRST or not _LIBRARY_MODULES.issuperset(kinds[1:]):
        return None
    more = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if more:
        return f"a module {more[0]}"
    if transformer_folder(root) != root:
        return "its transformer in a folder of its own"
    if kinds[1:2] != ["Pooling"]:
        return "no pooling behind its transformer"
    if prompted and pooling_file(root).is_file() and read_json(pooling_file(root)).get("include_prompt") is False:
        return "a pooling without its prompt"
    try:
        pooling_of(root)
    except ModelError:
        return OTHER_POOLING if pooling_file(root).is_file() else None
    return None


def brings_code(root: Path) -> bool:
    """Whether a folder refers to code of its own."""
    return bool(_own_code(transformer_folder(root))) or any("." in kind for kind in module_kinds(root))


def transformer_folder(root: Path) -> Path:
    """The folder of the transformer: the model's folder, or a subfolder that `modules.json` names."""
    modules = _modules(root)
    return root / modules[0].get("path", "") if modules else root


def module_kinds(root: Path) -> list[str]:
    """The modules that a folder of sentence-transformers names, such as "Transformer"; empty without `modules.json`."""
    return [_kind(module) for module in _modules(root)]


def check_static_modules(root: Path) -> None:
    """Raise ModelError for anything in the files of a static model that would not be obeyed."""
    kinds = module_kinds(root)
    if kinds and kinds not in (["StaticEmbedding"], ["StaticEmbedding", "Normalize"]):
        raise ModelError(
            f"{root / MODULES} names the modules {', '.join(kinds)}: of a static model StaticEmbedding and Normalize "
            f"are run here, and without the others the vectors would be others than the model's. {_INSTEAD}"
        )
    _check_keys(root / PROMPTS, PROMPTS)
    check_similarity(root, kinds)


_EXPECTED = (
    "Expected a model of a transformer, a pooling and at most a normalisation. Bring its vectors with the data "
    "(--embedding-column), or take another model"
)


_CODE = "Its own code is run with --trust-remote-code: read it first"


def _own_code(root: Path) -> list[str]:
    """The classes that a transformer defines in its own code."""
    own: list[str] = [
        name for name in ("AutoConfig", "AutoModel", "AutoTokenizer") if name in _auto_map(root / "config.json")
    ]
    return own or (["AutoTokenizer"] if _auto_map(root / "tokenizer_config.json") else [])


def _auto_map(path: Path) -> dict[str, Any]:
    """The classes of a file's `auto_map`, by what they stand for; older tokenizers have a list for AutoTokenizer."""
    told = (read_json(path).get("auto_map") or {}) if path.is_file() else {}
    return told if isinstance(told, dict) else {"AutoTokenizer": told}


def _check_code_and_files(root: Path, trusted: bool, kinds: Sequence[str]) -> None:
    """Raise ModelError for a model with code of its own, with an adapter, or without the files of its tokenizer.

    transformers would run a known model under the same name, leave the adapter out, or make up a tokenizer.
    """
    own = _own_code(root)
    if own and not trusted:
        raise ModelError(
            f"the model in {root} brings code of its own ({', '.join(own)} in auto_map), which is not run unasked. "
            f"{_EXPECTED}. {_CODE}"
        )
    told = [*_auto_map(root / "config.json").values(), *_auto_map(root / "tokenizer_config.json").values()]
    classes = [name for names in [*told, [*kinds]] for name in (names if isinstance(names, list) else [names])]
    elsewhere = sorted({str(name).partition("--")[0] for name in classes if "--" in str(name)})
    if elsewhere and (own or trusted):
        raise ModelError(
            f"the model in {root} has its code in another repository ({', '.join(elsewhere)}), which may change "
            f"unseen. Copy its .py files beside config.json, and take the name before -- out of auto_map or {MODULES}. "
            f"{_INSTEAD}"
        )
    if (root / ADAPTER).is_file():
        raise ModelError(
            f"{root / ADAPTER} adds an adapter to the model, which is not applied here. Merge it into the weights "
            "first (peft: merge_and_unload), or bring the vectors with the data (--embedding-column)"
        )
    whole = (root / "tokenizer.json").is_file() or (root / "vocab.txt").is_file() or any(root.glob("*.model"))
    if not whole and not ((root / "vocab.json").is_file() and (root / "merges.txt").is_file()):
        raise ModelError(
            f"{root} has no tokenizer. Expected tokenizer.json, vocab.txt, vocab.json with merges.txt, or a *.model "
            "file"
        )


def _check_keys(path: Path, what: str, obeyed: tuple[str, ...] = ()) -> None:
    if not path.is_file():
        return
    for key, value in read_json(path).items():
        if value is None or key in _READ[what] or key in obeyed or key.startswith("pooling_mode_"):
            continue
        if key not in _HARMLESS[what] or not any(_same(value, harmless) for harmless in _HARMLESS[what][key]):
            raise ModelError(f"{path} sets {key} = {value!r}, which is not obeyed here. {_EXPECTED}")


def _same(value: Any, harmless: Any) -> bool:
    return type(value) is type(harmless) and value == harmless


def _modules(root: Path) -> list[dict[str, Any]]:
    path = root / MODULES
    modules = read_json(path) if path.is_file() else []
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{path} is no list of modules. Expected the file as published")
    for place in (module.get("path", "") for module in modules):
        if not isinstance(place, str) or Path(place).is_absolute() or ".." in Path(place).parts:
            raise ModelError(f"{path} names the path {place!r}. Expected a folder inside {root}")
    return modules


def _kind(module: dict[str, Any]) -> str:
    name = str(module.get("type", ""))
    library, _, kind = name.rpartition(".")
    # A class of the same name from elsewhere may do anything.
    return kind if library.split(".")[0] == "sentence_transformers" else name or "without a type"


def pooling_file(root: Path) -> Path:
    """Where a folder says how its model pools; it need not be there. Raises ModelError for odd modules."""
    folders = [m.get("path", "") for m in _modules(root) if _kind(m) == "Pooling"]
    return root / (folders[0] if folders else "1_Pooling") / "config.json"


def pooling_of(root: Path) -> str:
    """The pooling that a model was made for: "mean", "cls" or "last"; "mean" where its folder does not say.

    Raises ModelError for another one, and for several at once.
    """
    path = pooling_file(root)
    if not path.is_file():
        if _modules(root):
            raise ModelError(f"{path} is missing, which says how the model pools. Expected the folder as published")
        return "mean"
    config = read_json(path)
    if config.get("pooling_mode") is not None:  # newer files name it directly
        mode = config["pooling_mode"]
        modes = [mode] if isinstance(mode, str) else list(mode)
    else:
        modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    modes = [_POOLINGS.get(mode, mode) for mode in modes]
    if len(modes) != 1 or modes[0] not in _POOLINGS.values():
        raise ModelError(
            f"{path} asks for pooling {', '.join(map(str, modes)) or 'nothing'}; "
            "mean, cls and last are offered: name one of them in the settings"
        )
    return modes[0]


def pooled_dimension(root: Path) -> int | None:
    """How many numbers the folder says that a vector has; None where it does not say."""
    path = pooling_file(root)
    config = read_json(path) if path.is_file() else {}
    return config.get("word_embedding_dimension") or config.get("embedding_dimension")


def window_of(root: Path) -> int:
    """Tokens that a model was made to read, special tokens included: `max_seq_length` of sentence-transformers, else
    the tokenizer's limit; never more than the positions that the model has."""
    limits = []
    path = root / TRANSFORMER_FILE
    if path.is_file() and read_json(path).get("max_seq_length"):
        limits = [int(read_json(path)["max_seq_length"])]
    elif (root / "tokenizer_config.json").is_file():
        limit = read_json(root / "tokenizer_config.json").get("model_max_length")
        limits = [int(limit)] if limit and limit < _NO_LIMIT else []
    config = read_json(root / "config.json")
    positions = next((config[name] for name in _POSITIONS if config.get(name)), None)
    if positions:
        # RoBERTa and its kin start counting positions behind the padding id.
        offset = config.get("pad_token_id", 1) + 1 if config.get("model_type") in _SHIFTED_POSITIONS else 0
        limits.append(int(positions) - offset)
    return min(limits) if limits else _FALLBACK_MAX_LENGTH
