"""The rows of low-precision products: unit rows, whole or as a sketch whose products never undershoot.

It handles rows and precisions; it has no notion of cells or shards.

Sketch
------
Let P (d × r) have orthonormal columns and, for a unit vector x, p = Pᵀx and ρ = ‖x - P·p‖. Then for unit x, y

    x·y = p·q + (x - Pp)·(y - Pq) <= p·q + ρ_x·ρ_y,

the inner product of the (r + 1)-vectors (p, ρ_x) and (q, ρ_y), which are unit vectors themselves. A pair
whose sketch product is below the floor cannot match. With P spanning the leading principal directions the
excess ρ_x·ρ_y is small. A zero row has a zero sketch.

Rounding. The computed p̃ is within δ = γ_d·√r + 2^-23·√r of p. Taking ρ̃² = 1 - ‖p̃‖² + 2δ + δ² + 2^-20 (or 0)
makes ρ̃ >= ρ, and p·q <= p̃·q̃ + 2δ + δ². So the sketch undershoots by at most 2δ + δ², which is part of the
slack; rounding to low precision is bounded from the measured residuals as for any rows.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit

from dedup_assets.compute.precision import (
    MEASURING,
    dtype_of,
    low_unit_rows,
    native_precision,
    round_row,
    unit_rows,
)
from dedup_assets.compute.similarity import accumulation_error, product_slack
from dedup_assets.later import torch

SKETCH_WIDTH = 128
"""127 principal directions and the residual, 256 bytes a row. On 200,000 real rows at 0.90 (2.2 billion pairs,
k = 1,000), seconds of products, scan with decisions, and gathering: 64 columns 1.4, 4.5, 0.5; 96 columns 1.6,
1.5, 0.6; 128 columns 1.8, 0.7, 0.6; whole rows of 384: 3.2, 0.2, 1.9."""

SKETCH_ROWS = 4096
"""Fewer rows are multiplied whole: the principal directions cost 20 ms. Also the rows they are found on."""

TILE_ROWS = 1024
"""Rows converted to float32 at a time while sketching: 1.5 MB at d = 384, so that the product reads them from L2."""


@dataclass(frozen=True)
class LowRows:
    """Rows to multiply: ``rows`` (n + padding, w); products are off by at most ``slack``.

    ``slack`` is for a comparison with the rounded bound: see `similarity.product_slack`.
    """

    rows: torch.Tensor
    slack: float


def principal_directions(vectors: np.ndarray, squares: np.ndarray, width: int) -> np.ndarray:
    """Leading right singular vectors, float32 (d, width), of evenly spaced unit rows (at most 4,096)."""
    chosen = np.linspace(0, len(vectors) - 1, min(len(vectors), SKETCH_ROWS)).astype(np.int64)
    unit = unit_rows(vectors[chosen], squares[chosen])
    # In torch, not numpy: it keeps to the threads of its worker, while numpy's library starts one per core
    # beside those of the neighbouring tasks (0.13 s of processor time here instead of 0.025).
    axes = torch.linalg.eigh((unit.T @ unit).double()).eigenvectors
    return np.ascontiguousarray(axes.flip(1)[:, :width].float().numpy())


def low_rows(
    vectors: np.ndarray,
    squares: np.ndarray,
    order: np.ndarray,
    *,
    padding: int,
    width: int | None = None,
    threads: int = 1,
) -> LowRows:
    """Rows in the CPU's native precision, in the given order, sketched where that pays.

    Parameters
    ----------
    vectors, squares : array (n, d) and their canonical squared norms (n,)
    order : integer array (m,)
        Row at each position of the result.
    padding : int
        Zero rows added at the end, so that tiles of fixed shape may exceed the rows.
    width : int, optional
        Columns of the sketch; 0 for whole rows; by default `SKETCH_WIDTH` for many long rows.
    threads : int
        Tiles of rows worked on at once.
    """
    projection = Projection(vectors, squares, len(order), width=width)
    shape = (len(order) + padding, projection.columns)
    rows = torch.empty(shape, dtype=projection.dtype)
    rows[len(order) :] = 0

    def fill(start: int) -> float:
        at = order[start : start + TILE_ROWS]
        low, residual = projection(vectors[at], squares[at])
        rows[start : start + len(at)] = low
        return residual

    with ThreadPoolExecutor(max(1, threads)) as pool:
        residual = max(pool.map(fill, range(0, len(order), TILE_ROWS)), default=0.0)
    return LowRows(rows, projection.slack(residual))


class Projection:
    """Converts vectors into rows to multiply, in the same format for any batch size.

    Parameters
    ----------
    vectors, squares : array (m, d) and their canonical squared norms (m,)
        Sample for the principal directions. The bound holds for any sample; it is tight for a typical one.
    n : int
        Total number of rows; few rows are not sketched.
    width : int, optional
        As in `low_rows`.
    """

    def __init__(self, vectors: np.ndarray, squares: np.ndarray, n: int, *, width: int | None = None) -> None:
        d = vectors.shape[1]
        if width is None:
            width = SKETCH_WIDTH if n >= SKETCH_ROWS and d >= 2 * SKETCH_WIDTH else 0
        if width >= d:
            width = 0
        self.precision = native_precision("cpu")
        self.dtype = dtype_of(self.precision)
        self.columns = width or d
        self._axes = torch.from_numpy(principal_directions(vectors, squares, width - 1)) if width else None
        self._delta = (accumulation_error(d) + 2.0**-23) * float(np.sqrt(self.columns)) if width else 0.0

    def __call__(self, vectors: np.ndarray, squares: np.ndarray) -> tuple[torch.Tensor, float]:
        """Rows (m, columns) in the CPU's native precision, and their largest rounding residual."""
        if self._axes is None:
            return low_unit_rows(vectors, squares, self.dtype)
        leading = unit_rows(vectors, squares) @ self._axes
        low = torch.empty(len(leading), self.columns, dtype=self.dtype)
        excess = 2 * self._delta + self._delta**2 + 2.0**-20
        if self.dtype == torch.bfloat16:
            worst = _finish_low(leading.numpy(), squares, excess, low.view(torch.int16).numpy())
        else:
            rows = torch.empty(low.shape)
            _finish(leading.numpy(), squares, excess, rows.numpy())
            low.copy_(rows)
            worst = float(((rows - low.float()) ** 2).sum(dim=1).max()) if len(rows) else 0.0
        return low, math.sqrt(worst) + MEASURING if len(low) else 0.0

    def slack(self, residual: float) -> float:
        """Largest error of products of rows with at most this residual; see `LowRows`."""
        delta = self._delta
        # A sketch's norm is within 3δ of 1, hence the factor on what is proportional to it.
        return product_slack(self.precision, self.columns, residual) * (1 + 6 * delta) + 2 * delta + delta**2


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _finish_row(leading, excess, out):
    """The row of a sketch: its leading part and the norm of the rest."""
    taken = 0.0
    for at in range(leading.shape[0]):
        out[at] = leading[at]
        taken += np.float64(leading[at]) * np.float64(leading[at])
    out[leading.shape[0]] = np.float32(math.sqrt(max(0.0, 1.0 - taken + excess)))


@njit(cache=True, nogil=True, error_model="numpy")
def _finish(leading, squares, excess, out):
    for row in range(leading.shape[0]):
        if squares[row] == 0.0:
            out[row] = np.float32(0.0)
        else:
            _finish_row(leading[row], excess, out[row])


@njit(cache=True, nogil=True, error_model="numpy")
def _finish_low(leading, squares, excess, out):
    """As `_finish`, rounded to bfloat16 bits; returns the largest sum of squared errors of a row."""
    whole = np.empty((1, out.shape[1]), np.float32)
    worst = np.float32(0.0)
    for row in range(leading.shape[0]):
        _finish(leading[row : row + 1], squares[row : row + 1], excess, whole)
        worst = max(worst, round_row(whole[0], out[row]))
    return worst
