"""Shards in the layout of the disk, for tests of blocks, groups and the join."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dedup_assets.compute.blocks import ShardPiece
from dedup_assets.compute.cells import assign

FIRST_KEY = 1 << 40
"""Added to the row of the corpus to give a row's key."""


def pieces_of(
    vectors: np.ndarray, centroids: np.ndarray, floor: float, shards: np.ndarray, new_shards: Sequence[bool]
) -> list[ShardPiece]:
    """One piece for each shard with rows; ``shards`` (n,) holds the shard of each row."""
    pieces = []
    for number in np.unique(shards):
        rows = np.flatnonzero(shards == number)
        cells = assign(vectors[rows], centroids, floor)
        order, offsets = cells.home_rows()
        place = np.empty(len(rows), np.int32)
        place[order] = np.arange(len(rows), dtype=np.int32)
        pieces.append(
            ShardPiece(
                vectors=vectors[rows][order],
                home_offsets=offsets,
                ghost_rows=place[cells.ghost_rows],
                ghost_offsets=cells.ghost_offsets,
                keys=rows[order].astype(np.int64),
                is_new=bool(new_shards[number]),
                first_key=FIRST_KEY,
            )
        )
    return pieces
