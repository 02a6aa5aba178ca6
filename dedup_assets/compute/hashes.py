"""Look-ups over 128-bit hashes as arrays: membership and first occurrence, without Python objects.

A hash is a row of two uint64 (see `dedup_assets.compute.text`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def empty_hashes() -> np.ndarray:
    """No hashes: shape (0, 2), uint64."""
    return np.empty((0, 2), dtype=np.uint64)


def hash_ids(ids: Iterable[str]) -> np.ndarray:
    """128-bit BLAKE2b of record ids: shape (n, 2), uint64."""
    digests = b"".join(hashlib.blake2b(value.encode("utf-8"), digest_size=16).digest() for value in ids)
    return np.frombuffer(digests, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def first_occurrences(hashes: np.ndarray) -> np.ndarray:
    """For each row, the index of the first row with an equal hash: shape (n,), int64."""
    n = len(hashes)
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: equal hashes stay in row order
    ordered = hashes[order]
    starts = np.ones(n, dtype=bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(n, dtype=np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1] if n else first
    return first


class HashIndex:
    """A sorted set of distinct hashes, each with an int64 value."""

    def __init__(self, hashes: np.ndarray, values: np.ndarray) -> None:
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        self._hashes = hashes[order]
        self._values = np.asarray(values, dtype=np.int64)[order]

    def __len__(self) -> int:
        return len(self._values)

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """The value of each hash, or -1 where it is unknown: shape (n,), int64."""
        found = np.full(len(hashes), -1, dtype=np.int64)
        if not len(self._values):
            return found
        high = np.ascontiguousarray(self._hashes[:, 0])
        place = np.searchsorted(high, hashes[:, 0], side="left")
        open_rows = np.arange(len(hashes))
        # Two different texts share the upper half once in 2^64: the loop ends after one step in practice.
        while len(open_rows):
            at = place[open_rows]
            inside = at < len(high)
            open_rows, at = open_rows[inside], at[inside]
            same_high = high[at] == hashes[open_rows, 0]
            open_rows, at = open_rows[same_high], at[same_high]
            hit = self._hashes[at, 1] == hashes[open_rows, 1]
            found[open_rows[hit]] = self._values[at[hit]]
            open_rows = open_rows[~hit]
            place[open_rows] += 1
        return found

    def extended(self, hashes: np.ndarray, values: np.ndarray) -> HashIndex:
        """A new index with further hashes, none of which is in it yet."""
        return HashIndex(np.concatenate([self._hashes, hashes]), np.concatenate([self._values, values]))
