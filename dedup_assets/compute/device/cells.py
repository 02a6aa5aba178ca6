"""Home cells and ghosts on a device: the test of `cells`, tile by tile, without transfers in between.

Runs on a GPU and, for device "cpu:0", on CPU tensors.
"""

from __future__ import annotations

import numpy as np

from dedup_assets.compute.device.ghosts import GhostCollector, Tile
from dedup_assets.compute.device.memory import Room, by_slices, free_bytes
from dedup_assets.compute.device.rows import DeviceRows, float32_sums
from dedup_assets.compute.distances import distances_on
from dedup_assets.compute.precision import dtype_of
from dedup_assets.compute.similarity import accumulation_error
from dedup_assets.later import torch

TILE_BYTES = 128 << 20
"""Bytes of the half-precision product of rows and centroids kept at a time. The values computed from it take ten times
as much. Not tuned on a GPU."""

SMALLEST_TILE = 64
"""Rows. A device without memory for these has none for the join either."""

_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-23}
"""Largest relative error of one rounding, and twice that for fp32 and bf16, as on the CPU."""

_LARGEST_HALF = 1024.0
"""Largest norm of centroids that are multiplied in fp16. Unit centroids are below it; others may have any norm."""


def home_and_ghosts(
    vectors: DeviceRows | np.ndarray,
    device: str,
    book: np.ndarray,
    sine: float,
    margin: float,
    listed_above_zero: bool,
    low: str,
    tile_bytes: int = TILE_BYTES,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Home cell of every row, and the ghosts of each cell.

    Parameters
    ----------
    vectors : DeviceRows or array (n, d), float16 or float32
        Rows on the host are uploaded in parts that fit the device.
    device : str
        Where to compute; the device of the rows, if they are on one.
    book : float32 array (k, d)
        The codebook.
    sine, margin : float
        Reach of a ghost, and the margin for the float32 arithmetic of the test.
    listed_above_zero : bool
        Whether the floor is above 0: then zero rows have home 0 and are listed nowhere.
    low : {"fp16", "bf16", "fp32"}
        Precision of the products.

    Returns
    -------
    int32 (n,), int64 (k + 1,), int32 (g,)
        Homes, offsets of each cell's ghosts, and their row numbers, ascending inside a cell.

    Raises
    ------
    NoRoomError
        The device has no memory even for a tile of `SMALLEST_TILE` rows.
    """
    n, k = len(vectors), len(book)
    step = max(SMALLEST_TILE, min(tile_bytes // (2 * k), 1 << 20))
    tiles, uploads, wide = Room(device), Room(device, _rows_at_once(vectors, device)), Room(device)
    test = _Test(device, book, sine, margin, listed_above_zero, low)
    pile = GhostCollector(n, k, device)

    def of_uploaded(at: slice) -> None:
        start = max(at.start, pile.done)  # an attempt that failed half way keeps its finished rows
        first = start if isinstance(vectors, DeviceRows) else 0
        rows = (
            vectors if isinstance(vectors, DeviceRows) else DeviceRows.of(vectors[start : at.stop], device, room=wide)
        )

        def of_tile(tile: slice) -> None:
            with float32_sums():
                found = test(rows, slice(first + tile.start, first + tile.stop))
            pile.add(Tile(start + tile.start, *found))

        for _ in by_slices(at.stop - start, step, of_tile, tiles, least=SMALLEST_TILE, what=what, make_room=pile.send):
            pass

    def what(rows: int) -> str:
        return f"a tile of {rows} rows and {k} cells"

    for _ in by_slices(n, n, of_uploaded, uploads, least=SMALLEST_TILE, what=what, make_room=pile.send):
        pass
    return pile.taken()


def _rows_at_once(vectors: DeviceRows | np.ndarray, device: str) -> float:
    """Number of host rows that fill a quarter of the device's free memory; the rest is for tiles."""
    free = free_bytes(device)
    if free is None or isinstance(vectors, DeviceRows):
        return float("inf")
    return max(SMALLEST_TILE, free // (4 * (vectors.shape[1] * vectors.dtype.itemsize + 8)))


class _Test:
    """Computes home and ghosts of a slice of the rows; holds the data that all slices share."""

    def __init__(
        self,
        device: str,
        book: np.ndarray,
        sine: float,
        margin: float,
        listed_above_zero: bool,
        low: str,
    ) -> None:
        self.sine, self.margin, self.listed_above_zero = sine, margin, listed_above_zero
        largest = float(np.linalg.norm(book.astype(np.float64), axis=1).max())
        # bf16 holds the codebook exactly; fp16 rounds eight times finer but loses its small components, by
        # at most a measured distance that is added to the error.
        self.low = "bf16" if low == "fp16" and largest > _LARGEST_HALF else low
        given = torch.from_numpy(book)
        rounded = given.to(dtype_of(self.low))
        off = float((given.double() - rounded.double()).norm(dim=1).max())
        self.summing = accumulation_error(book.shape[1]) * largest * 1.01 + 1.01 * off + margin
        self.book = rounded.to(device)
        self.distance = distances_on(device, book)

    def __call__(self, rows: DeviceRows, at: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Home (int32), number of ghosts of each cell (int32), and the row numbers of these ghosts (int32), cell after
        cell."""
        unit = rows.unit(at)
        low = unit.float().to(self.book.dtype)
        residual = (unit - low.double()).norm(dim=1).max() + 2.0**-20
        reach = (residual + self.sine + self.margin).float()  # stays on the device: no synchronisation
        del unit
        values = (low @ self.book.T).float()
        best, home = values.max(dim=1)
        largest = torch.maximum(best, -values.amin(dim=1))
        error = 2 * (largest * _ROUNDOFF[self.low] + self.summing)
        bar = self.distance[home.to(self.distance.device)].to(values.device)
        bar.mul_(-reach).add_((best - error)[:, None])
        listed = values >= bar
        listed.scatter_(1, home[:, None], False)
        if self.listed_above_zero:
            silent = rows.squares[at] == 0
            listed &= ~silent[:, None]
            home = home.masked_fill(silent, 0)
        del values, bar
        by_cell = torch.nonzero(listed.T)  # here the host waits, for the number of ghosts
        return home.int(), listed.sum(dim=0, dtype=torch.int32), by_cell[:, 1].int()
