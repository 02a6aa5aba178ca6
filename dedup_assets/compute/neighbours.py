"""Similarity of rows to their nearest neighbours, over every pair; outliers and representatives.

Exact: products in low precision only propose pairs, and the canonical similarity of each proposal is used. Works on
arrays without cells, because the nearest neighbours of an outlier may share no cell with it.

Definitions
-----------
The *score* of a row is its mean canonical similarity to the `NEIGHBOURS` rows nearest to it, without itself: the mean
distance to the k nearest neighbours (Angiulli and Pizzuti, Fast Outlier Detection in High Dimensional Spaces, 2002), as
a similarity. SemHash has the same score. *Outliers* are the rows with the lowest scores. *Representatives* are chosen
from the rows with the highest scores by maximal marginal relevance (Carbonell and Goldstein, The Use of MMR, 1998).

Scores have the same bits for any number of threads, block size, precision and order of the neighbours: similarities are
canonical, and the largest ones are sorted before they are summed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Protocol

import numpy as np
from numba import njit

from dedup_assets.compute.precision import (
    bits_of,
    dtype_of,
    low_unit_rows,
    native_precision,
    one_thread_each,
    to_bfloat,
)
from dedup_assets.compute.scan import CHUNK, LOWEST_BOUND
from dedup_assets.compute.similarity import (
    LANES,
    as_bits,
    canonical_between,
    cosine,
    dot_half,
    dot_single,
    product_slack,
    proposal_slack,
    squared_norms,
)
from dedup_assets.compute.streams import stream
from dedup_assets.later import torch

NEIGHBOURS = 100
"""Number of nearest neighbours over which a score is the mean, as in SemHash."""

CANDIDATES = (10, 1_000)
"""Representatives are chosen from the texts with the best scores: 10 for each requested one, and at least 1,000."""

BLOCK_ROWS = (1_024, 8_192)
"""Least and most rows of a block. Every pair of rows of two blocks is compared; a thread holds both and a part of their
product, about 150 MB at 384 numbers a row."""

TILE_ROWS = 256
"""Rows of one block that are multiplied at once with the whole other block: 8 MB of float32."""


class Rows(Protocol):
    """Vectors (n, d), float16 or float32, that several threads read by slices; an array is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: slice, /) -> np.ndarray: ...


