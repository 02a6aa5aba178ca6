"""Compiled epilogue of a product: scans it for proposals and decides each of them, in one pass.

A product tile is seen as integers: bfloat16 as int16, float32 as int32. Non-negative floats order like their bit
patterns, and negative ones have a negative pattern, so one integer comparison with the pattern of a positive bound is
the comparison of the floats. There is no mask and no list of proposals: the canonical similarity decides each proposal
at once, and only matches are written.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

from dedup_assets.compute.similarity import LANES, cosine, dot_half, dot_single

CHUNK = 64
"""Columns compared at once before single ones: two AVX-512 registers of int16. About one chunk in
a hundred holds a proposal in cells of text embeddings."""

LOWEST_BOUND = 1e-6
"""Bounds below are treated as negative ones: around zero, signed zeros and flushed products would matter."""


def bound_pattern(bound: float, wide: bool) -> int:
    """Bit pattern of the bound rounded to nearest, as the products are: int16 of bfloat16, or int32.

    A bound below `LOWEST_BOUND` gives the pattern for ordered tiles (`order_narrow`, `order_wide`).
    """
    bound = bound if bound >= LOWEST_BOUND else min(bound, -LOWEST_BOUND)
    pattern = int(np.float32(bound).view(np.int32))
    if wide:
        return int(order_pattern(pattern, 32))
    # Round to nearest, ties to even, on the upper half: what the hardware does to the products.
    upper = ((pattern & 0xFFFFFFFF) + 0x7FFF + ((pattern >> 16) & 1)) >> 16
    return int(order_pattern(int(np.uint16(upper & 0xFFFF).view(np.int16)), 16))


def order_pattern(pattern: int, bits: int) -> int:
    """Make patterns of negative floats order like the floats: flip all but the sign."""
    return pattern ^ ((1 << (bits - 1)) - 1) if pattern < 0 else pattern


@njit(cache=True, nogil=True)
def order_narrow(product):
    """`order_pattern` of a whole int16 tile, in place. Only bounds below zero need it."""
    for row in range(product.shape[0]):
        for at in range(product.shape[1]):
            v = np.int16(product[row, at])
            product[row, at] = v ^ (np.int16(v >> 15) & np.int16(0x7FFF))


@njit(cache=True, nogil=True)
def order_wide(product):
    """`order_pattern` of a whole int32 tile, in place."""
    for row in range(product.shape[0]):
        for at in range(product.shape[1]):
            v = np.int32(product[row, at])
            product[row, at] = v ^ (np.int32(v >> 31) & np.int32(0x7FFFFFFF))


@njit(cache=True, nogil=True)
def gather(source, position, rows, out):
    """Copy ``source[position[rows[r]]]`` to ``out[r]``; both 2-d, of integers as wide as the row allows."""
    width = source.shape[1]
    for r in range(rows.shape[0]):
        at = position[rows[r]]
        for word in range(width):
            out[r, word] = source[at, word]


@njit(cache=True, nogil=True)
def propose(product, bound, rows, columns, out_row, out_column):
    """Write the positions at or above the bound in the first rows and columns of a tile (rows, chunks, `CHUNK`); return
    their number.

    The output arrays hold the whole tile.
    """
    count = 0
    for row in range(rows):
        for chunk in range((columns + CHUNK - 1) // CHUNK):
            hit = np.int16(0)
            for at in range(CHUNK):
                hit |= np.int16(product[row, chunk, at] >= bound)
            if hit == 0:
                continue
            for at in range(min(CHUNK, columns - chunk * CHUNK)):
                if product[row, chunk, at] >= bound:
                    out_row[count] = row
                    out_column[count] = chunk * CHUNK + at
                    count += 1
    return count


def _row_dot(vectors, p, q, lanes):
    """Dot product of two rows, by the dtype of the vectors."""
    raise NotImplementedError


@overload(_row_dot)
def _typed_row_dot(vectors, p, q, lanes):
    # By overloading and not by a closure over one of the two: a closure over a compiled function is never found in
    # numba's cache, so each process compiled it again, which took a second or two.
    if vectors.dtype == types.uint16:
        return lambda vectors, p, q, lanes: dot_half(vectors[p], vectors[q])
    return lambda vectors, p, q, lanes: dot_single(vectors[p], vectors[q], lanes)


@njit(cache=True, nogil=True, error_model="numpy")
def scan(product, bound, row_ids, col_ids, diagonal, vectors, squares, floor, first, out_i, out_j, out_s, count):
    """Scan rows ``first`` on of a tile; return the matches written so far and the next row.

    The tile is (rows, chunks, `CHUNK`), at least as wide as there are columns. Column c of row r is
    skipped where ``c <= r + diagonal`` (the other half of a symmetric product). Stops before a row for
    which the output might not have room.
    """
    columns = col_ids.shape[0]
    lanes = np.empty(LANES, np.float64)
    row = first
    while row < row_ids.shape[0]:
        start = max(0, row + diagonal + 1)
        if start < columns:
            if count + columns - start > out_i.shape[0]:
                return count, row
            p = row_ids[row]
            for chunk in range(start // CHUNK, (columns + CHUNK - 1) // CHUNK):
                # Whole chunks and no branch, so that the loop becomes vector comparisons: 14 products/ns
                # against 1.7 for a maximum. Products to the right of the last column may be tested in vain,
                # without effect.
                hit = np.int16(0)
                for at in range(CHUNK):
                    hit |= np.int16(product[row, chunk, at] >= bound)
                if hit == 0:
                    continue
                left = chunk * CHUNK
                for at in range(max(left, start), min(left + CHUNK, columns)):
                    if product[row, chunk, at - left] >= bound:
                        q = col_ids[at]
                        s = cosine(_row_dot(vectors, p, q, lanes), squares[p], squares[q])
                        if s >= floor:
                            out_i[count] = p
                            out_j[count] = q
                            out_s[count] = s
                            count += 1
        row += 1
    return count, row
