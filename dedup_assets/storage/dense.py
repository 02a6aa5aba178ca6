"""The texts of dense cells, read from the cells on disk: what stands for the matches that are not listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dedup_assets.compute.dense import DenseCell, merge_cells
from dedup_assets.storage.cells import ShardCells
from dedup_assets.storage.ledger import Admission, Codebook
from dedup_assets.storage.shards import admission_of, row_of, text_keys
from dedup_assets.storage.workspace import Workspace


class DenseTexts:
    """Dense cells of a batch of shards, with all texts they list, and the vectors of these.

    Parameters
    ----------
    workspace : Workspace
    dense_cells : mapping
        For each admission of the batch, its dense cells under the codebook it was admitted under.
    """

    def __init__(self, workspace: Workspace, dense_cells: Mapping[Admission, Sequence[int]]) -> None:
        self._workspace = workspace
        self._dense = {a: cells for a, cells in dense_cells.items() if cells}
        admissions, codebooks = workspace.ledger.admissions(), workspace.ledger.codebooks()
        # The matches of a shard are with all admitted before it, so those are listed with it under its codebook.
        self._visible: dict[int, list[Admission]] = {}
        self._cells: dict[int, list[int]] = {}
        for a, cells in self._dense.items():
            self._visible[a.codebook] = [b for b in admissions if b.number <= a.number]
            self._cells[a.codebook] = sorted({*self._cells.get(a.codebook, ()), *cells})
        last = max((a.number for a in self._dense), default=0)
        self._admissions = {b.number: b for b in admissions if b.number <= last}
        self._codebooks = codebooks
        self._places: dict[int, tuple[ShardCells, np.ndarray, np.ndarray]] = {}

    def cells(self) -> list[DenseCell]:
        """The dense cells, members as text keys; those that share most texts as one."""
        found: list[DenseCell] = []
        for number in sorted(self._cells):
            codebook = self._codebooks[number]
            found += merge_cells(self._of_codebook(codebook, self._visible[number], self._cells[number]))
        return found

    def _of_codebook(self, codebook: Codebook, visible: Sequence[Admission], cells: Sequence[int]) -> list[DenseCell]:
        homes: list[list[np.ndarray]] = [[] for _ in cells]
        ghosts: list[list[np.ndarray]] = [[] for _ in cells]
        for a in visible:
            shard = ShardCells.read(self._workspace.cells(codebook, a))
            rows = np.asarray(shard.rows)
            for at, c in enumerate(cells):
                homes[at].append(text_keys(a.number, rows[shard.home_offsets[c] : shard.home_offsets[c + 1]]))
                listed = shard.ghost_rows[shard.ghost_offsets[c] : shard.ghost_offsets[c + 1]]
                ghosts[at].append(text_keys(a.number, rows[listed]))
        return [DenseCell.of(np.concatenate(h), np.concatenate(g)) for h, g in zip(homes, ghosts, strict=True)]

    def vectors(self, keys: np.ndarray) -> np.ndarray:
        """Stored vectors (m, d) of texts of the dense cells, in the order of the keys."""
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
        """A shard's cells as it was admitted, its rows in order, and where each lies among the vectors."""
        if number not in self._places:
            a = self._admissions[number]
            cells = ShardCells.read(self._workspace.cells(self._codebooks[a.codebook], a))
            order = np.argsort(cells.rows, kind="stable").astype(np.int32)
            self._places[number] = cells, np.asarray(cells.rows)[order], order
        return self._places[number]
