"""Folders of static models: which they are, which of their files decide the vectors, and loading them.

Two kinds: those of model2vec, and those that sentence-transformers saves of a `StaticEmbedding`. model2vec reads both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dedup_assets.encoder.folder import MODULES, module_kinds, read_json
from dedup_assets.errors import ModelError, first_line

if TYPE_CHECKING:
    from dedup_assets.encoder.static import StaticEncoder

NESTED = "0_StaticEmbedding"
"""Folder in which older versions of sentence-transformers put the table."""

_CLASSES = ["StaticModel"]


@dataclass(frozen=True)
class StaticFiles:
    """The files of a static model.

    Attributes
    ----------
    kind : {"model2vec", "sentence-transformers"}
        Whose rules hold: model2vec leaves unknown tokens out and reads a window, the other does neither.
    table, tokenizer : Path
    deciding : tuple of Path
        All that decides the vectors.
    """

    kind: Literal["model2vec", "sentence-transformers"]
    table: Path
    tokenizer: Path
    deciding: tuple[Path, ...]


def static_files(folder: Path) -> StaticFiles | None:
    """The files of a static model in `folder`; None where it holds another model or none.

    Raises ModelError where one of them is missing.
    """
    config = folder / "config.json"
    told = read_json(config) if config.is_file() else {}
    named = isinstance(told, dict) and (told.get("model_type") == "model2vec" or told.get("architectures") == _CLASSES)
    if not named and module_kinds(folder)[:1] != ["StaticEmbedding"]:
        return None
    home = folder / NESTED if (folder / NESTED).is_dir() else folder
    table, tokenizer = home / "model.safetensors", home / "tokenizer.json"
    for path in (table, tokenizer):
        if not path.is_file():
            raise ModelError(f"{path} is missing, which belongs to a static model. Expected the folder as published")
    theirs = "embeddings" in _tensors(table)
    deciding = (table, tokenizer, *((config,) if theirs else ()), folder / MODULES)
    kind: Literal["model2vec", "sentence-transformers"] = "model2vec" if theirs else "sentence-transformers"
    return StaticFiles(kind, table, tokenizer, tuple(path for path in deciding if path.is_file()))


def _tensors(path: Path) -> list[str]:
    """Names of what a file of safetensors holds: its head is a length in eight bytes, then JSON. Raises ModelError."""
    try:
        with path.open("rb") as file:
            return list(json.loads(file.read(int.from_bytes(file.read(8), "little"))))
    except (ValueError, OSError, MemoryError, OverflowError) as error:
        raise ModelError(f"{path} is no file of safetensors: {first_line(error)}. Expected it as published") from error


def load_static(folder: Path, files: StaticFiles, max_length: int | None = None) -> StaticEncoder:
    """The encoder of a static model's folder; `max_length` reads other than its own window. Raises ModelError."""
    from model2vec import StaticModel

    from dedup_assets.encoder.static import StaticEncoder, TokenTable

    try:
        model = StaticModel.from_pretrained(folder)
    except Exception as error:  # safetensors, tokenizers and model2vec raise types of their own
        raise ModelError(
            f"the static model in {folder} cannot be loaded: {type(error).__name__}: {first_line(error)}. Expected the "
            "files of one model as model2vec or sentence-transformers saves them"
        ) from error
    unknown = model.unk_token_id
    if files.kind == "model2vec":
        # So reads `StaticModel.encode`: so many characters, and of their tokens so many.
        window = max_length or model.max_length
        head = window * model.median_token_length if window else None
        dropped = unknown
    else:
        window, head, dropped = max_length or _own_truncation(files.tokenizer), None, None
    rows = None if model.token_mapping is None else model.token_mapping.astype("int64")
    table = TokenTable(model.embedding, rows, model.weights, dropped, unknown)
    try:
        return StaticEncoder(table, model.tokenizer, max_length=window, head=head)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error


def _own_truncation(tokenizer: Path) -> int | None:
    """Tokens to which a tokenizer cuts by itself, as sentence-transformers lets it."""
    told: dict[str, Any] | None = json.loads(tokenizer.read_text(encoding="utf-8")).get("truncation")
    if told is None:
        return None
    if str(told.get("direction", "Right")).lower() != "right":
        raise ModelError(f"{tokenizer} cuts a text at its beginning: here it is cut at its end. Expected another model")
    return int(told["max_length"])
