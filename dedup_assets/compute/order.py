"""The curation order: of two matching records, the earlier one is the keeper. It has no notion of files or cells.

Every rule is a total order that depends on the records alone: not on the number of clusters, batches or
workers.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np
from numba import njit

from dedup_assets.compute.similarity import squared_norms
from dedup_assets.compute.sorting import hash_order


def prototype_cosine(vectors: np.ndarray) -> np.ndarray:
    """Cosine of each row with the mean direction of all rows, float64 (n,); 0 for zero rows.

    Sums run in float64 row after row and component after component, so the same rows in the same order give
    the same bits whatever the batches or threads (float16 sums are exact up to 2^29 rows of unit length).
    """
    if not len(vectors):
        return np.empty(0, np.float64)
    mean = np.zeros(vectors.shape[1], np.float64)
    out = np.empty(len(vectors), np.float64)
    step = 4096  # rows converted to float64 at a time: 12 MB at d = 384
    for start in range(0, len(vectors), step):
        _add_rows(vectors[start : start + step].astype(np.float64), mean)
    norm = float(np.sqrt(_dot(mean, mean)))
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step]
        _dots(part.astype(np.float64), mean, out[start : start + step])
    scale = np.sqrt(squared_norms(vectors)) * norm
    return np.divide(out, scale, out=np.zeros_like(out), where=scale > 0)


@njit(cache=True, nogil=True)
def _add_rows(rows, total):
    for row in range(rows.shape[0]):
        for at in range(rows.shape[1]):
            total[at] += rows[row, at]


@njit(cache=True, nogil=True)
def _dot(a, b):
    total = 0.0
    for at in range(a.shape[0]):
        total += a[at] * b[at]
    return total


@njit(cache=True, nogil=True)
def _dots(rows, direction, out):
    for row in range(rows.shape[0]):
        out[row] = _dot(rows[row], direction)


def random_keys(ids: Sequence[str], seed: int) -> np.ndarray:
    """64-bit keys uint64 (n,): BLAKE2b of the UTF-8 id, keyed by the seed. No state, no row numbers."""
    key = struct.pack("<q", seed)
    digests = b"".join(
        hashlib.blake2b(str(i).encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest() for i in ids
    )
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def order_by_value(values: Sequence | np.ndarray, descending: bool = False) -> np.ndarray:
    """Row numbers int64 (n,) in the order of some values (n,), nulls last in both directions, ties by row number.

    Parameters
    ----------
    values : sequence (n,)
        Numbers, strings, dates or booleans of one kind, ``None`` or NaN for null.
    descending : bool
        Largest value first.

    Raises
    ------
    TypeError
        Values of types that cannot be compared.
    """
    array = np.asarray(values)
    if array.dtype.kind in "OUST":
        return _by_object(list(values), descending)
    null = _null(array)
    present = np.flatnonzero(~null)
    _, code = np.unique(array[present], return_inverse=True)
    code = code.astype(np.int64)
    order = present[np.argsort(-code if descending else code, kind="stable")]
    return np.concatenate([order, np.flatnonzero(null)]).astype(np.int64)


def _null(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f":
        return np.isnan(array)
    if array.dtype.kind in "Mm":
        return np.isnat(array)
    return np.zeros(len(array), bool)


def _by_object(values: list, descending: bool) -> np.ndarray:
    """Python values: compared as Python compares them; NaN and NaT are unequal to themselves, hence null."""
    present = [row for row, value in enumerate(values) if value is not None and value == value]
    seen = set(present)
    null = [row for row in range(len(values)) if row not in seen]
    try:
        # reverse keeps equal elements in their order, so ties go by row number both ways
        present.sort(key=lambda row: values[row], reverse=descending)
    except TypeError as error:
        raise TypeError(f"column values of different kinds cannot be ordered: {error}") from None
    return np.array(present + null, dtype=np.int64)


def rebuild_order(
    text_hashes: np.ndarray,
    ids: Sequence[str],
    *,
    quality: Sequence | np.ndarray | None = None,
    descending: bool = False,
) -> np.ndarray:
    """Order over all records of a corpus that does not depend on shards or row numbers, int64 (n,).

    By quality value where one is given (nulls last), then text hash, then id.

    Parameters
    ----------
    text_hashes : uint64 array (n, 2)
        As `dedup_assets.compute.text.hash_texts` gives them.
    ids : sequence of str (n,)
        Unique over the corpus.
    """
    n = len(ids)
    if text_hashes.shape != (n, 2):
        raise ValueError(f"text_hashes must be ({n}, 2), found {text_hashes.shape}")
    by_id = np.array(sorted(range(n), key=lambda row: ids[row]), dtype=np.int64)
    by_hash = by_id[hash_order(text_hashes[by_id])]
    if quality is None:
        return by_hash
    if len(quality) != n:
        raise ValueError(f"quality must have {n} values, found {len(quality)}")
    values = np.asarray(quality)
    shuffled = values[by_hash] if values.dtype.kind not in "OUST" else [quality[row] for row in by_hash]
    return by_hash[order_by_value(shuffled, descending)]
