"""The texts of dense cells, read from the cells on disk; they replace the matches that are not listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dedup_assets.compute.dense import DenseCell, merge_cells
from dedup_assets.storage.cells import ShardCells
from dedup_assets.storage.ledger import Admission, Codebook
from dedup_assets.storage.shards import text_keys
from dedup_assets.storage.workspace import Workspace


def dense_cells(
    workspace: Workspace, dense: Mapping[Admission, Sequence[int]], visible: Sequence[Admission]
) -> list[DenseCell]:
    """The dense cells of a batch of shards with the keys of all texts they list; cells that share most texts are
    merged.

    Parameters
    ----------
    workspace : Workspace
    dense : mapping
        For each admission of the batch, its dense cells in the codebook of the admission.
    visible : sequence of Admission
        The admissions that introduced the texts of the corpus.
    """
    codebooks = workspace.ledger.codebooks()
    # A shard is matched with all shards admitted before it, so these are listed with it in its codebook.
    last: dict[int, int] = {}
    cells: dict[int, set[int]] = {}
    for a, named in dense.items():
        if named:
            last[a.codebook] = max(a.number, last.get(a.codebook, 0))
            cells.setdefault(a.codebook, set()).update(named)
    found: list[DenseCell] = []
    for number in sorted(cells):
        listed = [a for a in visible if a.number <= last[number]]
        found += merge_cells(_of_codebook(workspace, codebooks[number], listed, sorted(cells[number])))
    return found


def _of_codebook(
    workspace: Workspace, codebook: Codebook, listed: Sequence[Admission], cells: Sequence[int]
) -> list[DenseCell]:
    homes: list[list[np.ndarray]] = [[] for _ in cells]
    ghosts: list[list[np.ndarray]] = [[] for _ in cells]
    for a in listed:
        shard = ShardCells.read(workspace.cells(codebook, a))
        rows = np.asarray(shard.rows)
        for at, c in enumerate(cells):
            homes[at].append(text_keys(a.number, rows[shard.home_offsets[c] : shard.home_offsets[c + 1]]))
            ghost_rows = shard.ghost_rows[shard.ghost_offsets[c] : shard.ghost_offsets[c + 1]]
            ghosts[at].append(text_keys(a.number, rows[ghost_rows]))
    return [DenseCell.of(np.concatenate(h), np.concatenate(g)) for h, g in zip(homes, ghosts, strict=True)]
