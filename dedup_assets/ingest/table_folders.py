"""Folders in which not every file is data: tables with a log (Delta, Iceberg, Hudi), and datasets saved by `datasets`.

Works on names only; the caller passes the function that reads a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from dedup_assets.errors import SourceError

HUDI = ".hoodie"

_REMEDY = (
    "Which of its files count stands in its log: export the table to Parquet with {library}, or name single files if "
    "each of them counts."
)
_LIBRARIES = {"Delta": "deltalake or Spark", "Iceberg": "pyiceberg or Spark", "Hudi": "Spark"}

_STATE, _INFO, _DICT = "state.json", "dataset_info.json", "dataset_dict.json"


@dataclass
class Folders:
    """Information that tables and saved datasets give about the files below a source.

    `left_out` maps files that are not shards to the reason, which is empty for the metadata of a dataset saved by
    `datasets`. `orders` lists the files of each such dataset in its order: by split, then as saved.
    """

    left_out: dict[str, str] = field(default_factory=dict)
    orders: list[list[str]] = field(default_factory=list)


def read_folders(source: str, names: Sequence[str], read: Callable[[str], bytes]) -> Folders:
    """Find tables and saved datasets below a source.

    Raises
    ------
    SourceError
        The source as a whole is a Delta, Iceberg or Hudi table.
    """
    tables = dict(_tables(names))
    for root, kind in tables.items():
        if not root:
            raise SourceError(f"{source!r} is a table of {kind}. {_REMEDY.format(library=_LIBRARIES[kind])}")
    left_out = {
        name: f"part of the {kind} table {root!r}. {_REMEDY.format(library=_LIBRARIES[kind])}"
        for name in names
        for root, kind in tables.items()
        if name.startswith(f"{root}/")
    }
    saved: dict[str, list[str]] = {}
    for folder in _folders(names, _STATE):
        if f"{folder}{_INFO}" in names:
            saved[folder], without = _of_dataset(folder, names, read)
            left_out |= without
    for folder in _folders(names, _DICT):
        splits = [other for other in saved if other != folder and other.startswith(folder)]
        if splits:
            left_out[f"{folder}{_DICT}"] = ""
            order = _order_of_splits(read(f"{folder}{_DICT}"))
            splits.sort(key=lambda split: order.get(split[len(folder) :].rstrip("/"), len(order)))
            saved[folder] = [name for split in splits for name in saved.pop(split)]
    return Folders(left_out, [files for files in saved.values() if len(files) > 1])


def _order_of_splits(told: bytes) -> dict[str, int]:
    try:
        return {str(split): number for number, split in enumerate(json.loads(told)["splits"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _tables(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        parts = name.split("/")
        if "_delta_log" in parts[:-1]:
            yield "/".join(parts[: parts.index("_delta_log")]), "Delta"
        elif HUDI in parts:
            yield "/".join(parts[: parts.index(HUDI)]), "Hudi"
        elif name.endswith(".metadata.json") and parts[-2:-1] == ["metadata"]:
            yield "/".join(parts[:-2]), "Iceberg"


def _folders(names: Iterable[str], file: str) -> list[str]:
    """Folders that hold a file of that name, each with its slash; "" for the source itself."""
    return [name.removesuffix(file) for name in names if name == file or name.endswith(f"/{file}")]


def _of_dataset(folder: str, names: Sequence[str], read: Callable[[str], bytes]) -> tuple[list[str], dict[str, str]]:
    """Data files of the dataset saved in a folder, in its order, and the other files with the reasons."""
    mine = [name for name in names if name.startswith(folder) and "/" not in name[len(folder) :]]
    metadata = {f"{folder}{name}": "" for name in (_STATE, _INFO)}
    try:
        state = json.loads(read(f"{folder}{_STATE}"))
        data = list(dict.fromkeys(f"{folder}{file['filename']}" for file in state["_data_files"]))
        selected = any("indices" in key and value for key, value in state.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return [], {}  # other people's state.json: JSON like any other
    if selected:
        why = "a saved dataset with a selection of rows beside it: save it again with a current version of datasets"
        return [], {name: why for name in mine} | metadata
    missing = sorted(set(data).difference(mine))
    if missing:
        raise SourceError(f"the saved dataset in {folder or 'the source'!r} lacks {missing[0]!r}. Copy it whole.")
    return data, {name: "no data of the saved dataset it lies in" for name in mine if name not in data} | metadata
