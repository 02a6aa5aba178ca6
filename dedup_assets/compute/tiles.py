"""Shapes of the products of the join on a CPU, chosen for its caches."""

from __future__ import annotations

from dedup_assets.compute.scan import CHUNK

TILE_ROWS = 256

TILE_BYTES = TILE_ROWS * 1920 * 2
"""Product of one tile: 256 × 1,920 bfloat16. Half an L2 cache, so that the scan reads the product from it. Not a power
of two: rows 4,096 bytes apart would share a few lines of the first cache. One core, 128 columns of sketch: 0.29 ns a
product with 1,344 to 2,000 columns, 0.43 with 1,024 and with 2,048."""

ROW_STEP, COLUMN_STEP = 64, 3 * CHUNK
"""Sides are rounded up to these, which makes 40 shapes: a product of a new shape costs 0.5 ms to prepare, once."""


def tile_columns(tile_bytes: int, itemsize: int) -> int:
    """Columns of a tile of `TILE_ROWS` rows within the bytes; whole chunks, at least one."""
    return max(CHUNK, tile_bytes // (itemsize * TILE_ROWS) // CHUNK * CHUNK)


def padded_rows(count: int) -> int:
    """Rows to multiply for ``count`` rows."""
    return min(TILE_ROWS, -(-count // ROW_STEP) * ROW_STEP)


def padded_columns(count: int, most: int) -> int:
    """Columns to multiply for ``count`` columns, at most ``most``."""
    return min(most, -(-count // COLUMN_STEP) * COLUMN_STEP)
