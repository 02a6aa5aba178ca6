"""Home cells and half-angle ghosts: which rows must be compared, so that no match is missed.

It takes vectors, centroids and a floor; it has no notion of shards or files. The theorem makes the join exact.

Theorem
-------
Let c_1 … c_k be any vectors (not necessarily unit, distinct or good) and let every non-zero row x have any
home cell h(x). With s = sqrt((1 - floor)/2) = sin(θ/2), θ = arccos(floor), list x as a ghost in every cell
j ≠ h(x) for which, with i = h(x),

    x·(c_i - c_j) <= s·‖c_i - c_j‖·‖x‖.                                                    (1)

Then each pair x, y with cos(x, y) >= floor shares its home cell, or x is a ghost in h(y), or y is in h(x).

Proof. Let i = h(x) ≠ h(y) = j. If c_i = c_j, (1) reads 0 <= 0 and both are listed. Otherwise let
n = (c_i - c_j)/‖c_i - c_j‖ and let α(z) = arcsin(z·n/‖z‖) be the signed angle of z to the plane through the
origin with normal n. The angle between x and y is at least |α(x) - α(y)|, since turning z by an angle changes
its angle to a plane by no more. If neither is listed, z·n/‖z‖ > s for z = x, so α(x) > θ/2, and, with the
roles of i and j exchanged, α(y) < -θ/2. Hence the angle exceeds θ and cos(x, y) < floor.  ∎

The proof does not use that the home is near. A home found in low precision that is not quite the nearest centroid, or
one under stale centroids, only changes the cost. What matters is that (1) is never found false when it is true, and
that all rows compared are listed against the *same* centroids.

Rounding
--------
The centroids used are ``codebook(centroids)``: the given ones rounded to bfloat16, on every device and in
every precision, so the same planes hold for all rows ever assigned and centroids carry no rounding error.
The row used is x̂ with ‖x/‖x‖ - x̂‖ <= r (measured for each tile), so x̂·(c_i - c_j) is off by at most
r·‖c_i - c_j‖. Each product is summed in float32 and rounded once, which together is off by at most e. The
test is therefore  v_j >= v_i - (s + r + 1e-6)·‖c_i - c_j‖ - 2e,  true whenever (1) is.

Zero rows have similarity 0 with everything. For a floor above 0 they match nothing: home 0, never listed. For
a floor of 0 or less they match everything: (1) reads 0 <= 0 for all j and they are listed in every cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit

from dedup_assets.compute.device.cells import TILE_BYTES as DEVICE_TILE_BYTES
from dedup_assets.compute.device.cells import home_and_ghosts
from dedup_assets.compute.device.rows import DeviceRows
from dedup_assets.compute.distances import distances
from dedup_assets.compute.packed import PackedRows
from dedup_assets.compute.precision import bits_of, dtype_of, from_bfloat, low_unit_rows, native_precision
from dedup_assets.compute.similarity import accumulation_error, squared_norms
from dedup_assets.later import torch

TILE_BYTES = 4 << 20
"""Product of rows and centroids kept at a time, per thread: two L2 caches; 2 to 16 MiB measured alike."""

_MARGIN = 1e-6
"""Covers the float32 arithmetic of the test itself and the last bits of the canonical similarity."""


@dataclass(frozen=True)
class CellAssignment:
    """The home cell of each row and the cells where it is listed as a ghost.

    Attributes
    ----------
    home : int32 (n,)
        Home cell of each row.
    ghost_offsets : int64 (k + 1,)
        ``ghost_rows[ghost_offsets[c]:ghost_offsets[c + 1]]`` are the ghosts of cell c.
    ghost_rows : int32 (g,), or `PackedRows`
        Row numbers, ascending within a cell; never a row whose home is that cell.
    """

    home: np.ndarray
    ghost_offsets: np.ndarray
    ghost_rows: np.ndarray | PackedRows

    @property
    def cells(self) -> int:
        """Number of cells k."""
        return len(self.ghost_offsets) - 1

    def home_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows sorted by home cell, ascending within a cell: int32 (n,), and their offsets int64 (k + 1,)."""
        offsets, rows = _sort_by_cell([(np.ones(len(self.home), np.int32), self.home)], range(1), self.cells)
        return rows, offsets


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Offsets int64 (k + 1,) of consecutive groups of the given sizes."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def half_angle(floor: float) -> float:
    """sin(arccos(floor)/2), the reach of a ghost as a distance from the bisecting plane."""
    if not -1.0 <= floor <= 1.0:
        raise ValueError(f"floor must be a cosine in [-1, 1], found {floor}")
    return math.sqrt((1.0 - floor) / 2.0)


