"""Joins a block of cells on a device: whole where it fits, otherwise in parts that fit, down to parts of one cell.

It handles blocks and the free memory of the device; the join itself is `join`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dedup_assets.compute.blocks import CellBlock
from dedup_assets.compute.device.dense import looks_dense
from dedup_assets.compute.device.join import match_on_device
from dedup_assets.compute.device.listing import Listing
from dedup_assets.compute.device.memory import Room, free_bytes, in_halves
from dedup_assets.compute.device.rows import DeviceRows
from dedup_assets.compute.matches import DenseCells, Matches
from dedup_assets.compute.sketch import SKETCH_WIDTH

RESIDENT_SHARE = 0.5
"""Share of the free memory for rows, sketches and listings; the rest is for products and their results."""


@dataclass(frozen=True)
class _Part:
    """A listing, and the rows of the block it needs: int64 (m,), or None for all."""

    listing: Listing
    rows: np.ndarray | None


def match_block(
    block: CellBlock,
    floor: float,
    device: str,
    *,
    max_matches: int,
    pack_bytes: int | None = None,
    sketch: int | None = None,
    dense: DenseCells | None = None,
) -> Iterator[Matches]:
    """`join.match_cells` on a device, in as many parts as its memory requires.

    A part that does not fit is split in two, so a pair may be yielded more than twice. Raises NoRoomError where not
    even a few hundred rows fit.
    """
    vectors: np.ndarray | DeviceRows = block.vectors  # or rows already on the device
    if isinstance(vectors, DeviceRows):
        device = vectors.device
    itemsize = vectors.stored.element_size() if isinstance(vectors, DeviceRows) else vectors.dtype.itemsize
    row = row_bytes(vectors.shape[1], itemsize)
    listing = Listing(
        block.home_offsets, block.home_rows, block.ghost_offsets, np.asarray(block.ghost_rows), block.is_new
    )

    def match(part: _Part) -> Iterator[Matches]:
        rows = part.rows
        local = part.listing if rows is None else part.listing.of_rows(rows)
        if isinstance(vectors, DeviceRows):
            there = vectors if rows is None else vectors.take(rows)
        else:
            there = DeviceRows.of(vectors, device, rows, wide)
        # A part says nothing about its whole cell, which was tested for density before.
        within = None if dense is None or part.listing.is_part else DenseCells(dense.limit)
        found = match_on_device(
            there, local, floor, max_matches=max_matches, pack_bytes=pack_bytes, sketch=sketch, dense=within
        )
        if dense is not None and within is not None:
            named = [part.listing.first_cell + cell for cell in within.cells]
            dense.cells += [cell for cell in named if cell not in dense.cells]
        for i, j, similarity in found:
            yield Matches.of(i, j, similarity) if rows is None else Matches.of(rows[i], rows[j], similarity)

    def halves(part: _Part) -> list[_Part] | None:
        whole_cell = part.listing.cells == 1 and not part.listing.is_part
        if whole_cell and dense is not None and dense.limit and looks_dense(vectors, part.listing, floor, dense):
            dense.cells.append(part.listing.first_cell)
            return []
        parted = part.listing.halves()
        return None if parted is None else [_Part(smaller, smaller.rows()) for smaller in parted]

    def size(part: _Part) -> int:
        rows = len(block.is_new) if part.rows is None else len(part.rows)
        return rows * row + 4 * part.listing.entries

    def what(part: _Part) -> str:
        return f"{len(part.listing.rows())} rows"

    free = None if isinstance(vectors, DeviceRows) else free_bytes(device)
    room, wide = Room(device), Room(device)  # shared by the parts, and by the float64 copies in each of them
    if free is not None:
        room.most = RESIDENT_SHARE * free
    yield from in_halves(_Part(listing, None), match, halves, size, room, what)


def row_bytes(dimension: int, itemsize: int) -> int:
    """Bytes of a row on a device: the stored vector, its squared norm, and its half-precision or sketched copy."""
    return dimension * itemsize + 8 + 2 * (SKETCH_WIDTH if dimension >= 2 * SKETCH_WIDTH else dimension)
