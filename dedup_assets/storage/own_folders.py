"""Folders that dedup-assets itself writes, workspaces and outputs, recognised by their content.

A corpus that reads its own output would grow without new data, and bring back records that were taken down.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

MARKER = ".dedup-assets"
"""A file in every workspace and every output that says what the folder is."""

MARKER_TEXT = "This folder is written by dedup-assets. Nothing in it is ever read as a source.\n"

_SIGNS = ((MARKER,), ("curation.toml", "ledger.sqlite"), ("manifest.json", "generations"))
"""Sets of names that all exist in such a folder: the marker, or the files of folders older than the marker."""


class OwnFolders:
    """Checks each folder of the local file system once."""

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}

    def hold(self, path: str) -> bool:
        """Whether a file lies in such a folder or anywhere below one, by its real path; for a folder, named with a
        trailing slash, whether its content does."""
        return any(map(self._is_own, _above(os.path.realpath(path) + ("/" if path.endswith("/") else ""))))

    def _is_own(self, folder: str) -> bool:
        if folder not in self._known:
            present = (all(os.path.lexists(os.path.join(folder, name)) for name in names) for names in _SIGNS)  # noqa: PTH118
            self._known[folder] = any(present)
        return self._known[folder]


def own_roots(names: Iterable[str]) -> set[str]:
    """The folders among listed files, relative to the listing, that are such folders; "" is the listing itself."""
    inside: dict[str, set[str]] = {}
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts):
            inside.setdefault("/".join(parts[:depth]), set()).add(part)
    return {folder for folder, found in inside.items() if any(found.issuperset(names) for names in _SIGNS)}


def lies_in_own(filesystem: Any, path: str) -> bool:
    """Whether a file or folder of an fsspec file system lies in such a folder, or is one.

    Files are requested by name and their content is checked, because some servers answer every name.
    """

    def begins(name: str, start: bytes) -> bool:
        try:
            return bytes(filesystem.cat_file(name, start=0, end=len(start))) == start
        except Exception:  # each fsspec implementation has its own exception classes for missing files
            return False

    def is_own(folder: str) -> bool:
        return (
            begins(f"{folder}/{MARKER}", MARKER_TEXT.encode())
            or (begins(f"{folder}/ledger.sqlite", b"SQLite format 3") and filesystem.exists(f"{folder}/curation.toml"))
            or (begins(f"{folder}/manifest.json", b"{") and filesystem.exists(f"{folder}/generations"))
        )

    parts = path.split("?")[0].rstrip("/").split("/")
    folders = ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
    return any(is_own(folder) for folder in folders if not folder.endswith((":", ":/")) and "*" not in folder)


def _above(path: str) -> Iterator[str]:
    folder = os.path.dirname(path)  # noqa: PTH120
    while True:
        yield folder
        parent = os.path.dirname(folder)  # noqa: PTH120
        if parent == folder:
            return
        folder = parent
