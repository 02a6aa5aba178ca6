"""Collects the ghosts of many tiles of rows and orders them by cell on the device.

The ghosts of each tile are already ordered by cell, ascending inside a cell. So runs only need to be concatenated: the
position of a run follows from the number of ghosts that each tile has in each cell, without a sort.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dedup_assets.compute.device.memory import free_bytes, is_out_of_memory, release
from dedup_assets.later import torch

PILE_ENTRIES = 1 << 26
"""Ghosts kept on the device before they go to the host: those of a million rows at a floor of 0.90, 256 MB, and twice
that while they are ordered."""

PILE_SHARE = 64
"""On a device with little memory, one entry is kept for this many free bytes, so that entries fill a sixteenth."""


class Tile(NamedTuple):
    """Homes and ghosts of some rows, on the device."""

    start: int
    """Number of the first row."""
    home: torch.Tensor
    """int32 (n,)"""
    counts: torch.Tensor
    """int32 (k,): ghosts of each cell."""
    rows: torch.Tensor
    """int32 (g,): cell after cell, ascending inside a cell; from `start` on."""


class GhostCollector:
    """Takes tiles in the order of their rows and returns homes and ghosts of all rows on the host.

    Parameters
    ----------
    n, k : int
        Rows and cells.
    device : str

    Attributes
    ----------
    done : int
        Number of rows taken.
    """

    def __init__(self, n: int, k: int, device: str) -> None:
        self.device, self.k, self.done = device, k, 0
        free = free_bytes(device)
        self._most = PILE_ENTRIES if free is None else min(PILE_ENTRIES, free // PILE_SHARE)
        self._tiles: list[Tile] = []
        self._held = 0
        self._home = np.zeros(n, np.int32)
        # Each part is ordered by cell; all rows of one part come before those of the next.
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, tile: Tile) -> None:
        """Take a tile."""
        self._tiles.append(tile)
        self.done = tile.start + len(tile.home)
        self._held += len(tile.rows)
        if self._held > self._most:
            self.send()

    def send(self) -> None:
        """Move all tiles to the host: ordered, or one by one where the device has no memory for ordering them."""
        tiles, self._tiles, self._held = self._tiles, [], 0
        if not tiles:
            return
        try:
            if len(tiles) > 1:
                tiles = [_together(tiles, self.device)]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            problem = True
        else:
            problem = False
        if problem:  # outside of the except block, whose traceback holds tensors
            release(self.device)
        for tile in tiles:
            self._parts.append((tile.counts.cpu().numpy(), tile.rows.add_(tile.start).cpu().numpy()))
            self._home[tile.start : tile.start + len(tile.home)] = tile.home.cpu().numpy()

    def taken(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Home int32 (n,), ghost offsets int64 (k + 1,) and ghost rows int32 (g,), ascending inside a cell."""
        self.send()
        parts, self._parts = self._parts, []
        offsets = np.zeros(self.k + 1, np.int64)
        for counts, _ in parts:
            offsets[1:] += counts
        np.cumsum(offsets, out=offsets)
        if len(parts) == 1:
            return self._home, offsets, parts[0][1]
        rows = np.empty(offsets[-1], np.int32)
        cursor = offsets[:-1].copy()
        while parts:
            _append(*parts.pop(0), cursor, rows)
        return self._home, offsets, rows


def _together(tiles: list[Tile], device: str) -> Tile:
    """Consecutive tiles as one, on the device, without a synchronisation."""
    counts = torch.stack([tile.counts for tile in tiles]).long()
    total = counts.sum(dim=0)
    # Target position of a tile's run of a cell, minus its position in the tile.
    shift = (total.cumsum(0) - total) + (counts.cumsum(0) - counts) - (counts.cumsum(1) - counts)
    first = tiles[0].start
    rows = torch.empty(sum(len(tile.rows) for tile in tiles), dtype=torch.int32, device=device)
    for at, tile in enumerate(tiles):
        length = len(tile.rows)
        place = torch.repeat_interleave(shift[at], counts[at], output_size=length)
        place += torch.arange(length, device=device)
        rows.index_copy_(0, place, tile.rows + (tile.start - first))
    return Tile(first, torch.cat([tile.home for tile in tiles]), total, rows)


@njit(cache=True, nogil=True)
def _append(counts, rows, cursor, out):
    at = 0
    for cell in range(counts.shape[0]):
        to = cursor[cell]
        for entry in range(counts[cell]):
            out[to + entry] = rows[at + entry]
        at += counts[cell]
        cursor[cell] = to + counts[cell]
