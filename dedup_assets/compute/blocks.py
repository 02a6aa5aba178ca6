"""Groups of cells in memory: the join's input, gathered from the layouts of the shards.

Arrays only. Vectors may be a memory map; this module does not know its file.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock

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
    """One shard in the layout of the join, under one codebook of k cells.

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

    Of each shard one contiguous slice is read (its home rows of the range), and those ghosts of the range whose home
    lies outside it, each once and in ascending order. Ghosts of old shards are left out where no new row is at home,
    because only new rows are compared with them. A block that is one whole shard takes its vectors as they are, without
    a copy. The pieces must share the number of cells, dimension and dtype.
    """
    if not pieces:
        raise ValueError("a block needs at least one shard piece")
    shapes = {(len(p.home_offsets), len(p.ghost_offsets), p.vectors.shape[1], str(p.vectors.dtype)) for p in pieces}
    if len(shapes) != 1:
        raise ValueError(f"pieces differ in cells, dimension or dtype: {sorted(shapes)}")
    if not 0 <= first_cell <= last_cell < len(pieces[0].home_offsets):
        raise ValueError(f"cells {first_cell} to {last_cell} are outside 0 to {len(pieces[0].home_offsets) - 1}")
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return _gathered(pieces, first_cell, last_cell, partial(_in_slices, pool, max(1, threads)))


def _gathered(pieces: Sequence[ShardPiece], first_cell: int, last_cell: int, in_slices: Slices) -> CellBlock:
    wanted = new_at_home(pieces)[first_cell:last_cell]
    parts = [_Part(piece, first_cell, last_cell, wanted, in_slices) for piece in pieces]
    base = np.concatenate([[0], np.cumsum([part.rows for part in parts])])
    n = int(base[-1])
    if n > np.iinfo(np.int32).max:
        raise ValueError(f"a block of {n} rows has row numbers beyond 32 bits: plan smaller groups of cells")
    home_offsets = offsets_of(sum((part.home_counts for part in parts), np.zeros(len(wanted), np.int64)))
    ghost_offsets = offsets_of(sum((part.ghost_counts for part in parts), np.zeros(len(wanted), np.int64)))
    home_rows = np.empty(home_offsets[-1], np.int32)
    ghost_rows = np.empty(ghost_offsets[-1], np.int32)
    is_new, keys = np.empty(n, bool), np.empty(n, np.int64)
    home_cursor, ghost_cursor = home_offsets[:-1].copy(), ghost_offsets[:-1].copy()
    for part, start in zip(parts, base[:-1], strict=True):
        at = slice(start, start + part.rows)
        is_new[at] = part.piece.is_new
        part.take(part.piece.keys, keys[at])
        keys[at] += part.piece.first_key
        _append_homes(int(start), part.home_counts, home_cursor, home_rows)
        part.list_ghosts(int(start), ghost_cursor, ghost_rows, in_slices)
    return CellBlock(_vectors(parts, base, in_slices), home_offsets, home_rows, ghost_offsets, ghost_rows, is_new, keys)


Slices = Callable[[np.ndarray, int, Callable[[int, int], None]], None]


def _in_slices(
    pool: ThreadPoolExecutor, threads: int, offsets: np.ndarray, least: int, work: Callable[[int, int], None]
) -> None:
    """Run some work on contiguous slices of items in parallel, one slice for each thread.

    ``offsets`` (items + 1,) says how much of the work comes before each item; no slice has less than ``least`` of it,
    so that a slice is worth the start of a thread.
    """
    total = int(offsets[-1] - offsets[0])
    slices = min(threads, max(1, total // least))
    if slices == 1:
        work(0, len(offsets) - 1)
        return
    cuts = np.searchsorted(offsets, offsets[0] + np.arange(1, slices) * (total / slices)).tolist()
    bounds = [0, *cuts, len(offsets) - 1]
    list(pool.map(work, bounds[:-1], bounds[1:]))


LISTED_APART = 1 << 18
"""Ghosts from which a separate thread is worth its start: a few milliseconds of work."""

ROWS_APART = 1 << 14
"""Rows that are copied together."""


def _vectors(parts: Sequence[_Part], base: np.ndarray, in_slices: Slices) -> np.ndarray:
    """The vectors of all parts, one after the other."""
    whole = parts[0].piece.vectors
    if len(parts) == 1 and parts[0].in_place:
        return np.asarray(whole)
    out = np.empty((base[-1], whole.shape[1]), whole.dtype)
    chunks = [
        (number, first, min(first + ROWS_APART, part.rows))
        for number, part in enumerate(parts)
        for first in range(0, part.rows, ROWS_APART)
    ]

    left = Counter(number for number, _, _ in chunks)
    counting = Lock()

    def copy(first: int, last: int) -> None:
        for at in range(first, last):
            number, start, stop = chunks[at]
            part = parts[number]
            part.take(part.piece.vectors, out[base[number] + start : base[number] + stop], start)
            with counting:
                left[number] -= 1
                finished = not left[number]
            if finished:
                _release_pages(part.piece.vectors)

    in_slices(offsets_of(np.array([stop - start for _, start, stop in chunks], np.int64)), ROWS_APART, copy)
    return out


class _Part:
    """What a block takes of one piece: its home rows of the range, then the foreign rows listed there."""

    def __init__(self, piece: ShardPiece, first: int, last: int, wanted: np.ndarray, in_slices: Slices) -> None:
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
            marks, listed = np.zeros(n, bool), np.asarray(piece.ghost_rows)

            def mark(first: int, last: int) -> None:
                _mark(listed, self._starts[first:last], self.ghost_counts[first:last], marks)

            in_slices(offsets_of(self.ghost_counts), LISTED_APART, mark)
            marks[self.low : self.high] = False
            self._foreign = np.flatnonzero(marks).astype(np.int32)
        self.rows = self.high - self.low + len(self._foreign)

    @property
    def in_place(self) -> bool:
        """Whether it is all rows of the piece, in their order."""
        return self.high - self.low == len(self.piece.vectors)

    def take(self, source: np.ndarray, out: np.ndarray, first: int = 0) -> None:
        """Copy this part's rows of an array (n, ...) of the piece, from the ``first`` on as many as are wanted."""
        inside = max(0, min(self.high - self.low - first, len(out)))
        out[:inside] = source[self.low + first : self.low + first + inside]
        if inside < len(out):
            start = first + inside - (self.high - self.low)
            foreign = self._foreign[start : start + len(out) - inside]
            np.take(source, foreign, axis=0, out=out[inside:], mode="clip")  # "raise" would copy once more

    def list_ghosts(self, start: int, cursor: np.ndarray, out: np.ndarray, in_slices: Slices) -> None:
        """Append this part's ghosts to the listing of the block, in which its rows begin at ``start``."""
        place = np.empty(len(self.piece.vectors), np.int32)
        inside = self.high - self.low
        place[self.low : self.high] = np.arange(start, start + inside, dtype=np.int32)
        place[self._foreign] = np.arange(start + inside, start + self.rows, dtype=np.int32)
        listed = np.asarray(self.piece.ghost_rows)

        def append(first: int, last: int) -> None:
            at = slice(first, last)
            _append_ghosts(listed, self._starts[at], self.ghost_counts[at], place, cursor[at], out)

        in_slices(offsets_of(self.ghost_counts), LISTED_APART, append)
        _release_pages(self.piece.ghost_rows)


def new_at_home(pieces: Sequence[ShardPiece]) -> np.ndarray:
    """Whether any new row is at home in each cell: bool (k,)."""
    fresh = np.zeros(len(pieces[0].home_offsets) - 1, bool)
    for piece in pieces:
        if piece.is_new:
            fresh |= np.diff(piece.home_offsets) > 0
    return fresh


def _release_pages(array: np.ndarray) -> None:
    """Release the pages of a memory map after they were copied; the system may keep them in its cache."""
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
