"""Look-ups over 128-bit hashes as arrays: membership and first occurrence, without Python objects.

A hash is a row of two uint64 (see `dedup_assets.compute.text`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from dedup_assets.compute.sorting import hash_order


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
    order = hash_order(hashes)  # stable: equal hashes stay in row order
    ordered = hashes[order]
    starts = np.ones(n, dtype=bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(n, dtype=np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1] if n else first
    return first


class HashIndex:
    """A set of distinct hashes, each with an int64 value, kept as a few sorted runs.

    An index that grows in small steps sorts only the new hashes. A run is merged with the one before it when it has
    reached half its length. So every hash is sorted about log2(n) times in total, and a look-up searches at most as
    many runs.
    """

    def __init__(self, hashes: np.ndarray, values: np.ndarray) -> None:
        self._runs = [_sorted_run(hashes, np.asarray(values, dtype=np.int64))] if len(hashes) else []

    def __len__(self) -> int:
        return sum(len(values) for _, values in self._runs)

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """The value of each hash, or -1 where it is unknown: shape (n,), int64."""
        found = np.full(len(hashes), -1, dtype=np.int64)
        for run in self._runs:
            _find_in(run, hashes, found)
        return found

    def extended(self, hashes: np.ndarray, values: np.ndarray) -> HashIndex:
        """A new index with more hashes, none of which is in this one."""
        grown = HashIndex(hashes, values)
        grown._runs = self._runs + grown._runs
        while len(grown._runs) > 1 and 2 * len(grown._runs[-1][1]) >= len(grown._runs[-2][1]):
            (old_hashes, old_values), (new_hashes, new_values) = grown._runs[-2:]
            merged = _sorted_run(np.concatenate([old_hashes, new_hashes]), np.concatenate([old_values, new_values]))
            grown._runs[-2:] = [merged]
        return grown


def _sorted_run(hashes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = hash_order(hashes)
    return hashes[order], values[order]


def _find_in(run: tuple[np.ndarray, np.ndarray], hashes: np.ndarray, found: np.ndarray) -> None:
    """Fill `found` where a hash is in the run."""
    known, values = run
    high = np.ascontiguousarray(known[:, 0])
    place = np.searchsorted(high, hashes[:, 0], side="left")
    open_rows = np.arange(len(hashes))
    # Two different texts share the upper half once in 2^64: the loop ends after one step in practice.
    while len(open_rows):
        at = place[open_rows]
        inside = at < len(high)
        open_rows, at = open_rows[inside], at[inside]
        same_high = high[at] == hashes[open_rows, 0]
        open_rows, at = open_rows[same_high], at[same_high]
        hit = known[at, 1] == hashes[open_rows, 1]
        found[open_rows[hit]] = values[at[hit]]
        open_rows = open_rows[~hit]
        place[open_rows] += 1
