"""`static:MODEL`: a static model made once from a transformer by model2vec, kept in the user's cache folder.

It is known by what it is made from and how. Made again elsewhere it differs by rounding, as vectors of a transformer
do; the probe of a workspace tells whether it is the same.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from dedup_assets.encoder.folder import read_folder
from dedup_assets.errors import ModelError, first_line
from dedup_assets.storage.publish import checksum, publish_folder, storage_errors

RECORD = "made-from.json"

# model2vec's own defaults; part of what a made model is known by.
_RECIPE: dict[str, Any] = {"pca_dims": 256, "sif_coefficient": 1e-4, "quantize_to": "float16"}
_POOLINGS = {"mean": "mean", "cls": "first", "last": "last"}


def distilled_place(source: str) -> tuple[Path, str]:
    """Folder in the cache and fingerprint of the static model of the model with the fingerprint `source`.

    The cache is `$XDG_CACHE_HOME/dedup-assets`, or `~/.cache/dedup-assets`.
    """
    recipe = json.dumps({"source": source, **_RECIPE}, sort_keys=True)
    fingerprint = hashlib.blake2b(recipe.encode(), digest_size=16).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "dedup-assets" / "static" / fingerprint, fingerprint


def can_distill() -> bool:
    """Whether the libraries that make a static model are installed."""
    return importlib.util.find_spec("skeletoken") is not None


def is_distilled(folder: Path) -> bool:
    """Whether the model of a folder in the cache is made."""
    return (folder / RECORD).is_file()


def require_distilled(name: str, folder: Path, source: Path) -> None:
    """Make the static model `name` of the transformer in `source`, if it is not in `folder` yet.

    Raises ModelError where a library for it is missing, the transformer cannot be run, or what lies in the cache is not
    what was put there.
    """
    if not is_distilled(folder):
        _make(name, folder, source)
    kept = json.loads((folder / RECORD).read_text(encoding="utf-8"))["digests"]
    for file, digest in kept.items():
        if not (folder / file).is_file() or checksum(folder / file) != digest:
            raise ModelError(
                f"{folder / file} is not as it was when {name} was made. Delete {folder}, and it is made again"
            )


def _make(name: str, folder: Path, source: Path) -> None:
    try:
        from model2vec.distill import distill_from_model, inference
    except ImportError as error:
        raise ModelError(
            f"{name} has to be made from its transformer first, for which a library is missing: {first_line(error)}. "
            "Install it: pip install 'dedup-assets[distill]', or name a static model as published, such as "
            "minishlab/potion-base-8M"
        ) from error
    from tqdm import tqdm

    from dedup_assets.encoder.parts import load_parts

    pooling = _POOLINGS[read_folder(source).pooling]
    model, tokenizer = load_parts(str(source))
    inference.tqdm = functools.partial(tqdm, disable=True)  # only bars of its own are wanted by a command
    try:
        made = distill_from_model(model, tokenizer, device="cpu", pooling=pooling, **_RECIPE)
    except Exception as error:  # of model2vec, skeletoken, tokenizers and transformers
        raise ModelError(
            f"{name}: model2vec cannot make a static model of {source}: {type(error).__name__}: {first_line(error)}. "
            "Name a static model as published, such as minishlab/potion-base-8M, or the transformer itself"
        ) from error
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with publish_folder(folder) as target:
            made.save_pretrained(target)
            files = sorted(path.name for path in target.iterdir() if path.suffix in (".json", ".safetensors"))
            record = {"name": name, "recipe": _RECIPE, "digests": {file: checksum(target / file) for file in files}}
            (target / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
