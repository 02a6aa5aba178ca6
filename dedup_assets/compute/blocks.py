"""Groups of cells held in memory: what the join works on, built from the shards' own layout.

Pure arrays: a memory map will do for vectors, but where it came from is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from dedup_assets.compute.cells import offsets_of


@dataclass(frozen=True)
class CellBlock:
    """Records of a contiguous range of cells.

    Attributes
    ----------
    vectors : array (n, d), float16 or float32
        Each record once, home or ghost, in any order.
    home_offsets, home_rows : int64 (c + 1,), int32 (h,)
        Rows at home in each cell; a row is at home in at most one.
    ghost_offsets, ghost_rows : int64 (c + 1,), int32 (g,)
        Rows listed as ghosts of each cell; never at home in the same cell.
    is_new : bool (n,)
        Only pairs with at least one new record are wanted.
    keys : int64 (n,), optional
        Global numbers of the rows.
    """

    vectors: np.ndarray
    home_offsets: np.ndarray
    home_rows: np.ndarray
    ghost_offsets: np.ndarray
    ghost_rows: np.ndarray
    is_new: np.ndarray
    keys: np.ndarray | None = None

    @property
    def cells(self) -> int:
        """Number of cells in the block."""
        return len(self.home_offsets) - 1


@dataclass(frozen=True)
class ShardPiece:
    """One shard as it is laid out for the join, under one codebook of k cells.

    Attributes
    ----------
    vectors : array or memory map (n, d), float16 or float32
        Sorted by home cell.
    home_offsets : int64 (k + 1,)
        Rows ``home_offsets[c]:home_offsets[c + 1]`` are at home in cell c.
    ghost_rows, ghost_offsets : int32 (g,), int64 (k + 1,)
        Rows of this shard listed as ghosts, cell after cell.
    keys : int64 (n,)
        Global number of each row's text; the same text has the same key in every shard.
    is_new : bool
        Whether this shard's pairs are wanted; pairs of two old shards are not.
    """

    vectors: np.ndarray
    home_offsets: np.ndarray
    ghost_rows: np.ndarray
    ghost_offsets: np.ndarray
    keys: np.ndarray
    is_new: bool


def build_block(pieces: Sequence[ShardPiece], first_cell: int, last_cell: int) -> CellBlock:
    """Gather cells ``first_cell`` to ``last_cell`` (exclusive) of all shards into one block.

    Of each shard one contiguous slice is read (its home rows of the range), and those ghosts of the range
    whose home lies outside it, each once and in ascending order. The pieces must share the number of cells,
    dimension and dtype.
    """
    if not pieces:
        raise ValueError("a block needs at least one shard piece")
    cells = last_cell - first_cell
    shapes = {(len(p.home_offsets), len(p.ghost_offsets), p.vectors.shape[1], str(p.vectors.dtype)) for p in pieces}
    if len(shapes) != 1:
        raise ValueError(f"pieces differ in cells, dimension or dtype: {sorted(shapes)}")
    if not 0 <= first_cell <= last_cell < len(pieces[0].home_offsets):
        raise ValueError(f"cells {first_cell} to {last_cell} are outside 0 to {len(pieces[0].home_offsets) - 1}")
    vectors, keys, fresh, homes, ghosts = [], [], [], [], []
    base = 0
    for piece in pieces:
        low, high = int(piece.home_offsets[first_cell]), int(piece.home_offsets[last_cell])
        at = slice(int(piece.ghost_offsets[first_cell]), int(piece.ghost_offsets[last_cell]))
        listed = np.asarray(piece.ghost_rows[at])
        foreign = _distinct(listed[(listed < low) | (listed >= high)], len(piece.vectors))
        inside = high - low
        local = np.where((listed >= low) & (listed < high), listed - low, inside + np.searchsorted(foreign, listed))
        vectors += [np.asarray(piece.vectors[low:high]), np.asarray(piece.vectors[foreign])]
        keys += [piece.keys[low:high], piece.keys[foreign]]
        fresh.append(np.full(inside + len(foreign), piece.is_new))
        homes.append((np.arange(base, base + inside), piece.home_offsets[first_cell : last_cell + 1]))
        ghosts.append((base + local, piece.ghost_offsets[first_cell : last_cell + 1]))
        base += inside + len(foreign)
    home_offsets, home_rows = _by_cell(homes, cells)
    ghost_offsets, ghost_rows = _by_cell(ghosts, cells)
    return CellBlock(
        np.concatenate(vectors),
        home_offsets,
        home_rows,
        ghost_offsets,
        ghost_rows,
        np.concatenate(fresh),
        np.concatenate(keys).astype(np.int64),
    )


def _distinct(rows: np.ndarray, n: int) -> np.ndarray:
    """Distinct row numbers, ascending; by marking where that is cheaper than sorting."""
    if len(rows) * 8 < n:
        return np.unique(rows)
    seen = np.zeros(n, bool)
    seen[rows] = True
    return np.flatnonzero(seen).astype(rows.dtype)


def _by_cell(parts: list, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge per-shard listings (rows, offsets of the range) into one listing by cell, shard after shard."""
    counts = sum((np.diff(offsets) for _, offsets in parts), np.zeros(cells, np.int64))
    offsets = offsets_of(counts)
    out = np.empty(offsets[-1], np.int32)
    cursor = offsets[:-1].copy()
    for rows, own in parts:
        _append(np.ascontiguousarray(rows, dtype=np.int64), np.diff(own).astype(np.int64), cursor, out)
    return offsets, out


@njit(cache=True, nogil=True)
def _append(rows, counts, cursor, out):
    at = 0
    for cell in range(counts.shape[0]):
        for _ in range(counts[cell]):
            out[cursor[cell]] = rows[at]
            cursor[cell] += 1
            at += 1


def plan_groups(
    home_counts: np.ndarray,
    listed_counts: np.ndarray,
    bytes_per_row: int,
    max_bytes: int,
    min_groups: int = 1,
) -> list[tuple[int, int]]:
    """Cut the cells into contiguous groups of like cost that fit in memory.

    Parameters
    ----------
    home_counts, listed_counts : integer arrays (k,)
        Home rows of each cell, and all rows listed in it (home and ghosts), over all shards.
    bytes_per_row : int
        Memory of one row in a block: its vector, its sketch and bookkeeping.
    max_bytes : int
        Bound of one block, counting every listed row (an upper bound: shared ghosts are held once). A single
        cell above it becomes a group of its own.
    min_groups : int
        Groups wanted at least, so that every worker has some; fewer where there are fewer cells.

    Returns
    -------
    list of (first, last)
        Covers 0 to k without gaps; cost of a cell is home × listed.
    """
    home = np.asarray(home_counts, dtype=np.float64)
    listed = np.asarray(listed_counts, dtype=np.float64)
    k = len(home)
    if len(listed) != k:
        raise ValueError(f"counts of one length expected, found {k} and {len(listed)}")
    cost = home * listed + listed  # the second term stands for reading the rows
    target = cost.sum() / max(1, min(min_groups, k))
    groups: list[tuple[int, int]] = []
    first, spent, held = 0, 0.0, 0.0
    for cell in range(k):
        size = listed[cell] * bytes_per_row
        # Half the cell's cost decides on which side of the cut it is nearer to the target.
        if cell > first and (held + size > max_bytes or spent + cost[cell] / 2 > target):
            groups.append((first, cell))
            first, spent, held = cell, 0.0, 0.0
        spent += cost[cell]
        held += size
    if k > first:
        groups.append((first, k))
    return groups
