"""Splits an assignment of rows into ranges of rows, and joins the results.

It handles row numbers and assignments; it reads no vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dedup_assets.compute.cells import CellAssignment, offsets_of


def row_ranges(rows: int, ranges: int) -> list[tuple[int, int]]:
    """Contiguous ranges of similar length; only a single range may be empty."""
    bounds = np.linspace(0, rows, max(1, min(ranges, rows)) + 1).astype(np.int64).tolist()
    return list(pairwise(bounds))


def joined(parts: Sequence[CellAssignment]) -> CellAssignment:
    """The assignment of all rows, from those of consecutive ranges of them under the same centroids."""
    counts = [np.diff(part.ghost_offsets) for part in parts]
    offsets = offsets_of(sum(counts[1:], counts[0]))
    rows = np.empty(offsets[-1], np.int32)
    cursor, first = offsets[:-1].copy(), 0
    for part, listed in zip(parts, counts, strict=True):
        # Within a cell rows ascend in each part, and those of a later part are higher.
        place = np.repeat(cursor - part.ghost_offsets[:-1], listed) + np.arange(len(part.ghost_rows))
        rows[place] = np.asarray(part.ghost_rows) + np.int32(first)
        cursor += listed
        first += len(part.home)
    return CellAssignment(np.concatenate([part.home for part in parts]), offsets, rows)
