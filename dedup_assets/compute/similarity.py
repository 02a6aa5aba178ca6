"""The one similarity that decides, and the error bounds of the cheap products that propose.

Every decision of the package is ``canonical similarity >= threshold``. A product in a lower precision only proposes
pairs. The module has no notion of cells, shards or files.

Definition
----------
``s(x, y) = (Σ x_d·y_d) / sqrt(Σ x_d² · Σ y_d²)`` on the *stored* vectors in float64, clipped to [-1, 1];
0 where either norm is zero. The product of the norms is written as one square root because
``sqrt(a·a) == a`` holds exactly in IEEE binary arithmetic: identical vectors have similarity exactly 1,
so a threshold of 1 means what it says.

Why it is the same number everywhere
------------------------------------
float16 storage: each component is a multiple of 2^-24, each product a multiple of 2^-48. By Cauchy–Schwarz
every partial sum, in any order, is at most ‖x‖·‖y‖ in magnitude. For ‖x‖·‖y‖ <= 2^4 all partial sums are
multiples of 2^-48 below 2^5, hence fit the 53 bits of a float64: nothing is ever rounded, and any device,
library and order gives the same bits. (Unit vectors have ‖x‖·‖y‖ ≈ 1.)

float32 storage: products are exact in float64 (24 + 24 bits), sums are not, so one order is fixed: component
d goes to accumulator d mod 64, in ascending d; then the upper half of the accumulators is added to the lower
half, six times. No reassociation is allowed to the compiler, and fusing multiply and add changes nothing
because the product is exact. The result does not depend on batching or on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numba import njit

PAIRS_PER_THREAD = 65_536
"""Below this many pairs a second thread costs more than it saves (65,536 pairs × 384 take about 15 ms)."""

LANES = 64
"""Accumulators of a float32 dot product: part of the definition, see the module docstring."""

_INPUT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}
"""Largest relative error of rounding to nearest: half a unit in the last place of the significand."""


def input_error(precision: str) -> float:
    """Bound of ``‖x - round(x)‖`` for a vector of at most 65,536 components with ‖x‖ <= 1.

    Rounding changes each normal component by at most u relatively, all of them together by at most u·‖x‖.
    Components below the smallest normal number lose at most that number each (hardware may flush them to
    zero), all together 2^8 times that; fp16 keeps them, at an absolute error of half of 2^-24.
    """
    small = 2.0**-25 if precision == "fp16" else 2.0**-126
    return _INPUT_ROUNDOFF[precision] + 2.0**8 * small


def accumulation_error(dimension: int) -> float:
    """Bound of the error of summing ``dimension`` products of two unit vectors in float32, in any order.

    γ_d = d·u/(1 - d·u) with u = 2^-23: twice the float32 roundoff, because matrix units may truncate instead
    of rounding to nearest. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.
    """
    total = dimension * 2.0**-23
    return total / (1.0 - total)


def proposal_slack(precision: str, dimension: int) -> float:
    """Strict bound of ``|low precision product - exact cosine|`` for two unit vectors.

    Parameters
    ----------
    precision : {"bf16", "fp16", "fp32"}
        Precision of both inputs and of the output; sums are in float32.
    dimension : int
        Number of components, at most 65,536.

    Returns
    -------
    float
        Propose every pair whose product is at or above ``floor - slack``: none at or above ``floor`` is lost.

    Notes
    -----
    With x̂ = x + e, ŷ = y + f, ‖e‖, ‖f‖ <= r (`input_error`): |x̂·ŷ - x·y| = |e·y + x·f + e·f| <= 2r + r².
    Float32 sums add γ_d·‖x̂‖·‖ŷ‖ <= γ_d·(1 + r)². Rounding the result, of magnitude at most
    (1 + r)²·(1 + γ_d), to the output precision adds u times that. Normalising the stored vectors in float32
    leaves their norms within 2^-22 of 1, which is added for each of the two.
    bf16: 0.0118; fp16: 0.0015; fp32: 0.00005 (d = 384). With a comparison against the *rounded* threshold the
    output term is not needed, see `product_slack`.
    """
    r = input_error(precision)
    magnitude = (1.0 + r) ** 2 * (1.0 + accumulation_error(dimension))
    return product_slack(precision, dimension) + _INPUT_ROUNDOFF[precision] * magnitude


def product_slack(precision: str, dimension: int, residual: float | None = None) -> float:
    """As `proposal_slack`, before the output is rounded, optionally with a measured input error.

    Rounding to nearest is monotone: if the float32 sum is >= τ, the rounded sum is >= round(τ). Comparing the
    output with ``round(floor - product_slack)`` in the output's precision therefore loses nothing, and saves
    the half unit in the last place that `proposal_slack` spends.

    Parameters
    ----------
    residual : float, optional
        Measured largest ``‖x - round(x)‖`` over the rows on both sides; the worst case when absent.
    """
    r = input_error(precision) if residual is None else residual
    magnitude = (1.0 + r) ** 2
    return 2 * r + r * r + accumulation_error(dimension) * magnitude + 2 * 2.0**-22


@njit(cache=True, nogil=True)
def half_to_float(bits: int) -> np.float32:
    """Value of a float16 given as uint16 (numba has no float16 on the CPU); exact for finite values.

    Sign and the other bits move to their float32 places; multiplying by 2^112 corrects the bias of the
    exponent (127 - 15) and makes subnormals right as well. Free of branches, so that it vectorises.
    """
    wide = np.int32(bits)
    shifted = ((wide & np.int32(0x7FFF)) << np.int32(13)) | ((wide & np.int32(0x8000)) << np.int32(16))
    return np.int32(shifted).view(np.float32) * np.float32(2.0**112)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def dot_half(a: np.ndarray, b: np.ndarray) -> float:
    """Dot product of two float16 rows given as uint16. Every order gives the same bits: see the module."""
    total = 0.0
    for at in range(a.shape[0]):
        total += np.float64(half_to_float(a[at])) * np.float64(half_to_float(b[at]))
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def dot_single(a: np.ndarray, b: np.ndarray, lanes: np.ndarray) -> float:
    """Dot product of two float32 rows in the fixed order of the module; ``lanes`` is scratch, float64 (64,).

    64 lanes measured 1.2× as fast as 8: the compiler vectorises over lanes only when the loop is long enough.
    """
    d = a.shape[0]
    lanes[:] = 0.0
    whole = d - d % LANES
    for base in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += np.float64(a[base + lane]) * np.float64(b[base + lane])
    for lane in range(d - whole):
        lanes[lane] += np.float64(a[whole + lane]) * np.float64(b[whole + lane])
    width = LANES // 2
    while width > 0:
        for lane in range(width):
            lanes[lane] += lanes[lane + width]
        width //= 2
    return lanes[0]


@njit(cache=True, nogil=True, error_model="numpy")
def cosine(dot: float, square_a: float, square_b: float) -> float:
    """Canonical similarity from the dot product and the squared norms, all float64."""
    if square_a == 0.0 or square_b == 0.0:
        return 0.0
    return min(1.0, max(-1.0, dot / np.sqrt(square_a * square_b)))


@njit(cache=True, nogil=True, error_model="numpy")
def _squares_half(rows: np.ndarray, out: np.ndarray) -> None:
    for row in range(rows.shape[0]):
        out[row] = dot_half(rows[row], rows[row])


@njit(cache=True, nogil=True, error_model="numpy")
def _squares_single(rows: np.ndarray, out: np.ndarray) -> None:
    lanes = np.empty(LANES, np.float64)
    for row in range(rows.shape[0]):
        out[row] = dot_single(rows[row], rows[row], lanes)


@njit(cache=True, nogil=True, error_model="numpy")
def _pairs_half(a, i, b, j, squares_a, squares_b, out):
    for at in range(i.shape[0]):
        p, q = i[at], j[at]
        out[at] = cosine(dot_half(a[p], b[q]), squares_a[p], squares_b[q])


@njit(cache=True, nogil=True, error_model="numpy")
def _pairs_single(a, i, b, j, squares_a, squares_b, out):
    lanes = np.empty(LANES, np.float64)
    for at in range(i.shape[0]):
        p, q = i[at], j[at]
        out[at] = cosine(dot_single(a[p], b[q], lanes), squares_a[p], squares_b[q])


def as_bits(vectors: np.ndarray) -> np.ndarray:
    """Rows as the kernels take them: float16 as uint16, float32 as it is; C order, no copy where possible."""
    if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
        raise TypeError(
            f"vectors must be (n, d) float16 or float32, found shape {vectors.shape}, dtype {vectors.dtype}"
        )
    rows = np.ascontiguousarray(vectors)
    return rows.view(np.uint16) if rows.dtype == np.float16 else rows


def squared_norms(vectors: np.ndarray, threads: int = 1) -> np.ndarray:
    """Canonical squared norms, float64 (n,), of vectors (n, d) float16 or float32."""
    rows = as_bits(vectors)
    out = np.empty(len(rows), np.float64)
    kernel = _squares_half if rows.dtype == np.uint16 else _squares_single
    in_parts(lambda at: kernel(rows[at], out[at]), len(rows), threads)
    return out


def in_parts(work: Callable[[slice], None], n: int, threads: int) -> None:
    """Call ``work`` on slices that cover 0 … n, on several threads where there is enough to do."""
    parts = max(1, min(threads, n // PAIRS_PER_THREAD))
    bounds = np.linspace(0, n, parts + 1).astype(np.int64).tolist()
    slices = [slice(low, high) for low, high in pairwise(bounds)]
    if parts == 1:
        work(slices[0])
    else:
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(work, slices))


def canonical_pairs(
    vectors: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
    *,
    squares: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Canonical similarities of pairs of rows.

    Parameters
    ----------
    vectors : array (n, d), float16 or float32
        Stored vectors. float16 rows should have norms whose products are at most 16 (unit vectors do).
    i, j : integer arrays (m,)
        Row numbers.
    squares : float64 array (n,), optional
        `squared_norms` of the vectors, if already computed.
    threads : int
        Kernels release the GIL; more threads are used only for many pairs.

    Returns
    -------
    float64 array (m,), each in [-1, 1]; symmetric in i and j; 0 where a norm is zero.
    """
    if squares is None:
        squares = squared_norms(vectors)
    return canonical_between(vectors, i, vectors, j, squares, squares, threads)


