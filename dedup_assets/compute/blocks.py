"""Groups of cells held in memory: what the join works on, built from the shards' own layout.

Pure arrays: a memory map will do for vectors, but where it came from is not known here.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit

from dedup_assets.compute.cells import offsets_of
from dedup_assets.compute.packed import PackedRows


@dataclass(frozen=True)
class CellBlock:
    """Records of a contiguous range of cells.

    Attributes
    ----------
    vectors : array (n, d), float16 or float32
        Each record once, home or ghost, in any order.
    home_offsets, home_rows : int64 (c + 1,), int32 (h,)
        Rows at home in each cell; a row is at home in at most one.
    ghost_offsets, ghost_rows : int64 (c + 1,), int32 (g,) or `PackedRows`
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
    ghost_rows: np.ndarray | PackedRows
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
        Number of each row's text.
    is_new : bool
        Whether this shard's pairs are wanted; pairs of two old shards are not.
    first_key : int
        Added to ``keys``: the same text has the same sum in every shard.
    """

    vectors: np.ndarray
    home_offsets: np.ndarray
    ghost_rows: np.ndarray
    ghost_offsets: np.ndarray
    keys: np.ndarray
    is_new: bool
    first_key: int = 0


def build_block(pieces: Sequence[ShardPiece], first_cell: int, last_cell: int, threads: int = 1) -> CellBlock:
    """Gather cells ``first_cell`` to ``last_cell`` (exclusive) of all shards into one block.

    Of each shard one contiguous slice is read (its home rows of the range), and those ghosts of the range
    whose home lies outside it, each once and in ascending order. Ghosts of old shards are left out where no
    new row is at home: only they could want them. A block that is one whole shard takes its vectors as they are,
    without a copy. The pieces must share the number of cells, dimension and dtype; so many threads take a piece each.
    """
    if not pieces:
        raise ValueError("a block needs at least one shard piece")
    shapes = {(len(p.home_offsets), len(p.ghost_offsets), p.vectors.shape[1], str(p.vectors.dtype)) for p in pieces}
    if len(shapes) != 1:
        raise ValueError(f"pieces differ in cells, dimension or dtype: {sorted(shapes)}")
    if not 0 <= first_cell <= last_cell < len(pieces[0].home_offsets):
        raise ValueError(f"cells {first_cell} to {last_cell} are outside 0 to {len(pieces[0].home_offsets) - 1}")
    wanted = new_at_home(pieces)[first_cell:last_cell]
    with ThreadPoolExecutor(max(1, min(threads, len(pieces)))) as pool:
        parts = list(pool.map(lambda piece: _Part(piece, first_cell, last_cell, wanted), pieces))
        base = np.concatenate([[0], np.cumsum([part.rows for part in parts])])
        n = int(base[-1])
        if n > np.iinfo(np.int32).max:
            raise ValueError(f"a block of {n} rows has row numbers beyond 32 bits: plan smaller groups of cells")
        home_offsets, home_cursors = _places([part.home_counts for part in parts])
        ghost_offsets, ghost_cursors = _places([part.ghost_counts for part in parts])
        home_rows = np.empty(home_offsets[-1], np.int32)
        ghost_rows = np.empty(ghost_offsets[-1], np.int32)
        is_new, keys = np.empty(n, bool), np.empty(n, np.int64)

        def lay(number: int) -> None:
            part, start = parts[number], int(base[number])
            at = slice(start, start + part.rows)
            is_new[at] = part.piece.is_new
            part.take(part.piece.keys, keys[at])
            keys[at] += part.piece.first_key
            _append_homes(start, part.home_counts, home_cursors[number], home_rows)
            part.list_ghosts(start, ghost_cursors[number], ghost_rows)

        list(pool.map(lay, range(len(parts))))
        vectors = _vectors(parts, base, pool)
    return CellBlock(vectors, home_offsets, home_rows, ghost_offsets, ghost_rows, is_new, keys)


def _places(counts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (c + 1,) of the cells, and where each part's entries begin in each of them (parts, c); all int64."""
    together = np.array(counts, np.int64)
    offsets = offsets_of(together.sum(axis=0))
    return offsets, offsets[:-1] + np.cumsum(together, axis=0) - together


