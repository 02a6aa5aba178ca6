"""The exact join on a device: propose, compact and add up where the vectors lie; only matches leave it.

Runs alike on a GPU and, for device "cpu:0", on CPU tensors. Knows vectors and the listing of cells.

How the device is kept busy
---------------------------
The listing of a cell is its home rows, then its ghosts, so all that is to be compared is a rectangle (or the part
above the diagonal) of positions in one list. Rectangles are cut into tiles and tiles of many cells are put into
one pack: one gather, one product per tile into one buffer, then one compaction of the whole buffer. The number
of proposals must be known on the host to go on, so there is a synchronisation per pack, never per cell, and two
workers with a stream each keep the device at work during it. Compaction reads the buffer once: the maximum of
each `CHUNK` products tells which few chunks to look into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from dedup_assets.compute.cells import offsets_of
from dedup_assets.compute.device_dense import CellCounts, dense_by_sample
from dedup_assets.compute.device_listing import Listing, placed
from dedup_assets.compute.device_memory import Room, in_halves, is_out_of_memory
from dedup_assets.compute.device_rows import DeviceRows, cosines, float32_sums, low_rows
from dedup_assets.compute.matches import DenseCells
from dedup_assets.compute.streams import stream

CHUNK = 64
"""Products whose maximum is looked at first."""

PACK_BYTES = 256 << 20
"""Products of one pack: about a tenth of a millisecond of an H200's memory traffic, several times what a
synchronisation costs. By arithmetic; not tuned on a GPU."""

TILE_ROWS = 2048
"""Home rows of a tile. Less means more launches, more means more products below the diagonal in vain."""

GATHER_BYTES = 256 << 20
"""Gathered rows of one pack."""

HOT_CHUNKS = 1 << 18
"""Chunks looked into at a time: where everything matches, their 16 million pairs take 400 MB."""

SMALLEST_TILE = 1 << 16
"""Products. A tile of this size that finds no room is not halved again."""

STREAMS = 2
"""Workers on a GPU."""

RACE_FREE = (2, 10)
"""Version of torch from which two threads on two streams do not race for the workspaces of cuBLAS."""


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


Emit = Callable[[tuple[np.ndarray, np.ndarray, np.ndarray]], None]


def match_on_device(
    rows: DeviceRows,
    listing: Listing,
    floor: float,
    *,
    max_matches: int,
    pack_bytes: int | None = None,
    sketch: int | None = None,
    dense: DenseCells | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every pair of the listed cells at or above the floor with at least one new row.

    Parameters
    ----------
    rows : DeviceRows
    listing : Listing
    floor : float
    max_matches : int
        Matches per item at most.
    pack_bytes : int, optional
        Bound of the products kept at a time; halved by itself where the device has no room.
    sketch : int, optional
        Columns of the sketch; 0 compares whole vectors; by default chosen by size.
    dense : DenseCells, optional
        Receives the cells that a sample shows to be dense, whose matches are then not given.

    Yields
    ------
    i, j, similarity : int64 (m,), int64 (m,), float64 (m,)
        Numbers of rows, i != j. A pair that is met in two cells is given twice, and so may be one whose tile
        had to be tried again.
    """
    join = _Join(rows, listing, floor, max_matches, pack_bytes or PACK_BYTES, sketch, dense)
    return stream(join.worker, len(join.packs), _streams(rows.stored.device.type))


def _streams(kind: str) -> int:
    """Workers beside each other on a kind of device."""
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return STREAMS if kind == "cuda" and release >= RACE_FREE else 1


