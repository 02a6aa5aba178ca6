"""Stored vectors of texts by key, from the cells of the admission that introduced each text."""

from __future__ import annotations

import numpy as np

from dedup_assets.storage.cells import ShardCells
from dedup_assets.storage.shards import admission_of, row_of
from dedup_assets.storage.workspace import Workspace


class TextVectors:
    """Looks up vectors; keeps the cells it has mapped."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._admissions = {a.number: a for a in workspace.ledger.admissions()}
        self._codebooks = workspace.ledger.codebooks()
        self._places: dict[int, tuple[ShardCells, np.ndarray, np.ndarray]] = {}

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """Stored vectors (m, d), in the order of the keys."""
        numbers, rows = admission_of(keys), row_of(keys)
        out: np.ndarray | None = None
        for number in np.unique(numbers).tolist():
            cells, sorted_rows, places = self._shard(number)
            mine = np.flatnonzero(numbers == number)
            at = places[np.searchsorted(sorted_rows, rows[mine])]
            if out is None:
                out = np.empty((len(keys), cells.vectors.shape[1]), cells.vectors.dtype)
            out[mine] = cells.vectors[at]
        assert out is not None, "vectors of no text were asked for"
        return out

    def _shard(self, number: int) -> tuple[ShardCells, np.ndarray, np.ndarray]:
        """The cells of a shard from its admission, its rows in order, and the position of each among the vectors."""
        if number not in self._places:
            a = self._admissions[number]
            cells = ShardCells.read(self._workspace.cells(self._codebooks[a.codebook], a))
            order = np.argsort(cells.rows, kind="stable").astype(np.int32)
            self._places[number] = cells, np.asarray(cells.rows)[order], order
        return self._places[number]
