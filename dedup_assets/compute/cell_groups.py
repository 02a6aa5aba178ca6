"""Which cells are joined together: groups as large as memory allows, and enough of them for all workers.

It uses the listings of rows by cell; it reads no vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from dedup_assets.compute.blocks import ShardPiece, new_at_home

SKETCH_BYTES = 256 + 8 + 8 + 4 + 4 + 1
"""Bytes of a row of a block besides its vector: sketch, squared norm, key, two places, and whether it is new."""

LISTING_BYTES = 8
"""Bytes of a ghost of a block: its row number, twice while new rows are put before old ones."""


class CellGroup(NamedTuple):
    """Cells ``first`` to ``last`` (exclusive), and the pairs to compare in them plus the rows to list."""

    first: int
    last: int
    cost: float


def plan_groups(pieces: Sequence[ShardPiece], max_bytes: int, min_groups: int = 1) -> list[CellGroup]:
    """Split the cells into contiguous groups of similar cost that fit in memory.

    Neighbouring cells list the same rows, so larger groups gather fewer rows in total; there are no more groups than
    memory and workers require.

    Parameters
    ----------
    pieces : sequence of ShardPiece
        Their vectors are not read.
    max_bytes : int
        Bound of one block, where each row counts once. A single larger cell becomes a separate group.
    min_groups : int
        Minimum number of groups, so that every worker has some; fewer where there are fewer cells.

    Returns
    -------
    list of CellGroup
        Together they cover all cells that have pairs to compare. The costliest come first, so that workers finish at
        about the same time.
    """
    if not pieces:
        return []
    k = len(pieces[0].home_offsets) - 1
    wanted = new_at_home(pieces)
    home, ghosts, listed = np.zeros(k), np.zeros(k), np.zeros(k)
    new_home, new_ghosts = np.zeros(k), np.zeros(k)
    for piece in pieces:
        own_homes, own_ghosts = np.diff(piece.home_offsets), np.diff(piece.ghost_offsets)
        home += own_homes
        ghosts += own_ghosts
        listed += own_ghosts if piece.is_new else own_ghosts * wanted
        if piece.is_new:
            new_home += own_homes
            new_ghosts += own_ghosts
    pairs = new_home * (home + ghosts) + (home - new_home) * new_ghosts
    if not pairs.any():
        return []
    cost = pairs + home + listed  # the last terms stand for reading the rows
    row_bytes = SKETCH_BYTES + pieces[0].vectors.shape[1] * pieces[0].vectors.dtype.itemsize
    target = cost.sum() / max(1, min(min_groups, k))
    held = _everything if _bytes(home.sum(), listed.sum(), row_bytes) <= max_bytes else _counter(pieces, wanted)
    groups: list[CellGroup] = []
    first, spent, rows, entries = 0, 0.0, 0, 0.0
    for cell in range(k):
        more = held(cell, False)
        full = _bytes(rows + more, entries + listed[cell], row_bytes) > max_bytes
        # Half the cell's cost decides on which side of the cut it is nearer to the target.
        if cell > first and (full or spent + cost[cell] / 2 > target):
            groups.append(CellGroup(first, cell, spent))
            first, spent, rows, entries = cell, 0.0, 0, 0.0
            more = held(cell, True)
        spent += float(cost[cell])
        rows += more
        entries += listed[cell]
    groups.append(CellGroup(first, k, spent))
    return sorted((group for group in groups if pairs[group.first : group.last].any()), key=lambda g: -g.cost)


def _bytes(rows: float, listed: float, row_bytes: int) -> float:
    return rows * row_bytes + listed * LISTING_BYTES


def _everything(cell: int, starts: bool) -> int:
    """Stands in for the counter where all rows fit in one block and need no count."""
    return 0


def _counter(pieces: Sequence[ShardPiece], wanted: np.ndarray) -> Callable[[int, bool], int]:
    """Counts the rows that a cell adds to a group: those at home or listed in it and in no cell of the group before.

    Called cell after cell; the second argument says that a group starts with the cell.
    """
    seen = [np.full(len(piece.vectors), -1, np.int32) for piece in pieces]
    group = 0

    def added(cell: int, starts: bool) -> int:
        nonlocal group
        group += starts
        count = 0
        for piece, marks in zip(pieces, seen, strict=True):
            low, high = int(piece.home_offsets[cell]), int(piece.home_offsets[cell + 1])
            count += int(np.count_nonzero(marks[low:high] != group))
            marks[low:high] = group
            if piece.is_new or wanted[cell]:
                at = slice(int(piece.ghost_offsets[cell]), int(piece.ghost_offsets[cell + 1]))
                count += _count_unseen(np.asarray(piece.ghost_rows[at]), group, marks)
        return count

    return added


@njit(cache=True, nogil=True)
def _count_unseen(rows, group, seen):
    count = 0
    for at in range(rows.shape[0]):
        if seen[rows[at]] != group:
            seen[rows[at]] = group
            count += 1
    return count
