"""Stable orders of integers, as from `numpy.lexsort`, in linear time.

A radix sort that skips the bits in which all keys agree: keys of texts vary in 27 of 64 bits
where there are a hundred shards of a million rows. 4 million pairs of such keys take 0.36 s, lexsort 1.9; as many
hashes 1.2 and 3.0.
"""

from __future__ import annotations

import numpy as np
from numba import njit

DIGIT = 11
"""Bits of a pass: the counters of 2,048 digits fit the first cache."""

SMALL = 1_000
"""Below this numpy is as fast."""


def order_by(*keys: np.ndarray) -> np.ndarray:
    """Indexes int64 (n,) of n records in ascending order of the first key, then of the next; the order is stable. Keys
    are integer arrays (n,) of 64 bits."""
    n = len(keys[0])
    if n < SMALL:
        return np.lexsort(keys[::-1])
    order = np.arange(n, dtype=np.int32 if n <= np.iinfo(np.int32).max else np.int64)
    spare = np.empty_like(order)
    for at, key in enumerate(reversed(keys)):
        values = _unsigned(key)
        shifts = _shifts(values)
        if at and len(shifts):
            values = values[order]
        elif len(shifts):
            values = values.copy()
        other = np.empty_like(values) if len(shifts) else values
        for shift in shifts:
            _pass(values, order, np.uint64(shift), other, spare)
            values, other, order, spare = other, values, spare, order
    return order.astype(np.int64)


def hash_order(hashes: np.ndarray) -> np.ndarray:
    """`order_by` of 128-bit hashes, uint64 (n, 2): the second half is read only where two hashes share the first."""
    order = order_by(hashes[:, 0])
    ordered = hashes[order]
    same = ordered[1:, 0] == ordered[:-1, 0]
    if (ordered[1:, 1][same] < ordered[:-1, 1][same]).any():
        return order_by(hashes[:, 0], hashes[:, 1])
    return order


def _unsigned(key: np.ndarray) -> np.ndarray:
    """uint64 numbers in the same order as the given ones."""
    key = np.ascontiguousarray(key)
    if key.dtype == np.uint64:
        return key
    if key.dtype != np.int64:
        raise TypeError(f"keys must be int64 or uint64, found {key.dtype}")
    bits = key.view(np.uint64)
    return bits ^ np.uint64(1 << 63) if (key < 0).any() else bits


def _shifts(values: np.ndarray) -> list[int]:
    """Bit positions of the digits that cover all bits in which the values differ."""
    differing = int(np.bitwise_or.reduce(values ^ values[0]))
    shifts, at = [], 0
    while differing >> at:
        if (differing >> at) & 1:
            shifts.append(at)
            at += DIGIT
        else:
            at += 1
    return shifts


@njit(cache=True, nogil=True)
def _pass(values, order, shift, sorted_values, sorted_order):
    """Sort values and their indexes by one digit, stable."""
    mask = np.uint64((1 << DIGIT) - 1)
    place = np.zeros((1 << DIGIT) + 1, np.int64)
    for at in range(values.shape[0]):
        place[((values[at] >> shift) & mask) + np.uint64(1)] += 1
    for digit in range(1 << DIGIT):
        place[digit + 1] += place[digit]
    for at in range(values.shape[0]):
        digit = (values[at] >> shift) & mask
        to = place[digit]
        place[digit] = to + 1
        sorted_values[to] = values[at]
        sorted_order[to] = order[at]
