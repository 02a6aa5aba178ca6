"""The products of the join on a device: tiles of positions in one list, grouped into packs that fit a buffer.

The listing of a cell holds its home rows, then its ghosts, new ones first in both. So the pairs to compare are a few
rectangles of positions and, among the homes, the part above a diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dedup_assets.compute.cells import offsets_of
from dedup_assets.compute.device.listing import CellCounts

CHUNK = 64
"""Products that share one maximum, which is tested first."""

TILE_ROWS = 2048
"""Home rows of a tile on the diagonal. Fewer mean more launches; more mean more wasted products below the diagonal."""

SMALLEST_TILE = 1 << 16
"""Products. A tile of this size is not halved again if it does not fit."""


class Tile(NamedTuple):
    """Positions ``top … bottom`` of the list against ``left … right``; a pair counts where column > row."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def width(self) -> int:
        """Columns of the product, in whole chunks."""
        return -(-(self.right - self.left) // CHUNK) * CHUNK

    @property
    def products(self) -> int:
        """Room it takes in the buffer."""
        return (self.bottom - self.top) * self.width

    def halves(self) -> list[Tile]:
        """Two tiles that cover this one; the longer side is split."""
        rows, columns = self.bottom - self.top, self.right - self.left
        if columns <= CHUNK or (rows > 1 and rows >= columns // 2):
            middle = (self.top + self.bottom) // 2
            return [self._replace(bottom=middle), self._replace(top=middle)]
        middle = self.left + max(CHUNK, columns // 2 // CHUNK * CHUNK)
        return [self._replace(right=middle), self._replace(left=middle)]


class Pack(NamedTuple):
    """Tiles whose products go into one buffer, consecutively.

    ``first`` is the number of the first tile among all tiles of the join; None for parts of a tile.
    """

    first: int | None
    tiles: list[Tile]

    @property
    def products(self) -> int:
        """Room it takes in the buffer."""
        return sum(tile.products for tile in self.tiles)

    @property
    def span(self) -> tuple[int, int]:
        """First position and the one after the last of its rows and columns, including those past the end of a
        listing."""
        first = min(min(tile.top, tile.left) for tile in self.tiles)
        return first, max(max(tile.bottom, tile.left + tile.width) for tile in self.tiles)

    @property
    def gathered(self) -> int:
        """Rows and columns of its tiles, with repeats."""
        return sum(tile.bottom - tile.top + tile.width for tile in self.tiles)

    def halves(self) -> list[Pack] | None:
        """Two packs for this one; None where it is too small to split."""
        if len(self.tiles) > 1:
            middle = len(self.tiles) // 2
            second = None if self.first is None else self.first + middle
            return [Pack(self.first, self.tiles[:middle]), Pack(second, self.tiles[middle:])]
        (tile,) = self.tiles
        return [Pack(None, [half]) for half in tile.halves()] if tile.products > SMALLEST_TILE else None

    def __str__(self) -> str:
        tile = self.tiles[0]
        return f"a tile of {tile.bottom - tile.top} × {tile.right - tile.left} products"


def tabled(tiles: Sequence[Tile]) -> np.ndarray:
    """Start of the products of each tile in the buffer, and its top, left, right and width: int64 (5, t)."""
    table = np.array([(tile.top, tile.left, tile.right, tile.width) for tile in tiles], np.int64).reshape(-1, 4).T
    begins = offsets_of(np.array([tile.products for tile in tiles], np.int64))
    return np.ascontiguousarray(np.concatenate([begins[None, :-1], table]))


def tiles_of(counts: CellCounts, most: int, among_homes: bool = True) -> Iterator[Tile]:
    """The pairs to compare: new homes with all rows listed after them, or with the ghosts alone; old homes with new
    ghosts."""
    last = counts.first + counts.homes + counts.ghosts
    cells = np.stack([counts.first, last, counts.homes, counts.new_homes, counts.new_ghosts], axis=1)
    for first, end, home, new, ghosts in cells.tolist():
        if among_homes and new <= TILE_ROWS:
            yield from _wide(Tile(first, first + new, first, end), most)
        else:
            for top in range(first, first + new if among_homes else first, TILE_ROWS):
                yield from _wide(Tile(top, min(top + TILE_ROWS, first + new), top, first + home), most)
            yield from _wide(Tile(first, first + new, first + home, end), most)
        yield from _wide(Tile(first + new, first + home, first + home, first + home + ghosts), most)


def _wide(tile: Tile, most: int) -> Iterator[Tile]:
    """Split a tile into tiles of at most ``most`` products where possible, left to right."""
    tile = tile._replace(left=max(tile.left, tile.top))  # pairs left of the first row do not count
    if tile.bottom <= tile.top or tile.right <= tile.left or tile.right <= tile.top + 1:
        return
    if tile.products <= most or tile.products <= CHUNK:
        yield tile
        return
    for half in tile.halves():
        yield from _wide(half, most)


def packs_of(tiles: Sequence[Tile], most_products: int, most_rows: int) -> Iterator[Pack]:
    """Group consecutive tiles into packs that fit the buffer and the gathered rows."""
    start, products, first, last = 0, 0, 0, 0
    for at, tile in enumerate(tiles):
        if at > start and (
            products + tile.products > most_products or max(last, tile.right) - min(first, tile.top) > most_rows
        ):
            yield Pack(start, list(tiles[start:at]))
            start, products = at, 0
        first, last = (min(first, tile.top), max(last, tile.right)) if at > start else (tile.top, tile.right)
        products += tile.products
    if len(tiles) > start:
        yield Pack(start, list(tiles[start:]))
