"""Which rows are compared with which on a device: listings of cells, split into smaller ones where they do not fit.

It works on row numbers and reads no vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from dedup_assets.compute.blocks import new_first
from dedup_assets.compute.cells import offsets_of
from dedup_assets.later import torch

LISTED_AT_ONCE = 1 << 22
"""Entries of a listing sent to the device at a time: 16 MB."""

LEAST_ROWS = 1024
"""A listing of this many rows is not split further: with sketches and one tile of products it takes a few megabytes."""


@dataclass(frozen=True)
class CellCounts:
    """Position and number of each cell's rows in the list: int64 (k,) each.

    A cell's homes come before its ghosts; in both, new rows come first.
    """

    first: np.ndarray
    homes: np.ndarray
    new_homes: np.ndarray
    ghosts: np.ndarray
    new_ghosts: np.ndarray

    @property
    def pairs(self) -> np.ndarray:
        """Number of pairs that each cell compares, int64 (k,)."""
        old = self.homes - self.new_homes
        return self.new_homes * (self.homes + self.ghosts) + old * self.new_ghosts

    def without(self, cells: np.ndarray) -> CellCounts:
        """The counts with the given cells emptied."""
        kept = np.ones(len(self.first), np.int64)
        kept[cells] = 0
        return CellCounts(
            self.first, self.homes * kept, self.new_homes * kept, self.ghosts * kept, self.new_ghosts * kept
        )


@dataclass(frozen=True)
class Listing:
    """Cells as `blocks.CellBlock` lists them: homes and ghosts of each, and which rows are new.

    Attributes
    ----------
    home_offsets, home_rows, ghost_offsets, ghost_rows : int64 (c + 1,), int32 (h,), int64 (c + 1,), int32 (g,)
    is_new : bool (n,)
        For all rows of the block.
    first_cell : int
        Number of the first cell in the block.
    among_homes : bool
        Whether the homes of a cell are compared with each other, or with its ghosts alone.
    is_part : bool
        Whether the listing is part of one cell.
    """

    home_offsets: np.ndarray
    home_rows: np.ndarray
    ghost_offsets: np.ndarray
    ghost_rows: np.ndarray
    is_new: np.ndarray
    first_cell: int = 0
    among_homes: bool = True
    is_part: bool = False

    @property
    def cells(self) -> int:
        """How many."""
        return len(self.home_offsets) - 1

    @property
    def entries(self) -> int:
        """Number of entries; a row counts once for each listing."""
        return len(self.home_rows) + len(self.ghost_rows)

    def rows(self) -> np.ndarray:
        """Numbers of the rows that are listed, ascending, int64."""
        marks = np.zeros(len(self.is_new), bool)
        marks[self.home_rows] = True
        marks[self.ghost_rows] = True
        return np.flatnonzero(marks)

    def of_rows(self, rows: np.ndarray) -> Listing:
        """The same listing with rows renumbered by their position in ``rows``, which contains all listed rows."""
        place = np.zeros(len(self.is_new), np.int32)
        place[rows] = np.arange(len(rows), dtype=np.int32)
        return replace(
            self,
            home_rows=place[self.home_rows],
            ghost_rows=place[self.ghost_rows],
            is_new=self.is_new[rows],
        )

    def of_cells(self, first: int, last: int) -> Listing:
        """The listing of cells ``first`` to ``last`` (exclusive)."""
        homes, ghosts = self.home_offsets[first : last + 1], self.ghost_offsets[first : last + 1]
        return replace(
            self,
            home_offsets=homes - homes[0],
            home_rows=self.home_rows[homes[0] : homes[-1]],
            ghost_offsets=ghosts - ghosts[0],
            ghost_rows=self.ghost_rows[ghosts[0] : ghosts[-1]],
            first_cell=self.first_cell + first,
        )

    def halves(self) -> list[Listing] | None:
        """Smaller listings that together compare the same pairs; None where the listing is too small to split.

        Cells are separated first. The homes of a single cell are split into A and B: A with A, B with B, A with B, and
        all with the ghosts. Where two sides are compared with each other, the longer one is split.
        """
        if self.cells > 1:
            listed = self.home_offsets + self.ghost_offsets
            middle = int(np.searchsorted(listed, listed[-1] // 2, side="right")) - 1
            middle = min(max(middle, 1), self.cells - 1)
            return [self.of_cells(0, middle), self.of_cells(middle, self.cells)]
        if self.entries <= LEAST_ROWS:
            return None
        homes, ghosts, none = self.home_rows, self.ghost_rows, self.home_rows[:0]
        if not self.among_homes:
            if len(homes) >= len(ghosts):
                return [self._of(part, ghosts, False) for part in _parted(homes)]
            return [self._of(homes, part, False) for part in _parted(ghosts)]
        one, two = _parted(homes)
        parts = [self._of(one, none, True), self._of(two, none, True), self._of(one, two, False)]
        return [*parts, self._of(homes, ghosts, False)] if len(ghosts) else parts

    def _of(self, homes: np.ndarray, ghosts: np.ndarray, among_homes: bool) -> Listing:
        """A listing of one cell with the given rows."""
        return replace(
            self,
            home_offsets=np.array([0, len(homes)], np.int64),
            home_rows=homes,
            ghost_offsets=np.array([0, len(ghosts)], np.int64),
            ghost_rows=ghosts,
            among_homes=among_homes,
            is_part=True,
        )


def _parted(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def placed(listing: Listing, device: str, padding: int) -> tuple[torch.Tensor, CellCounts]:
    """Row numbers by position on the device, int32, and the position of each cell among them.

    For each cell the homes come first, then the ghosts; in both, new rows come first. `LISTED_AT_ONCE` entries are sent
    at a time; ``padding`` positions after the last hold row 0.
    """
    homes, new_homes = _new_first(listing.home_offsets, listing.home_rows, listing.is_new)
    ghosts, new_ghosts = _new_first(listing.ghost_offsets, listing.ghost_rows, listing.is_new)
    home_counts, ghost_counts = np.diff(listing.home_offsets), np.diff(listing.ghost_offsets)
    offsets = offsets_of(home_counts + ghost_counts)
    n = int(offsets[-1])
    listed = torch.zeros(n + padding, dtype=torch.int32, device=device)
    part = torch.empty(min(n, LISTED_AT_ONCE), dtype=torch.int32)
    for start in range(0, n, LISTED_AT_ONCE):
        stop = min(start + LISTED_AT_ONCE, n)
        cell = int(np.searchsorted(offsets, start, side="right")) - 1
        _lay(homes, listing.home_offsets, ghosts, listing.ghost_offsets, offsets, cell, start, stop, part.numpy())
        listed[start:stop] = part[: stop - start]  # pageable memory: the copy is complete when the call returns
    return listed, CellCounts(offsets[:-1], home_counts, new_homes, ghost_counts, new_ghosts)


def _new_first(offsets: np.ndarray, rows: np.ndarray, is_new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The listing with each cell's new rows before its old rows, and the number of new ones."""
    rows = np.ascontiguousarray(rows, np.int32)
    if is_new.all():
        return rows, np.diff(offsets)
    return new_first(rows, offsets, is_new), _count_new(rows, offsets, is_new)


@njit(cache=True, nogil=True)
def _count_new(rows, offsets, is_new):
    counts = np.zeros(offsets.shape[0] - 1, np.int64)
    for cell in range(counts.shape[0]):
        for at in range(offsets[cell], offsets[cell + 1]):
            counts[cell] += is_new[rows[at]]
    return counts


@njit(cache=True, nogil=True)
def _lay(homes, home_offsets, ghosts, ghost_offsets, offsets, cell, start, stop, out):
    """Write positions ``start`` to ``stop`` of the list, which begin in ``cell``."""
    position = start
    while position < stop:
        while offsets[cell + 1] <= position:
            cell += 1
        within = position - offsets[cell]
        count = home_offsets[cell + 1] - home_offsets[cell]
        if within < count:
            source, at, end = homes, home_offsets[cell] + within, offsets[cell] + count
        else:
            source, at, end = ghosts, ghost_offsets[cell] + within - count, offsets[cell + 1]
        length = min(end, stop) - position
        out[position - start : position - start + length] = source[at : at + length]
        position += length