def canonical_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Canonical similarity of row r of ``a`` with row r of ``b``, both (n, d) of one dtype: float64 (n,)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        raise TypeError(
            f"expected two arrays of one shape and dtype, found {a.shape} {a.dtype} and {b.shape} {b.dtype}"
        )
    rows = np.arange(len(a))
    return canonical_between(a, rows, b, rows, squared_norms(a), squared_norms(b))


def canonical_between(
    a: np.ndarray,
    i: np.ndarray,
    b: np.ndarray,
    j: np.ndarray,
    squares_a: np.ndarray,
    squares_b: np.ndarray,
    threads: int = 1,
) -> np.ndarray:
    """Canonical similarities of rows ``i`` of ``a`` with rows ``j`` of ``b``: as `canonical_pairs`."""
    rows_a, rows_b = as_bits(a), as_bits(b)
    if len(i) != len(j):
        raise ValueError(f"i and j must have one length, found {len(i)} and {len(j)}")
    if len(i) and (min(i.min(), j.min()) < 0 or i.max() >= len(a) or j.max() >= len(b)):
        raise IndexError(f"row numbers must be in [0, {len(a)}) and [0, {len(b)})")
    kernel = _pairs_half if rows_a.dtype == np.uint16 else _pairs_single
    out = np.empty(len(i), np.float64)
    in_parts(lambda at: kernel(rows_a, i[at], rows_b, j[at], squares_a, squares_b, out[at]), len(i), threads)
    return out


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows (n, d) at unit length, float64; zero rows stay zero."""
    wide = vectors.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    wide /= np.where(largest > 0, largest, 1.0)  # first, so that squares neither overflow nor vanish
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    return wide / np.where(norms > 0, norms, 1.0)
