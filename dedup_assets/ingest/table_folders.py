"""Folders in which not every file is data: tables with a log (Delta, Iceberg, Hudi), and datasets saved by `datasets`.

Knows names only; the caller gives the function that reads a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

from dedup_assets.errors import SourceError

HUDI = ".hoodie"

_REMEDY = (
    "Which of its files count stands in its log: export the table to Parquet with {library}, or name single files if "
    "each of them counts."
)
_LIBRARIES = {"Delta": "deltalake or Spark", "Iceberg": "pyiceberg or Spark", "Hudi": "Spark"}

_STATE, _INFO, _DICT = "state.json", "dataset_info.json", "dataset_dict.json"


def left_out_of_tables(source: str, names: Sequence[str], read: Callable[[str], bytes]) -> dict[str, str]:
    """Files below a source that are no shards because of the folder they lie in, with the reason.

    The reason is empty for the metadata of a dataset saved by `datasets`, whose data is read.

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
    saved = [folder for folder in _folders(names, _STATE) if f"{folder}{_INFO}" in names]
    for folder in saved:
        left_out |= _of_dataset(folder, names, read)
    for folder in _folders(names, _DICT):
        if any(other.startswith(folder) for other in saved):
            left_out[f"{folder}{_DICT}"] = ""
    return left_out


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


def _of_dataset(folder: str, names: Sequence[str], read: Callable[[str], bytes]) -> dict[str, str]:
    """What is no data of the dataset saved in a folder."""
    mine = [name for name in names if name.startswith(folder) and "/" not in name[len(folder) :]]
    metadata = {f"{folder}{name}": "" for name in (_STATE, _INFO)}
    try:
        state = json.loads(read(f"{folder}{_STATE}"))
        data = {f"{folder}{file['filename']}" for file in state["_data_files"]}
        selected = any("indices" in key and value for key, value in state.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # other people's state.json: JSON like any other
    if selected:
        why = "a saved dataset with a selection of rows beside it: save it again with a current version of datasets"
        return {name: why for name in mine} | metadata
    missing = sorted(data.difference(mine))
    if missing:
        raise SourceError(f"the saved dataset in {folder or 'the source'!r} lacks {missing[0]!r}. Copy it whole.")
    return {name: "no data of the saved dataset it lies in" for name in mine if name not in data} | metadata
