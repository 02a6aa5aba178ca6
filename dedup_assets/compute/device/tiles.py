"""What the join multiplies on a device: tiles of positions in one list, put together into packs that fit a buffer.

Knows numbers; nothing of vectors. The listing of a cell is its home rows, then its ghosts, and of both the new ones
first, so all that is to be compared is a few rectangles of positions and, among the homes, what lies above a diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dedup_assets.compute.cells import offsets_of
from dedup_assets.compute.device.listing import CellCounts

CHUNK = 64
"""Products whose maximum is looked at first."""

TILE_ROWS = 2048
"""Home rows of a tile that has a diagonal. Less means more launches, more means more products below it in vain."""

SMALLEST_TILE = 1 << 16
"""Products. A tile of this size that finds no room is not halved again."""


class Tile(NamedTuple):
    """Positions ``top … bottom`` of the list against ``left … right``; counted where column > row."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def width(self) -> int:
        """Columns of the product, whole chunks."""
        return -(-(self.right - self.left) // CHUNK) * CHUNK

    @property
    def products(self) -> int:
        """Room it takes in the buffer."""
        return (self.bottom - self.top) * self.width

    def halves(self) -> list[Tile]:
        """Two tiles that cover this one; the longer side is cut."""
        rows, columns = self.bottom - self.top, self.right - self.left
        if columns <= CHUNK or (rows > 1 and rows >= columns // 2):
            middle = (self.top + self.bottom) // 2
            return [self._replace(bottom=middle), self._replace(top=middle)]
        middle = self.left + max(CHUNK, columns // 2 // CHUNK * CHUNK)
        return [self._replace(right=middle), self._replace(left=middle)]


class Pack(NamedTuple):
    """Tiles that are multiplied into one buffer, one after the other.

    ``first`` is the number that the first of them has among all tiles of the join; None for parts of a tile.
    """

    first: int | None
    tiles: list[Tile]

    @property
    def products(self) -> int:
        """Room it takes in the buffer."""
        return sum(tile.products for tile in self.tiles)

    @property
    def span(self) -> tuple[int, int]:
        """Positions from the first to behind the last of its rows and columns, those over the end of a listing too."""
        first = min(min(tile.top, tile.left) for tile in self.tiles)
        return first, max(max(tile.bottom, tile.left + tile.width) for tile in self.tiles)

    @property
    def gathered(self) -> int:
        """Rows and columns of its tiles, each as often as it is in one."""
        return sum(tile.bottom - tile.top + tile.width for tile in self.tiles)

    def halves(self) -> list[Pack] | None:
        """Two packs for this one; None where that is not worth while."""
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
    """Where the products of tiles begin that lie one after the other, and their top, left, right and width: int64
    (5, t)."""
    table = np.array([(tile.top, tile.left, tile.right, tile.width) for tile in tiles], np.int64).reshape(-1, 4).T
    begins = offsets_of(np.array([tile.products for tile in tiles], np.int64))
    return np.ascontiguousarray(np.concatenate([begins[None, :-1], table]))


def tiles_of(counts: CellCounts, most: int, among_homes: bool = True) -> Iterator[Tile]:
    """What is to be compared: new homes with all that is listed behind them, or with the ghosts alone; old homes
    with new ghosts."""
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
    """Cut a tile into ones of at most ``most`` products where that is possible; left to right."""
    tile = tile._replace(left=max(tile.left, tile.top))  # nothing left of the first row is counted
    if tile.bottom <= tile.top or tile.right <= tile.left or tile.right <= tile.top + 1:
        return
    if tile.products <= most or tile.products <= CHUNK:
        yield tile
        return
    for half in tile.halves():
        yield from _wide(half, most)


def packs_of(tiles: Sequence[Tile], most_products: int, most_rows: int) -> Iterator[Pack]:
    """Consecutive tiles that fit the buffer and the gather together."""
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
