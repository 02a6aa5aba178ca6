"""Home cells and ghosts on a device: the test of `cells`, tile by tile, nothing leaving the device in between.

Runs alike on a GPU and, for device "cpu:0", on CPU tensors.
"""

from __future__ import annotations

import numpy as np
import torch

from dedup_assets.compute.device_rows import DeviceRows, float32_sums, is_out_of_memory, release
from dedup_assets.compute.precision import PRECISIONS
from dedup_assets.compute.similarity import accumulation_error
from dedup_assets.errors import DedupError

TILE_BYTES = 128 << 20
"""Product of rows and centroids in half precision kept at a time. What is computed from it takes ten times
as much; not tuned on a GPU."""

SMALLEST_TILE = 64
"""Rows. A device without room for so few has none for the join either."""

_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-23}
"""Largest relative error of one rounding, and twice that for fp32 and bf16, as on the CPU."""

_LARGEST_HALF = 1024.0
"""Centroids with norms up to this are multiplied in fp16; unit centroids are, others may be anything."""


def home_and_ghosts(
    rows: DeviceRows,
    book: np.ndarray,
    distance: np.ndarray,
    sine: float,
    margin: float,
    listed_above_zero: bool,
    low: str,
    tile_bytes: int = TILE_BYTES,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Home cell of every row, number of its ghosts, and their cells row after row.

    Parameters
    ----------
    rows : DeviceRows
        n vectors.
    book : float32 array (k, d)
        The codebook.
    distance : float32 array (k, k)
        Upper bounds of the distances between centroids.
    sine, margin : float
        Reach of a ghost, and what covers the float32 arithmetic of the test.
    listed_above_zero : bool
        Whether the floor is above 0: then zero rows have home 0 and are listed nowhere.
    low : {"fp16", "bf16", "fp32"}
        Precision of the products.

    Returns
    -------
    int32 (n,), int32 (n,), int32 (g,)

    Raises
    ------
    DedupError
        The device has no room even for a tile of `SMALLEST_TILE` rows.
    """
    test = _Test(rows, book, distance, sine, margin, listed_above_zero, low)
    n = len(rows)
    home = torch.zeros(n, dtype=torch.int32, device=rows.stored.device)
    counts = torch.zeros(n, dtype=torch.int32, device=rows.stored.device)
    found = []
    step = max(SMALLEST_TILE, min(tile_bytes // (2 * len(book)), 1 << 20))
    start = 0
    while start < n:
        at = slice(start, min(start + step, n))
        cells = None
        try:
            with float32_sums():
                home[at], counts[at], cells = test(at)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if cells is None:
            if step <= SMALLEST_TILE:
                raise DedupError(
                    f"{rows.device} has no memory for a tile of {step} rows and {len(book)} cells. Free the "
                    "device, or use --device cpu: the decisions are the same."
                )
            release(rows.device)
            step = max(SMALLEST_TILE, min(step, n) // 2)
            continue
        found.append(cells)
        start = at.stop
    cells = torch.cat(found) if found else torch.empty(0, dtype=torch.int32)
    return home.cpu().numpy(), counts.cpu().numpy(), cells.cpu().numpy()


class _Test:
    """Home and ghosts of a slice of the rows; holds what all slices share."""

    def __init__(
        self,
        rows: DeviceRows,
        book: np.ndarray,
        distance: np.ndarray,
        sine: float,
        margin: float,
        listed_above_zero: bool,
        low: str,
    ) -> None:
        self.rows, self.sine, self.margin, self.listed_above_zero = rows, sine, margin, listed_above_zero
        largest = float(np.linalg.norm(book.astype(np.float64), axis=1).max())
        # bf16 holds the codebook exactly; fp16 rounds eight times finer but loses its small components, by
        # at most a measured distance that is added to the error.
        self.low = "bf16" if low == "fp16" and largest > _LARGEST_HALF else low
        given = torch.from_numpy(book)
        rounded = given.to(PRECISIONS[self.low])
        off = float((given.double() - rounded.double()).norm(dim=1).max())
        self.summing = accumulation_error(book.shape[1]) * largest * 1.01 + 1.01 * off + margin
        self.book = rounded.to(rows.stored.device)
        self.distance = torch.from_numpy(distance).to(rows.stored.device)

    def __call__(self, at: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Home (int32), number of ghosts of each row (int32), and their cells (int32), row after row."""
        unit = self.rows.unit(at)
        low = unit.float().to(self.book.dtype)
        residual = (unit - low.double()).norm(dim=1).max() + 2.0**-20
        reach = (residual + self.sine + self.margin).float()  # stays on the device: no synchronisation
        del unit
        values = (low @ self.book.T).float()
        best, home = values.max(dim=1)
        largest = torch.maximum(best, -values.amin(dim=1))
        error = 2 * (largest * _ROUNDOFF[self.low] + self.summing)
        bar = self.distance[home]
        bar.mul_(-reach).add_((best - error)[:, None])
        listed = values >= bar
        listed.scatter_(1, home[:, None], False)
        if self.listed_above_zero:
            silent = self.rows.squares[at] == 0
            listed &= ~silent[:, None]
            home = home.masked_fill(silent, 0)
        cells = torch.nonzero(listed)[:, 1]
        return home.int(), listed.sum(dim=1, dtype=torch.int32), cells.int()
