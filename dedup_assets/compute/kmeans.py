"""Spherical k-means for the codebook of cells. Centroids affect the cost of the join, never its result.

It takes vectors and a seed; it has no notion of shards, ghosts or decisions.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from dedup_assets.compute.device.memory import Room, by_slices, in_halves
from dedup_assets.compute.device.rows import DeviceRows, widened
from dedup_assets.compute.precision import bits_of, dtype_of, from_bfloat, native_precision, unit_array, unit_rows
from dedup_assets.compute.similarity import squared_norms
from dedup_assets.later import torch

GHOST_FACTOR = ((0.70, 191.0), (0.80, 113.0), (0.85, 72.0), (0.90, 35.0), (0.95, 11.7), (0.99, 1.8))
"""Ghosts per record against the floor: 50,000 real texts (docstring paragraphs, package descriptions, reviews),
all-MiniLM-L6-v2, k = 300. Values between are interpolated."""

CELL_FACTOR = 0.04
"""k = sqrt(0.04·m·n). A centroid costs every row a full product and the fit its samples; a pair costs a sketch
product. Seconds for fit, assignment and join at 0.90, 200,000 real rows: k = 500 4.4, 700 4.3, 1,000 4.6,
1,400 5.3; 50,000 rows: k = 200 1.2, 350 1.6, 500 1.8."""

SMALL = 2_000
"""Below this many rows one cell is fastest: comparing all 2 million pairs takes a few milliseconds."""

SAMPLES_PER_CENTROID = 48
"""32 to 64 gave the same number of pairs to compare within 3 %; the time of fitting is linear in it."""

ITERATIONS = 4
"""Spherical k-means on text embeddings gains less than 2 % in pairs to compare after four rounds."""

TILE_BYTES = 8 << 20
"""Bytes of the product kept at a time while assigning; a few L2 caches."""


DEVICE_TILE_BYTES = 256 << 20
"""The same on a GPU, where a tile must be large enough to fill the device; not tuned on one."""

SMALLEST_TILE = 256
"""Smallest number of rows of a tile, also where a device is short of memory."""


def ghost_factor(floor: float) -> float:
    """Expected ghosts per record at a similarity floor; see `GHOST_FACTOR`."""
    floors, factors = zip(*GHOST_FACTOR, strict=True)
    return float(np.interp(floor, floors, factors))


def choose_cells(n: int, floor: float) -> int:
    """Number of cells for n rows: k = sqrt(CELL_FACTOR·m·n), m the ghosts per record; 1 for small n.

    Assignment costs n·k products and comparing about m·n²/k; their sum is least where both are alike.
    Never fewer than about 100 rows per cell, where the cost of handling a cell outweighs its products.
    """
    if n < SMALL:
        return 1
    return max(1, min(round(math.sqrt(CELL_FACTOR * ghost_factor(floor) * n)), n // 100))


def sample_size(n: int, k: int) -> int:
    """Rows to fit k centroids on: `SAMPLES_PER_CENTROID` each, at most n."""
    return min(n, SAMPLES_PER_CENTROID * k)


@njit(cache=True, nogil=True)
def _nearest_bits(product, label, best):
    for row in range(product.shape[0]):
        top = np.float32(-np.inf)
        at = 0
        for cell in range(product.shape[1]):
            value = from_bfloat(product[row, cell])
            if value > top:
                top = value
                at = cell
        label[row] = at
        best[row] = top


@njit(cache=True, nogil=True)
def _sum_cells(rows, label, sums, counts):
    for row in range(rows.shape[0]):
        cell = label[row]
        counts[cell] += 1
        for at in range(rows.shape[1]):
            sums[cell, at] += rows[row, at]


def _assign(rows: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest centroid (int64) and its similarity (float32) for each row, tile by tile, on their device."""
    n, k = len(rows), len(centroids)
    label = torch.empty(n, dtype=torch.int64, device=rows.device)
    best = torch.empty(n, dtype=torch.float32, device=rows.device)
    step = max(SMALLEST_TILE, (TILE_BYTES if _on_host(rows) else DEVICE_TILE_BYTES) // (2 * k))

    def place(tile: slice) -> None:
        label[tile], best[tile] = _nearest(rows[tile], centroids)

    def what(rows_of_tile: int) -> str:
        return f"a tile of {rows_of_tile} rows and {k} centroids"

    for _ in by_slices(n, step, place, Room(str(rows.device)), least=SMALLEST_TILE, what=what):
        pass
    return label, best


def _on_host(rows: torch.Tensor) -> bool:
    """Whether the rows are on the host, where compiled loops replace the tensor operations of a device."""
    return rows.device.type == "cpu"


def _nearest(rows: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`_assign` of one tile."""
    product = rows @ centroids.T
    if product.dtype == torch.bfloat16 and _on_host(product):
        label, best = torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows))
        _nearest_bits(bits_of(product), label.numpy(), best.numpy())
        return label, best
    values, where = product.max(dim=1)
    return where, values.float()


def _means(rows: torch.Tensor, label: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (k, d) float32 and counts (k,) of the rows of each cell, the same bits on every call."""
    d = rows.shape[1]
    if _on_host(rows):
        sums, counts = np.zeros((k, d), np.float32), np.zeros(k, np.int64)
        _sum_cells(rows.numpy(), label.numpy(), sums, counts)
        return torch.from_numpy(sums), torch.from_numpy(counts)
    # Atomic adds come in any order on a GPU; a product with the membership matrix does not.
    sums_d = torch.zeros(k, d, device=rows.device)

    def add(at: slice) -> None:
        part = label[at]
        member = torch.zeros(k, len(part), device=rows.device)
        member[part, torch.arange(len(part), device=rows.device)] = 1.0
        sums_d.add_(member @ rows[at])  # last and in place: a part that failed for lack of memory has added nothing

    def what(members: int) -> str:
        return f"the membership of {members} rows in {k} cells"

    step = max(SMALLEST_TILE, DEVICE_TILE_BYTES // (4 * k))
    for _ in by_slices(len(rows), step, add, Room(str(rows.device)), least=SMALLEST_TILE, what=what):
        pass
    return sums_d, torch.bincount(label, minlength=k)


def _usable(sample: np.ndarray | DeviceRows) -> torch.Tensor:
    """Non-zero rows at unit length, float32, on the device of the sample."""
    if isinstance(sample, DeviceRows):
        at = torch.nonzero(sample.squares > 0).flatten()
        rows = torch.empty(len(at), sample.shape[1], device=sample.stored.device)

        def fill(part: slice) -> None:
            chosen = at[part]
            given = DeviceRows(sample.stored[chosen], sample.squares[chosen], sample.room)
            rows[part] = given.unit(slice(None)).float()

        widened(len(at), 2 * sample.shape[1], sample.room, fill)
        return rows
    squares = squared_norms(sample)
    usable = np.flatnonzero(squares > 0)
    return unit_rows(sample[usable] if len(usable) < len(sample) else sample, squares[usable])


def fit_centroids(
    sample: np.ndarray | DeviceRows,
    k: int,
    seed: int = 0,
    iterations: int = ITERATIONS,
    device: str = "cpu",
) -> np.ndarray:
    """Fit k unit centroids by spherical k-means (Dhillon and Modha 2001, Machine Learning 42).

    Parameters
    ----------
    sample : array (n, d), float16 or float32
        Rows of any norm; zero rows are left out. Fewer usable rows than k reduce k. Or `DeviceRows`, which
        settle the device too.
    k : int
        Number of centroids wanted, at least 1.
    seed : int
        Chooses the first centroids; the result is the same for the same seed, device and library versions.
    iterations : int
        Rounds of assignment and averaging; 0 gives a random sample of the rows.
    device : str
        ``"cpu"`` or a CUDA device.

    Returns
    -------
    float32 array (k', d), 1 <= k' <= k, unit rows, neighbours in space near each other in the array. With no
    usable row at all: one arbitrary unit centroid.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    where = sample.device if isinstance(sample, DeviceRows) else device
    if k == 1 and isinstance(sample, np.ndarray):
        return _mean_direction(sample)
    if where == "cpu":
        return _fitted(sample, k, seed, iterations)

    def fit(step: int) -> list[np.ndarray]:
        if isinstance(sample, DeviceRows):
            rows = sample if step == 1 else sample.take(np.arange(0, len(sample), step))
        else:
            rows = DeviceRows.of(sample[::step], where)
        return [_fitted(rows, k, seed, iterations)]

    def sparser(step: int) -> list[int] | None:
        return [2 * step] if rows_of(2 * step) >= max(k, SMALLEST_TILE) else None

    def rows_of(step: int) -> int:
        return len(sample) // step

    def what(step: int) -> str:
        return f"a fit of {k} centroids on {rows_of(step)} rows"

    # Centroids change no decision: where a sample does not fit the device, they are fitted on every other row of it.
    (centroids,) = in_halves(1, fit, sparser, rows_of, Room(where), what)
    return centroids


def _mean_direction(sample: np.ndarray) -> np.ndarray:
    """The one centroid of a sample, by numpy: torch need not be loaded for it."""
    squares = squared_norms(sample)
    rows = unit_array(sample[squares > 0], squares[squares > 0])
    mean = rows.sum(axis=0, dtype=np.float64)
    norm = float(np.linalg.norm(mean))
    if norm <= 1e-6 * max(1, len(rows)):  # nothing to average, or directions that cancel out
        return rows[:1].copy() if len(rows) else _first_axis(sample.shape[1])
    return (mean / norm).astype(np.float32)[None, :]


def fit_rows(vectors: np.ndarray | DeviceRows, k: int, seed: int = 0, *, device: str = "cpu") -> np.ndarray:
    """`fit_centroids` on a random sample of the rows (n, d), as large as k centroids need, drawn by the seed."""
    if k == 1:  # a single centroid may be any
        return _first_axis(vectors.shape[1])
    n = len(vectors)
    chosen = np.sort(np.random.default_rng(seed).choice(n, size=sample_size(n, k), replace=False))
    sample = vectors.take(chosen) if isinstance(vectors, DeviceRows) else vectors[chosen]
    return fit_centroids(sample, k, seed, device=device)


def _first_axis(dimension: int) -> np.ndarray:
    axis = np.zeros((1, dimension), np.float32)
    axis[0, 0] = 1.0
    return axis


def _fitted(sample: np.ndarray | DeviceRows, k: int, seed: int, iterations: int) -> np.ndarray:
    """`fit_centroids` on the device of the sample."""
    rows = _usable(sample)
    if not len(rows):
        return _first_axis(sample.shape[1])
    k = min(k, len(rows))
    rng = np.random.default_rng(seed)
    start = np.sort(rng.choice(len(rows), size=k, replace=False))
    centroids = rows[torch.from_numpy(start).to(rows.device)].clone()
    dtype = dtype_of(native_precision(str(rows.device)))
    low = rows.to(dtype)
    for _ in range(iterations):
        label, best = _assign(low, centroids.to(dtype))
        sums, counts = _means(rows, label, k)
        norms = sums.norm(dim=1)
        good = (counts > 0) & (norms > 1e-6)
        centroids = torch.where(good[:, None], sums / norms.clamp_min(1e-6)[:, None], centroids)
        empty = torch.nonzero(~good).flatten()
        if len(empty):
            # The rows farthest from their centroids start the new cells; the sort is stable, so position breaks ties.
            worst = torch.argsort(best, stable=True)[: len(empty)]
            centroids[empty[: len(worst)]] = rows[worst]
    return order_by_locality(centroids.cpu().numpy().astype(np.float32))


def order_by_locality(centroids: np.ndarray) -> np.ndarray:
    """Reorder centroids (k, d) so that neighbours in the array are neighbours in space.

    Halves recursively along the direction of largest variance (power iteration), down to single cells. A
    contiguous range of cells then lists many ghosts of its own home rows: fewer rows to load for a group.
    """
    order = np.arange(len(centroids))
    stack = [(0, len(order))]
    while stack:
        first, last = stack.pop()
        if last - first < 3:
            continue
        part = order[first:last]
        centred = centroids[part] - centroids[part].mean(axis=0)
        axis = centred[np.argmax((centred**2).sum(axis=1))]
        for _ in range(8):
            axis = centred.T @ (centred @ axis)
            axis /= max(float(np.linalg.norm(axis)), 1e-30)
        order[first:last] = part[np.argsort(centred @ axis, kind="stable")]
        middle = (first + last) // 2
        stack += [(first, middle), (middle, last)]
    return np.ascontiguousarray(centroids[order])
