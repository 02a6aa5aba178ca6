"""Listings of ascending row numbers in about one byte each, with the interface of an array.

A million rows with 43 ghosts each take 44 bytes a row instead of 172. The ghosts of a cell are close together among the
rows, so the differences between consecutive row numbers are stored, in groups of seven bits, lowest first; the eighth
bit says that more follow (LEB128).
"""

from __future__ import annotations

import numpy as np
from numba import njit


class PackedRows:
    """Read-only listing int32 (m,): a slice is an array, and ``np.asarray`` unpacks all of it.

    Attributes
    ----------
    offsets : int64 (k + 1,)
        The rows of cell c are ``packed[offsets[c]:offsets[c + 1]]``, ascending.
    """

    def __init__(self, offsets: np.ndarray, starts: np.ndarray, codes: np.ndarray) -> None:
        self.offsets, self._starts, self._codes = offsets, starts, codes

    @staticmethod
    def of(parts: list[tuple[np.ndarray, np.ndarray] | None], first_rows: range, k: int) -> PackedRows:
        """Pack listings in row order; ``parts`` is emptied to save memory.

        Parameters
        ----------
        parts : list of (counts, cells)
            Number of entries of each row, and their cells, row after row; rows of part p are numbered from
            ``first_rows[p]``.
        k : int
            Number of cells.
        """
        entries, sizes = np.zeros(k, np.int64), np.zeros(k, np.int64)
        last = np.full(k, -1, np.int64)
        for part, first in zip(parts, first_rows, strict=True):
            assert part is not None
            _measure(*part, first, last, entries, sizes)
        offsets, starts = np.zeros(k + 1, np.int64), np.zeros(k + 1, np.int64)
        np.cumsum(entries, out=offsets[1:])
        np.cumsum(sizes, out=starts[1:])
        codes = np.empty(int(starts[-1]), np.uint8)
        cursor = starts[:-1].copy()
        last[:] = -1
        for at, first in enumerate(first_rows):
            part, parts[at] = parts[at], None
            assert part is not None
            _pack(*part, first, last, cursor, codes)
        return PackedRows(offsets, starts, codes)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._codes.nbytes + self.offsets.nbytes + self._starts.nbytes

    def __getitem__(self, entries: slice) -> np.ndarray:
        first, last, step = entries.indices(len(self))
        if step != 1:
            raise IndexError(f"entries come in their order, one after the other: found a step of {step}")
        out = np.empty(max(0, last - first), np.int32)
        _unpack(self._codes, self._starts, self.offsets, first, out)
        return out

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("packed rows cannot be given as an array without a copy")
        return self[:] if dtype is None else self[:].astype(dtype)


@njit(cache=True, nogil=True)
def _measure(counts, cells, first_row, last, entries, sizes):
    """Add up entries and bytes of each cell; ``last`` holds its last row so far."""
    at = 0
    for row in range(first_row, first_row + counts.shape[0]):
        for _ in range(counts[row - first_row]):
            cell = cells[at]
            gap = row - last[cell] - 1
            last[cell] = row
            entries[cell] += 1
            sizes[cell] += 1
            while gap > 127:
                sizes[cell] += 1
                gap >>= 7
            at += 1


@njit(cache=True, nogil=True)
def _pack(counts, cells, first_row, last, cursor, codes):
    at = 0
    for row in range(first_row, first_row + counts.shape[0]):
        for _ in range(counts[row - first_row]):
            cell = cells[at]
            gap = row - last[cell] - 1
            last[cell] = row
            place = cursor[cell]
            while gap > 127:
                codes[place] = np.uint8((gap & 127) | 128)
                place += 1
                gap >>= 7
            codes[place] = np.uint8(gap)
            cursor[cell] = place + 1
            at += 1


@njit(cache=True, nogil=True)
def _unpack(codes, starts, offsets, first, out):
    """Entries ``first`` on, as many as ``out`` has room for."""
    if out.shape[0] == 0:
        return
    cell = np.searchsorted(offsets, first, side="right") - 1
    before = first - offsets[cell]  # entries of the cell to skip
    place = starts[cell]
    written = 0
    while written < out.shape[0]:
        row = np.int64(-1)
        for _ in range(min(offsets[cell + 1] - offsets[cell], before + out.shape[0] - written)):
            code = np.int64(codes[place])
            place += 1
            gap = code & 127
            shift = 7
            while code > 127:
                code = np.int64(codes[place])
                place += 1
                gap |= (code & 127) << shift
                shift += 7
            row += gap + 1
            if before > 0:
                before -= 1
            else:
                out[written] = row
                written += 1
        cell += 1