def codebook(centroids: np.ndarray) -> np.ndarray:
    """The centroids that define the cells: rounded to bfloat16, as float32 (k, d). Idempotent."""
    if centroids.ndim != 2 or not len(centroids) or not np.isfinite(centroids).all():
        raise ValueError(f"centroids must be (k, d), k >= 1, finite; found shape {centroids.shape}")
    given = torch.from_numpy(np.ascontiguousarray(centroids, dtype=np.float32))
    return given.to(torch.bfloat16).to(torch.float32).numpy()


def assign(
    vectors: np.ndarray | DeviceRows,
    centroids: np.ndarray,
    floor: float,
    device: str = "cpu",
    *,
    threads: int = 1,
    tile_bytes: int | None = None,
    packed: bool = False,
) -> CellAssignment:
    """Home cell and ghosts of every row.

    Parameters
    ----------
    vectors : array (n, d), float16 or float32
        Stored vectors; norms may be anything. May be a memory map: it is read in tiles. Or `DeviceRows`, which also
        determine the device.
    centroids : float array (k, d)
        Any centroids; ``codebook(centroids)`` defines the cells.
    floor : float
        Lowest similarity of a match, a cosine in [-1, 1].
    device : str
        ``"cpu"`` or a CUDA device, which `device.cells` serves.
    threads : int
        Tiles worked on at once (CPU only); kernels and products release the GIL.
    tile_bytes : int, optional
        Bound of one tile of the n × k product; the whole is never kept.
    packed : bool
        Return the ghosts as `PackedRows`, in a quarter of the memory (CPU only).

    Returns
    -------
    CellAssignment
        Complete for the floor in the sense of the module's theorem, whatever the tile size, device and
        precision. These may change which unnecessary ghosts are listed.
    """
    if len(centroids) == 1 and isinstance(vectors, np.ndarray) and vectors.shape[1:] == centroids.shape[1:]:
        half_angle(floor)  # refuses what is no cosine
        nowhere = np.zeros(2, np.int64)
        ghosts = PackedRows.of([], range(0), 1) if packed else np.empty(0, np.int32)
        return CellAssignment(np.zeros(len(vectors), np.int32), nowhere, ghosts)
    book = codebook(centroids)
    if len(vectors.shape) != 2 or vectors.shape[1] != book.shape[1]:
        raise ValueError(f"vectors of shape {vectors.shape} do not fit centroids of shape {book.shape}")
    n, k = len(vectors), len(book)
    if device != "cpu" or isinstance(vectors, DeviceRows):
        where = vectors.device if isinstance(vectors, DeviceRows) else device
        return CellAssignment(
            *home_and_ghosts(
                vectors,
                where,
                book,
                half_angle(floor),
                _MARGIN,
                floor > 0,
                native_precision(where),
                tile_bytes or DEVICE_TILE_BYTES,
            )
        )
    tile = _Tile(vectors, book, floor)
    step = max(16, min((tile_bytes or TILE_BYTES) // (2 * k), 1 << 16))
    starts = range(0, n, step)
    home = np.zeros(n, np.int32)

    def work(start: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(start, min(start + step, n))
        home[rows], counts, cells = tile(rows)
        return counts, cells

    parts = _each(work, starts, threads)
    if packed:
        ghosts = PackedRows.of(parts, starts, k)
        return CellAssignment(home, ghosts.offsets, ghosts)
    return CellAssignment(home, *_sort_by_cell(parts, starts, k))


def _each(work: Callable, items: range, threads: int) -> list:
    if threads <= 1 or len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


class _Tile:
    """Home and ghosts of a slice of the rows; holds what all slices share."""

    def __init__(self, vectors: np.ndarray, book: np.ndarray, floor: float) -> None:
        self.vectors, self.floor = vectors, floor
        self.precision = native_precision("cpu")
        self.sine = half_angle(floor)
        self.largest = float(np.linalg.norm(book.astype(np.float64), axis=1).max())
        self.book = torch.from_numpy(book).to(dtype_of(self.precision))
        self.distance = distances(book)
        self.cell_type = np.uint16 if len(book) <= 1 << 16 else np.int32

    def __call__(self, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Home (int32), number of ghosts of each row (int32), and their cells, row after row."""
        part = self.vectors[rows]
        squares = squared_norms(part)
        low, residual = low_unit_rows(part, squares, self.book.dtype)
        reach = self.sine + _MARGIN + residual
        summing = accumulation_error(part.shape[1]) * self.largest * 1.01 + _MARGIN
        product = low @ self.book.T
        silent = squares == 0 if self.floor > 0 else np.zeros(len(part), bool)
        home = np.empty(len(part), np.int32)
        counts = np.empty(len(part), np.int32)
        cells = np.empty(product.numel(), self.cell_type)
        kernel = _list_bits if product.dtype == torch.bfloat16 else _list_floats
        total = kernel(bits_of(product), self.distance, reach, summing, silent, home, counts, cells)
        return home, counts, cells[:total].copy()


@njit(cache=True, nogil=True)
def _list_bits(product, distance, reach, summing, silent, home, counts, cells):
    k = product.shape[1]
    values = np.empty(k, np.float32)
    total = 0
    for row in range(product.shape[0]):
        for cell in range(k):
            values[cell] = from_bfloat(product[row, cell])
        total = _list_row(
            values,
            distance,
            reach,
            summing,
            np.float32(2.0**-8),
            silent[row],
            row,
            home,
            counts,
            cells,
            total,
        )
    return total


@njit(cache=True, nogil=True)
def _list_floats(product, distance, reach, summing, silent, home, counts, cells):
    total = 0
    for row in range(product.shape[0]):
        total = _list_row(
            product[row],
            distance,
            reach,
            summing,
            np.float32(0.0),
            silent[row],
            row,
            home,
            counts,
            cells,
            total,
        )
    return total


@njit(cache=True, nogil=True)
def _list_row(values, distance, reach, summing, roundoff, silent, row, home, counts, cells, total):
    if silent:
        home[row] = 0
        counts[row] = 0
        return total
    k = values.shape[0]
    top = values[0]
    bottom = values[0]
    for cell in range(1, k):
        top = max(top, values[cell])
        bottom = min(bottom, values[cell])
    at = 0
    while values[at] != top:
        at += 1
    home[row] = at
    largest = max(top, -bottom)
    # Half a unit in the last place is the same for all values in a power of two: take that of the largest.
    power = np.float32(2.0**-20)
    while power < largest:
        power *= np.float32(2.0)
    error = np.float32(2.0 * (power * 0.5 * roundoff + summing))
    bar = top - error
    spread = np.float32(reach)
    near = distance[at]
    start = total
    # Writing always and advancing only on a hit keeps the loop free of branches.
    for cell in range(k):
        cells[total] = cell
        total += (values[cell] >= bar - spread * near[cell]) & (cell != at)
    counts[row] = total - start
    return total


@njit(cache=True, nogil=True)
def _count_cells(cells, sizes):
    for at in range(cells.shape[0]):
        sizes[cells[at]] += 1


@njit(cache=True, nogil=True)
def _scatter(counts, cells, first_row, cursor, out):
    at = 0
    for row in range(counts.shape[0]):
        for _ in range(counts[row]):
            cell = cells[at]
            out[cursor[cell]] = first_row + row
            cursor[cell] += 1
            at += 1


def _sort_by_cell(parts: list, starts: range, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Counting sort of the listings: ``ghost_offsets`` and ``ghost_rows``. Empties ``parts`` on the way."""
    sizes = np.zeros(k, np.int64)
    for _, cells in parts:
        _count_cells(cells, sizes)
    offsets = offsets_of(sizes)
    rows = np.empty(offsets[-1], np.int32)
    cursor = offsets[:-1].copy()
    for at, start in enumerate(starts):
        counts, cells = parts[at]
        parts[at] = None
        _scatter(counts, cells, start, cursor, rows)
    return offsets, rows