def mean_of_nearest(
    rows: Rows,
    others: Rows | None = None,
    count: int = NEIGHBOURS,
    *,
    threads: int = 1,
    done: Callable[[int], None] = lambda rows: None,
    block_rows: int | None = None,
) -> np.ndarray:
    """Mean similarity of each row to its nearest neighbours: float64 (n,). See the module for the definition.

    Time grows with the square of the number of rows; memory is 8 bytes a row and neighbour, and 150 MB a thread.

    Parameters
    ----------
    rows : array (n, d), float16 or float32, or `Rows`
    others : array (m, d), of the same dtype, optional
        The candidates for neighbours; by default the rows themselves, each without itself.
    count : int
        Most neighbours of each row. Without neighbours, the mean is 0.
    threads : int
    done : callable
        Called with the number of rows done since the last call, as a share of the work.
    block_rows : int, optional
        Rows of a block; no result depends on it.
    """
    theirs = rows if others is None else others
    count = min(count, len(theirs) - (others is None))
    n = len(rows)
    if not n or not count:
        done(n)
        return np.zeros(n)
    size = block_rows or int(np.clip(-(-max(n, len(theirs)) // (4 * threads)), *BLOCK_ROWS))
    work = _Comparison(rows, others, np.full((n, count), -np.inf), size)
    reported = _Shares(n, len(work.pairs), done)
    with one_thread_each(threads):
        for _ in stream(lambda emit: work, len(work.pairs), threads, reported):
            raise AssertionError("nothing is emitted")
    return _means(work.nearest)


def lowest(scores: np.ndarray, count: int) -> np.ndarray:
    """Indexes int64 (count,) of the rows with the lowest scores, the lowest first; among equals, the later first."""
    return np.lexsort((-np.arange(len(scores)), scores))[:count]


def rows_of_share(rows: int, share: float) -> int:
    """Number of rows in a share of them, rounded up. The rounding error of a share does not count: it is 7 for 0.07 of
    100, although the float 0.07 is above 7/100."""
    return ceil(rows * Fraction(share) - Fraction(1, 10**8))


def representatives(
    scores: np.ndarray, count: int, diversity: float, vectors: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Indexes int64 (at most count,) of rows that represent the others, in the order in which they are chosen.

    `diverse` chooses them from the `CANDIDATES` with the best scores; among equals, the earlier.

    Parameters
    ----------
    scores : float64 (n,)
    count : int
        At least 1; fewer are returned if there are fewer rows.
    diversity : float
        From 0 to 1.
    vectors : callable
        Returns the vectors (m, d) of rows by their indexes (m,).
    """
    best = np.argsort(-scores, kind="stable")[: max(CANDIDATES[0] * count, CANDIDATES[1])]
    return best[diverse(vectors(best), scores[best], min(count, len(best)), diversity)] if len(best) else best


def diverse(rows: np.ndarray, scores: np.ndarray, count: int, diversity: float) -> np.ndarray:
    """Row numbers int64 (count,) in the order in which they are chosen, by maximal marginal relevance.

    Each step chooses the row with the largest ``(1 - diversity)·score - diversity·(largest similarity to the chosen
    rows)``; among equals, the first. In the first step the largest similarity is taken as 0.

    Parameters
    ----------
    rows : array (n, d), float16 or float32
    scores : float64 (n,)
    count : int
        At most n.
    diversity : float
        From 0, the highest scores alone, to 1, the most different rows alone.
    """
    squares, every = squared_norms(rows), np.arange(len(rows))
    nearest = np.zeros(len(rows))
    value = (1.0 - diversity) * scores
    chosen: list[int] = []
    left = np.ones(len(rows), bool)
    for _ in range(count):
        at = int(np.argmax(np.where(left, value - diversity * nearest, -np.inf)))
        near = canonical_between(rows, every, rows, np.full(len(rows), at), squares, squares)
        nearest = np.maximum(nearest, near) if chosen else near
        left[at] = False
        chosen.append(at)
    return np.array(chosen, np.int64)


# ------------------------------------------------------------------------------------- every pair


@dataclass(frozen=True)
class _Block:
    """Rows prepared for the comparison."""

    bits: np.ndarray  # (n, d) as the kernels take them
    squares: np.ndarray  # (n,) float64
    low: torch.Tensor  # (n, d) unit rows in the precision of the products, rows of zeros up to whole chunks
    residual: float  # the largest rounding error among them


class _Comparison:
    """Compares pairs of blocks, in any number of threads with different pairs.

    Attributes
    ----------
    nearest : float64 (n, count)
        The largest similarities of each row so far, as a heap with the smallest first.
    pairs : list of (int, int)
        The blocks to compare; each pair once if rows are compared with themselves. As far as possible, successive pairs
        share no block, so that threads do not wait for each other.
    """

    def __init__(self, rows: Rows, others: Rows | None, nearest: np.ndarray, size: int) -> None:
        self.nearest = nearest
        # Lower bound on the similarity of a neighbour: never above the smallest of the final nearest similarities.
        self._reach = np.full(len(rows), -np.inf)
        self._rows, self._others, self._size = rows, others, size
        self._precision = native_precision("cpu")
        mine = -(-len(rows) // size)
        if others is None:
            steps = range(mine // 2 + 1)
            self.pairs = [(i, (i + step) % mine) for step in steps for i in range(mine) if 2 * step < mine or i < step]
        else:
            theirs = -(-len(others) // size)
            self.pairs = [(i, (i + step) % theirs) for step in range(theirs) for i in range(mine)]
        self._locks = [threading.Lock() for _ in range(mine)]

    def __call__(self, item: int) -> None:
        """Compare one pair of blocks."""
        i, j = self.pairs[item]
        left = self._block(self._rows, i)
        inside = self._others is None and i == j
        right = left if inside else self._block(self._rows if self._others is None else self._others, j)
        mutual = self._others is None and not inside
        slack = product_slack(self._precision, left.bits.shape[1], max(left.residual, right.residual))
        for first in range(0, len(left.bits), TILE_ROWS):
            at = slice(first, min(first + TILE_ROWS, len(left.bits)))
            product = left.low[at] @ right.low.T
            held = [self._locks[block] for block in sorted({i, j} if mutual else {i})]
            for lock in held:
                lock.acquire()
            try:
                self._take(product, left, right, i, j, at, inside, mutual, slack)
            finally:
                for lock in held:
                    lock.release()

    def finish(self) -> None:
        """Required by `stream`; there is nothing to emit."""

    def _take(
        self,
        product: torch.Tensor,
        left: _Block,
        right: _Block,
        i: int,
        j: int,
        at: slice,
        inside: bool,
        mutual: bool,
        slack: float,
    ) -> None:
        mine = slice(i * self._size + at.start, i * self._size + at.stop)
        theirs = slice(j * self._size, j * self._size + len(right.bits)) if mutual else slice(0, 0)
        reach = self._reach[mine]
        silent = left.squares[at] == 0.0  # a zero row has similarity 0 to every row
        self.nearest[mine][silent], reach[silent] = 0.0, np.inf
        if not np.isfinite(reach).any():
            self._begin(product, len(right.bits), reach, at.start if inside else None)
        pattern = bits_of(product)
        pattern = (pattern if pattern.dtype == np.int16 else pattern.view(np.int32)).reshape(len(reach), -1, CHUNK)
        (_scan_half if left.bits.dtype == np.uint16 else _scan_single)(
            pattern,
            left.bits[at],
            right.bits,
            left.squares[at],
            right.squares,
            self.nearest[mine],
            self.nearest[theirs],
            reach,
            self._reach[theirs],
            slack,
            at.start if inside else -1,
        )

    def _begin(self, product: torch.Tensor, columns: int, reach: np.ndarray, itself: int | None) -> None:
        """Set the first lower bounds: the count-th largest product in the first block, less its error. Without them
        the first thousands of rows would all be candidates."""
        count = self.nearest.shape[1]
        if columns - (itself is not None) < count:
            return
        near = product[:, :columns].float().numpy().copy()
        if itself is not None:
            near[np.arange(len(near)), itself + np.arange(len(near))] = -2.0
        near.partition(columns - count, axis=1)
        known = np.isneginf(reach)
        reach[known] = near[known, columns - count] - proposal_slack(self._precision, self._width())

    def _width(self) -> int:
        return self._rows[:1].shape[1]

    def _block(self, rows: Rows, number: int) -> _Block:
        vectors = rows[number * self._size : (number + 1) * self._size]
        squares = squared_norms(vectors)
        low, residual = low_unit_rows(vectors, squares, dtype_of(self._precision))
        padding = -len(vectors) % CHUNK
        if padding:
            low = torch.cat([low, low.new_zeros(padding, low.shape[1])])
        return _Block(as_bits(vectors), squares, low, residual)


class _Shares:
    """Converts finished pairs of blocks to a number of finished rows, and reports it."""

    def __init__(self, rows: int, pairs: int, tell: Callable[[int], None]) -> None:
        self._rows, self._pairs, self._tell = rows, pairs, tell
        self._done, self._lock = 0, threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            before = self._rows * self._done // self._pairs
            self._done += 1
            self._tell(self._rows * self._done // self._pairs - before)


@njit(cache=True, nogil=True)
def _pattern(bound, wide):
    """The bit pattern of a bound in the products' type; below `LOWEST_BOUND` the smallest integer, since negative
    floats do not order like their bits."""
    if bound < LOWEST_BOUND:
        return np.int32(-(2**31)) if wide else np.int32(-(2**15))
    if bound == np.inf:
        return np.int32(2**31 - 1) if wide else np.int32(2**15 - 1)
    return np.float32(bound).view(np.int32) if wide else to_bfloat(bound)


@njit(cache=True, nogil=True)
def _put(heap, value):
    """Replace the smallest value of a heap, its first."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= heap.shape[0]:
            break
        if child + 1 < heap.shape[0] and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


def _make_scan(dot):
    @njit(cache=True, nogil=True, error_model="numpy")
    def scan(product, a, b, squares_a, squares_b, nearest_a, nearest_b, reach_a, reach_b, slack, itself):
        """Add the similarities of a tile that may be among the largest of their row or of their column.

        `product` is (rows, chunks, `CHUNK`), integers that order like the products where these are positive. Its rows
        are those of `a`. The columns are updated unless `nearest_b` is empty. Row r is the same row as column
        ``itself + r``, which is skipped; a negative `itself` means that no row is among the columns.
        """
        wide = product.itemsize == 4
        columns = b.shape[0]
        lanes = np.empty(LANES, np.float64)
        mutual = nearest_b.shape[0] > 0
        bounds = np.full(product.shape[1:], _pattern(np.inf, wide), product.dtype)
        if mutual:
            for at in range(columns):
                bounds[at // CHUNK, at % CHUNK] = _pattern(reach_b[at] - slack, wide)
        for row in range(product.shape[0]):
            bound = product.dtype.type(_pattern(reach_a[row] - slack, wide))
            for chunk in range(product.shape[1]):
                hit = np.int16(0)
                for at in range(CHUNK):  # without a branch: a loop of vector comparisons
                    hit |= np.int16(product[row, chunk, at] >= min(bound, bounds[chunk, at]))
                if hit == 0:
                    continue
                for at in range(min(CHUNK, columns - chunk * CHUNK)):
                    column = chunk * CHUNK + at
                    if product[row, chunk, at] < min(bound, bounds[chunk, at]) or (
                        itself >= 0 and column == itself + row
                    ):
                        continue
                    similarity = cosine(dot(a[row], b[column], lanes), squares_a[row], squares_b[column])
                    if similarity > nearest_a[row, 0]:
                        _put(nearest_a[row], similarity)
                        reach_a[row] = max(reach_a[row], nearest_a[row, 0])
                        bound = product.dtype.type(_pattern(reach_a[row] - slack, wide))
                    if mutual and similarity > nearest_b[column, 0]:
                        _put(nearest_b[column], similarity)
                        reach_b[column] = max(reach_b[column], nearest_b[column, 0])
                        bounds[chunk, at] = _pattern(reach_b[column] - slack, wide)

    return scan


@njit(cache=True, nogil=True)
def _dot_half(a, b, lanes):
    return dot_half(a, b)


_scan_half, _scan_single = _make_scan(_dot_half), _make_scan(dot_single)


@njit(cache=True, nogil=True)
def _means(nearest):
    """Means of rows, summed from the largest to the smallest, so that the bits do not depend on the order."""
    out = np.empty(nearest.shape[0])
    for row in range(nearest.shape[0]):
        total = 0.0
        for value in np.sort(nearest[row])[::-1]:
            total += value
        out[row] = total / nearest.shape[1]
    return out