class _Join:
    """What all packs share. Read-only once made."""

    def __init__(
        self,
        rows: DeviceRows,
        listing: Listing,
        floor: float,
        max_matches: int,
        pack_bytes: int,
        sketch: int | None,
        dense: DenseCells | None,
    ) -> None:
        self.rows, self.floor, self.max_matches = rows, floor, max_matches
        self.squares = rows.squares.cpu().numpy()
        low = low_rows(rows, sketch)
        self.low = low.rows
        # The bound rounded as the products are: see `similarity.product_slack`.
        self.bound = torch.tensor(floor - low.slack, dtype=torch.float32).to(self.low.dtype).to(self.low.device)
        self.pack_products = max(CHUNK, pack_bytes // self.low.element_size())
        self.gather_rows = GATHER_BYTES // (self.low.shape[1] * self.low.element_size())
        device = self.low.device
        # Products run over the end of a listing by up to a chunk; what they meet there is not counted.
        self.listed, counts = placed(listing, rows.device, padding=CHUNK)
        if dense is not None and dense.limit:
            with float32_sums():
                found = dense_by_sample(rows, self.squares, self.low, self.bound, self.listed, counts, floor, dense)
            dense.cells += found.tolist()
            counts = counts.without(found)
        tiles = _tiles(counts, self.pack_products, listing.among_homes)
        self.packs = list(_packs(tiles, self.pack_products, self.gather_rows))
        self.room = Room(rows.device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # what was made here is used on other streams

    def worker(self, emit: Emit) -> _Worker:
        """A worker with a buffer and, on a GPU, a stream of its own."""
        return _Worker(self, emit)


def _tiles(counts: CellCounts, most: int, among_homes: bool = True) -> Iterator[Tile]:
    """What is to be compared: new homes with all that is listed behind them, or with the ghosts alone; old homes
    with new ghosts."""
    last = counts.first + counts.homes + counts.ghosts
    cells = np.stack([counts.first, last, counts.homes, counts.new_homes, counts.new_ghosts], axis=1)
    for first, end, home, new, ghosts in cells.tolist():
        for top in range(first, first + new, TILE_ROWS):
            left = top if among_homes else first + home
            yield from _wide(Tile(top, min(top + TILE_ROWS, first + new), left, end), most)
        if ghosts:
            for top in range(first + new, first + home, TILE_ROWS):
                bottom = min(top + TILE_ROWS, first + home)
                yield from _wide(Tile(top, bottom, first + home, first + home + ghosts), most)


def _wide(tile: Tile, most: int) -> Iterator[Tile]:
    """Cut a tile into ones of at most ``most`` products where that is possible; left to right."""
    tile = tile._replace(left=max(tile.left, tile.top))  # nothing left of the first row is counted
    if tile.right <= tile.left or tile.right <= tile.top + 1:
        return
    if tile.products <= most or tile.products <= CHUNK:
        yield tile
        return
    for half in tile.halves():
        yield from _wide(half, most)


def _packs(tiles: Iterator[Tile], most_products: int, most_rows: int) -> Iterator[list[Tile]]:
    """Consecutive tiles that fit the buffer and the gather together."""
    pack: list[Tile] = []
    products, first, last = 0, 0, 0
    for tile in tiles:
        if pack and (
            products + tile.products > most_products or max(last, tile.right) - min(first, tile.top) > most_rows
        ):
            yield pack
            pack, products = [], 0
        first, last = (min(first, tile.top), max(last, tile.right)) if pack else (tile.top, tile.right)
        pack.append(tile)
        products += tile.products
    if pack:
        yield pack


class _Worker:
    """Compares the packs it is given, one after the other."""

    def __init__(self, join: _Join, emit: Emit) -> None:
        self.join, self.emit = join, emit
        self.buffer: torch.Tensor | None = None
        self.found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.count = 0
        self.stream = torch.cuda.Stream(join.low.device) if join.low.device.type == "cuda" else None

    def __call__(self, item: int) -> None:
        """Compare one pack, in halves where the device has no room for it."""
        for _ in in_halves(
            self.join.packs[item], self._attempt, _halves, _products, self.join.room, _in_words, self._let_go
        ):
            pass

    def _attempt(self, tiles: list[Tile]) -> tuple[()]:
        with torch.cuda.stream(self.stream), float32_sums():
            self._compare(tiles)
        return ()

    def _let_go(self) -> None:
        self.buffer = None
        self._flush()

    def finish(self) -> None:
        """Hand over what is left."""
        self._flush()

    def _compare(self, tiles: list[Tile]) -> None:
        join = self.join
        starts = offsets_of(np.array([tile.products for tile in tiles]))
        used = int(starts[-1])
        if self.buffer is None or len(self.buffer) < used:
            self.buffer = None
            self.buffer = join.low.new_empty(used)
        first = min(min(tile.top, tile.left) for tile in tiles)
        last = max(max(tile.bottom, tile.left + tile.width) for tile in tiles)
        near = self._gather(first, last) if last - first <= join.gather_rows else None
        for tile, (start, stop) in zip(tiles, pairwise(starts.tolist()), strict=True):
            if near is not None:
                rows = near[tile.top - first : tile.bottom - first]
                columns = near[tile.left - first : tile.left + tile.width - first]
            else:
                rows, columns = self._gather(tile.top, tile.bottom), self._gather(tile.left, tile.left + tile.width)
            torch.mm(rows, columns.T, out=self.buffer[start:stop].view(len(rows), len(columns)))
        del near, rows, columns
        self._compact(self.buffer[:used], tiles, starts)

    def _gather(self, first: int, last: int) -> torch.Tensor:
        join = self.join
        return join.low.index_select(0, join.listed[first:last].long())

    def _compact(self, products: torch.Tensor, tiles: list[Tile], starts: np.ndarray) -> None:
        """Find the products at or above the bound and decide their pairs."""
        join = self.join
        table = np.array([(tile.top, tile.left, tile.right, tile.width) for tile in tiles], np.int64).T
        shape = torch.from_numpy(np.concatenate([table, starts[None, :-1]])).to(products.device)
        tops, lefts, rights, widths, begins = shape.unbind()
        begins = begins.contiguous()
        chunks = products.view(-1, CHUNK)
        hot = torch.nonzero(chunks.amax(dim=1) >= join.bound).flatten()
        for part in hot.split(HOT_CHUNKS):
            at = torch.nonzero(chunks[part] >= join.bound)
            place = part[at[:, 0]] * CHUNK + at[:, 1]
            tile = torch.searchsorted(begins, place, right=True) - 1
            place -= begins[tile]
            row = tops[tile] + place // widths[tile]
            column = lefts[tile] + place % widths[tile]
            counted = (column < rights[tile]) & (column > row)
            self._decide(join.listed[row[counted]].long(), join.listed[column[counted]].long())

    def _decide(self, i: torch.Tensor, j: torch.Tensor) -> None:
        if not len(i):
            return
        near, sums = self.join.rows.near(i, j, self.join.floor)
        if len(near):
            self.found.append((i[near], j[near], sums))
            self.count += len(near)
        if self.count >= self.join.max_matches:
            self._flush()

    def _flush(self) -> None:
        found, self.found, self.count = self.found, [], 0
        if not found:
            return
        with torch.cuda.stream(self.stream):
            i, j, sums = (_on_host(parts) for parts in zip(*found, strict=True))
        similarity = cosines(sums, self.join.squares[i], self.join.squares[j])
        true = np.flatnonzero(similarity >= self.join.floor)
        for start in range(0, len(true), self.join.max_matches):
            at = true[start : start + self.join.max_matches]
            self.emit((i[at], j[at], similarity[at]))


def _products(tiles: list[Tile]) -> int:
    return sum(tile.products for tile in tiles)


def _halves(tiles: list[Tile]) -> list[list[Tile]] | None:
    if len(tiles) > 1:
        return [tiles[: len(tiles) // 2], tiles[len(tiles) // 2 :]]
    return [[half] for half in tiles[0].halves()] if tiles[0].products > SMALLEST_TILE else None


def _in_words(tiles: list[Tile]) -> str:
    return f"a tile of {tiles[0].bottom - tiles[0].top} × {tiles[0].right - tiles[0].left} products"


def _on_host(parts: Sequence[torch.Tensor]) -> np.ndarray:
    """Tensors one after the other on the host, put together on the device where it has room for that."""
    try:
        return torch.cat(list(parts)).cpu().numpy()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return np.concatenate([part.cpu().numpy() for part in parts])