def _vectors(parts: Sequence[_Part], base: np.ndarray, pool: Executor) -> np.ndarray:
    """The vectors of all parts, one after the other."""
    whole = parts[0].piece.vectors
    if len(parts) == 1 and parts[0].in_place:
        return np.asarray(whole)
    out = np.empty((base[-1], whole.shape[1]), whole.dtype)

    def copy(at: int) -> None:
        parts[at].take(parts[at].piece.vectors, out[base[at] : base[at + 1]])
        _let_go(parts[at].piece.vectors)

    list(pool.map(copy, range(len(parts))))
    return out


class _Part:
    """What a block takes of one piece: its home rows of the range, then the foreign rows listed there."""

    def __init__(self, piece: ShardPiece, first: int, last: int, wanted: np.ndarray) -> None:
        self.piece = piece
        self.low, self.high = int(piece.home_offsets[first]), int(piece.home_offsets[last])
        self.home_counts = np.diff(piece.home_offsets[first : last + 1])
        self._starts = np.asarray(piece.ghost_offsets[first:last])
        self.ghost_counts = np.diff(piece.ghost_offsets[first : last + 1])
        if not piece.is_new:
            self.ghost_counts = np.where(wanted, self.ghost_counts, 0)
        n = len(piece.vectors)
        if self.in_place:
            self._foreign = np.empty(0, np.int32)
        else:
            marks = np.zeros(n, bool)
            _mark(np.asarray(piece.ghost_rows), self._starts, self.ghost_counts, marks)
            marks[self.low : self.high] = False
            self._foreign = np.flatnonzero(marks).astype(np.int32)
        self.rows = self.high - self.low + len(self._foreign)

    @property
    def in_place(self) -> bool:
        """Whether it is all rows of the piece, in their order."""
        return self.high - self.low == len(self.piece.vectors)

    def take(self, source: np.ndarray, out: np.ndarray) -> None:
        """Copy this part's rows of an array (n, ...) of the piece."""
        inside = self.high - self.low
        out[:inside] = source[self.low : self.high]
        if len(self._foreign):
            np.take(source, self._foreign, axis=0, out=out[inside:], mode="clip")  # "raise" would copy once more

    def list_ghosts(self, start: int, cursor: np.ndarray, out: np.ndarray) -> None:
        """Append this part's ghosts to the listing of the block, in which its rows begin at ``start``."""
        place = np.empty(len(self.piece.vectors), np.int32)
        inside = self.high - self.low
        place[self.low : self.high] = np.arange(start, start + inside, dtype=np.int32)
        place[self._foreign] = np.arange(start + inside, start + self.rows, dtype=np.int32)
        _append_ghosts(np.asarray(self.piece.ghost_rows), self._starts, self.ghost_counts, place, cursor, out)
        _let_go(self.piece.ghost_rows)


def new_at_home(pieces: Sequence[ShardPiece]) -> np.ndarray:
    """Whether any new row is at home in each cell: bool (k,)."""
    fresh = np.zeros(len(pieces[0].home_offsets) - 1, bool)
    for piece in pieces:
        if piece.is_new:
            fresh |= np.diff(piece.home_offsets) > 0
    return fresh


def _let_go(array: np.ndarray) -> None:
    """Give the pages of a memory map back once they were copied; the system may keep them in its cache."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


@njit(cache=True, nogil=True)
def _append_homes(start, counts, cursor, out):
    row = start
    for cell in range(counts.shape[0]):
        for _ in range(counts[cell]):
            out[cursor[cell]] = row
            cursor[cell] += 1
            row += 1


@njit(cache=True, nogil=True)
def _append_ghosts(rows, starts, counts, place, cursor, out):
    for cell in range(counts.shape[0]):
        at, to = starts[cell], cursor[cell]
        for entry in range(counts[cell]):
            out[to + entry] = place[rows[at + entry]]
        cursor[cell] = to + counts[cell]


@njit(cache=True, nogil=True)
def new_first(rows, offsets, is_new):
    """The listing with each cell's new rows before its old ones, both in the order they had."""
    out = np.empty_like(rows)
    for cell in range(offsets.shape[0] - 1):
        at = offsets[cell]
        for wanted in (True, False):
            for entry in range(offsets[cell], offsets[cell + 1]):
                if is_new[rows[entry]] == wanted:
                    out[at] = rows[entry]
                    at += 1
    return out


@njit(cache=True, nogil=True)
def _mark(rows, starts, counts, marks):
    for cell in range(counts.shape[0]):
        for entry in range(starts[cell], starts[cell] + counts[cell]):
            marks[rows[entry]] = True
