"""What the files of a model folder ask for: each key of them is obeyed, or refused by name.

A model that is run otherwise than it was made for gives other vectors, and nothing would show it. What decides the
tokens and the layers (`tokenizer.json`, `config.json`) is read by transformers; here is what sentence-transformers
adds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedup_assets.errors import ModelError, first_line

MODULES, TRANSFORMER_FILE, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
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
        "similarity_fn_name": ("cosine",),
        "model_type": ("SentenceTransformer",),
        "default_prompt_name": (),
        "truncate_dim": (),
    },
    "pooling": {"include_prompt": (True, False)},  # of prompts there are none
}
_READ = {
    TRANSFORMER_FILE: ("max_seq_length",),
    PROMPTS: ("__version__", "prompts"),
    "pooling": ("word_embedding_dimension", "embedding_dimension", "pooling_mode"),
}


def read_json(path: Path) -> Any:
    """A JSON file of a model folder. Raises ModelError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}. Expected the file as published") from error


@dataclass(frozen=True)
class FolderSettings:
    """How a model is to be run: its pooling ("mean", "cls" or "last"), its window in tokens with the special ones, and
    how many numbers it says that a vector has (None: it does not say)."""

    pooling: str
    window: int
    dimension: int | None


def read_folder(root: Path, pooling: str | None = None) -> FolderSettings:
    """What the folder asks for; `pooling` names one instead of the folder's. Raises ModelError for anything that would
    not be obeyed, and for files that are not as published."""
    try:
        check_folder(root)
        return FolderSettings(pooling or pooling_of(root), window_of(root), pooled_dimension(root))
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise ModelError(
            f"a file of {root} holds a value of another kind than belongs there: {first_line(error)}. Expected the "
            "folder as published"
        ) from error


def check_folder(root: Path, by_library: bool = False) -> None:
    """Raise ModelError for anything in the files of sentence-transformers that would not be obeyed.

    A folder without `modules.json` is a plain transformers model: its hidden states are pooled as the settings say.
    `by_library` says that sentence-transformers itself runs the folder: modules, poolings and prompts are its own then.
    """
    _check_code_and_files(root)
    modules = _modules(root)
    for module in modules:
        if module.get("kwargs"):
            raise ModelError(f"{root / MODULES} gives kwargs {module['kwargs']!r}, which are not obeyed. {_EXPECTED}")
    kinds = [_kind(module) for module in modules]
    if by_library:
        _check_activations(root)
    elif modules and kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        odd = next((kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")), None)
        found = f"a module {odd}, which is not run here" if odd else f"the modules {', '.join(kinds)}"
        raise ModelError(
            f"{root / MODULES} names {found}: without it the vectors would be others than the model's. {_EXPECTED}"
        )
    if modules and modules[0].get("path"):
        raise ModelError(
            f"{root / MODULES}: the Transformer lies in {modules[0]['path']!r}, and is looked for in {root} itself. "
            f"{_EXPECTED}"
        )
    _check_keys(root / TRANSFORMER_FILE, TRANSFORMER_FILE)
    _check_keys(root / PROMPTS, PROMPTS, "default_prompt_name", prompted=by_library)
    if modules and not by_library:
        _check_keys(pooling_file(root), "pooling")
    tokenizer = root / "tokenizer_config.json"
    side = read_json(tokenizer).get("truncation_side", "right") if tokenizer.is_file() else "right"
    if side != "right":
        raise ModelError(
            f"{tokenizer} asks for truncation_side {side!r}: here a long text is cut at its end. {_EXPECTED}"
        )


_LIBRARY_MODULES = {"Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "Dropout"}


def _check_activations(root: Path) -> None:
    for module in _modules(root):
        path = root / module.get("path", "") / "config.json"
        if _kind(module) == "Dense" and path.is_file():
            name = read_json(path).get("activation_function")
            # The library imports what is named there.
            if name is not None and not str(name).startswith("torch.nn.modules."):
                raise ModelError(f"{path} names the activation {name!r}. Expected one of torch.nn.modules. {_INSTEAD}")


OTHER_POOLING = "a pooling other than mean, cls and last"


def needs_library(root: Path) -> str | None:
    """For what sentence-transformers has to run a folder, such as "a module Dense"; None where it need not."""
    kinds = module_kinds(root)
    if kinds[:2] != ["Transformer", "Pooling"] or not _LIBRARY_MODULES.issuperset(kinds):
        return None
    more = [kind for kind in kinds[2:] if kind != "Normalize"]
    if more:
        return f"a module {more[0]}"
    told = read_json(root / PROMPTS) if (root / PROMPTS).is_file() else {}
    default = told.get("default_prompt_name")
    if default is not None and (told.get("prompts") or {}).get(default):
        return f"the prompt {default!r} before every text"
    try:
        pooling_of(root)
    except ModelError:
        return OTHER_POOLING if pooling_file(root).is_file() else None
    return None


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
    _check_keys(root / PROMPTS, PROMPTS, "default_prompt_name")


_INSTEAD = "Bring its vectors with the data (--embedding-column), or take another model"
_EXPECTED = (
    "Expected a model of a transformer, a pooling and at most a normalisation. Bring its vectors with the data "
    "(--embedding-column), or take another model"
)


def _check_code_and_files(root: Path) -> None:
    """Raise ModelError for a model with code of its own, with an adapter, or without the files of its tokenizer.

    transformers would run a known model under the same name, leave the adapter out, or make up a tokenizer.
    """
    tokenizer = root / "tokenizer_config.json"
    own = [
        name for name in ("AutoConfig", "AutoModel") if name in (read_json(root / "config.json").get("auto_map") or ())
    ]
    if tokenizer.is_file() and read_json(tokenizer).get("auto_map"):
        own.append("AutoTokenizer")
    if own:
        raise ModelError(
            f"the model in {root} brings code of its own ({', '.join(own)} in auto_map), which is never run. "
            f"{_EXPECTED}"
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


def _check_keys(path: Path, what: str, prompt: str = "", prompted: bool = False) -> None:
    if not path.is_file():
        return
    for key, value in read_json(path).items():
        if value is None or key in _READ[what] or key.startswith("pooling_mode_"):
            continue
        if key == prompt:
            # A prompt of no characters puts nothing before the text.
            text = read_json(path).get("prompts", {}).get(value, None)
            if text == "" or (prompted and isinstance(text, str)):
                continue
            raise ModelError(f"{path} puts the prompt {value!r} before every text, which is not done here. {_EXPECTED}")
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
