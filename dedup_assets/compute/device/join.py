"""The exact join on a device: products, compaction and canonical sums stay on the device; only matches leave it.

Runs on a GPU and, for device "cpu:0", on CPU tensors. It takes vectors and the listing of cells.

How the device is kept busy
---------------------------
Tiles (`tiles`) of one or many cells are put into one pack: one gather, one product per tile into one buffer, then one
compaction of the whole buffer, which reads it once: the maximum of each `CHUNK` products tells which few chunks hold a
proposal. The host needs their number to continue, so it waits once per pack, never per cell; two workers with one
stream each keep the device busy meanwhile. Chunks are examined once enough have accumulated over many packs; one table
for the whole join says where each tile lies. So a pack of one tile costs the host eight launches, whatever it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dedup_assets.compute.device.dense import dense_by_sample
from dedup_assets.compute.device.listing import Listing, placed
from dedup_assets.compute.device.memory import Room, by_slices, free_bytes, in_halves, is_out_of_memory
from dedup_assets.compute.device.rows import DeviceRows, cosines, float32_sums, low_rows
from dedup_assets.compute.device.tiles import CHUNK, Pack, packs_of, tabled, tiles_of
from dedup_assets.compute.matches import DenseCells
from dedup_assets.compute.streams import stream
from dedup_assets.later import torch

PACK_BYTES = (256 << 20, 1 << 30)
"""Products of one pack, at least and at most. 256 MiB are a tenth of a millisecond of an H200's memory traffic, less
than the host takes for a pack's launches; four times as much is as long as these and the wait together. By arithmetic;
not tuned on a GPU."""

PACK_SHARE = 64
"""Between the two, this fraction of the device's free memory: each of the two workers has a buffer."""

GATHER_BYTES = 256 << 20
"""Largest number of gathered rows of one pack."""

HOT_CHUNKS = 1 << 18
"""Chunks examined at a time: where everything matches, their 16 million pairs take 400 MB."""

LEAST_CHUNKS = 64
"""Chunks examined at a time where memory is short: 4,096 pairs at most."""

STREAMS = 2
"""Workers on a GPU, with one stream each."""

RACE_FREE = (2, 10)
"""From this version of torch, two threads on two streams do not race for the workspaces of cuBLAS."""


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
        Bound of the products kept at a time, by default `PACK_BYTES`; halved automatically where the device is short of
        memory.
    sketch : int, optional
        Columns of the sketch; 0 compares whole vectors; by default chosen by size.
    dense : DenseCells, optional
        Receives the cells that a sample predicts to be dense; their matches are not yielded.

    Yields
    ------
    i, j, similarity : int64 (m,), int64 (m,), float64 (m,)
        Numbers of rows, i != j. A pair that shares two cells is yielded twice, and so may be a pair whose tile had to
        be retried.
    """
    join = _Join(rows, listing, floor, max_matches, pack_bytes or _pack_bytes(rows.device), sketch, dense)
    return stream(join.worker, len(join.packs), _streams(rows.stored.device.type))


def _pack_bytes(device: str) -> int:
    """Bytes of the products of one pack on a device."""
    least, most = PACK_BYTES
    return min(most, max(least, (free_bytes(device) or 0) // PACK_SHARE))


def _streams(kind: str) -> int:
    """Number of concurrent workers on a kind of device."""
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return STREAMS if kind == "cuda" and release >= RACE_FREE else 1


class _Join:
    """Data that all packs share. Read-only after construction."""

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
        # Products run up to a chunk past the end of a listing; results there are ignored.
        self.listed, counts = placed(listing, rows.device, padding=CHUNK)
        if dense is not None and dense.limit:
            with float32_sums():
                found = dense_by_sample(rows, self.squares, self.low, self.bound, self.listed, counts, floor, dense)
            dense.cells += found.tolist()
            counts = counts.without(found)
        tiles = list(tiles_of(counts, self.pack_products, listing.among_homes))
        self.packs = list(packs_of(tiles, self.pack_products, self.gather_rows))
        table = tabled(tiles)
        self.table = _sent(table, device)
        # Counted in chunks; a tile takes a whole number of them.
        self.begins: list[int] = (table[0] // CHUNK).tolist()
        self.room, self.hot_room = Room(rows.device), Room(rows.device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # tensors made here are used on other streams

    def worker(self, emit: Emit) -> _Worker:
        """A worker with its own buffer and, on a GPU, its own stream."""
        return _Worker(self, emit)


class _Worker:
    """Compares one pack per call."""

    def __init__(self, join: _Join, emit: Emit) -> None:
        self.join, self.emit = join, emit
        self.buffer: torch.Tensor | None = None
        self.hot: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.chunks = 0
        self.found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.count = 0
        self.stream = torch.cuda.Stream(join.low.device) if join.low.device.type == "cuda" else None

    def __call__(self, item: int) -> None:
        """Compare one pack, in halves where it does not fit the device."""
        join = self.join
        for _ in in_halves(
            join.packs[item], self._attempt, Pack.halves, lambda pack: pack.products, join.room, str, self._free_buffers
        ):
            pass
        if self.chunks >= HOT_CHUNKS:
            self._settle()

    def finish(self) -> None:
        """Emit the remaining matches."""
        self._settle()
        self._flush()

    def _attempt(self, pack: Pack) -> tuple[()]:
        with torch.cuda.stream(self.stream), float32_sums():
            self._compact(self._products(pack), pack)
        return ()

    def _free_buffers(self) -> None:
        self.buffer = None
        self._settle()
        self._flush()

    def _products(self, pack: Pack) -> torch.Tensor:
        """The products of all tiles, consecutively."""
        join, used = self.join, pack.products
        if self.buffer is None or len(self.buffer) < used:
            self.buffer = None
            self.buffer = join.low.new_empty(used)
        first, last = pack.span
        near = self._gather(first, last) if last - first <= min(join.gather_rows, pack.gathered) else None
        start = 0
        for tile in pack.tiles:
            if near is not None:
                rows = near[tile.top - first : tile.bottom - first]
                columns = near[tile.left - first : tile.left + tile.width - first]
            else:
                rows, columns = self._gather(tile.top, tile.bottom), self._gather(tile.left, tile.left + tile.width)
            stop = start + tile.products
            torch.mm(rows, columns.T, out=self.buffer[start:stop].view(len(rows), len(columns)))
            start = stop
        return self.buffer[:used]

    def _gather(self, first: int, last: int) -> torch.Tensor:
        return self.join.low.index_select(0, self.join.listed[first:last])

    def _compact(self, products: torch.Tensor, pack: Pack) -> None:
        """Copy out the chunks with a product at or above the bound. The host waits here for their number."""
        chunks = products.view(-1, CHUNK)
        hot = torch.nonzero(chunks.amax(dim=1) >= self.join.bound).flatten()
        if not len(hot):
            return
        if pack.first is None or len(hot) > HOT_CHUNKS:
            table = self.join.table if pack.first is not None else _sent(tabled(pack.tiles), products.device)
            base = self.join.begins[pack.first] if pack.first is not None else 0
            for part in hot.split(HOT_CHUNKS):
                self._decide(chunks.index_select(0, part), part.add_(base), table)
            return
        values = chunks.index_select(0, hot)
        self.hot.append((values, hot.add_(self.join.begins[pack.first])))
        self.chunks += len(hot)

    def _settle(self) -> None:
        """Decide the pairs in the chunks copied out so far."""
        hot, self.hot, self.chunks = self.hot, [], 0
        if not hot:
            return
        with torch.cuda.stream(self.stream):
            for part in _together(hot):
                self._decide_in_slices(*part)

    def _decide_in_slices(self, values: torch.Tensor, numbers: torch.Tensor) -> None:
        join = self.join

        def decide(at: slice) -> None:
            self._decide(values[at], numbers[at], join.table)

        def what(chunks: int) -> str:
            return f"{chunks} chunks of products"

        for _ in by_slices(len(values), HOT_CHUNKS, decide, join.hot_room, least=LEAST_CHUNKS, what=what):
            pass

    def _decide(self, values: torch.Tensor, numbers: torch.Tensor, table: torch.Tensor) -> None:
        """Keep the pairs of chunks (h, `CHUNK`) that reach the floor; a table of tiles maps the chunk numbers (h,) to
        rows."""
        join = self.join
        at = torch.nonzero(values >= join.bound)
        place = numbers[at[:, 0]].mul_(CHUNK).add_(at[:, 1])
        tile = torch.searchsorted(table[0], place, right=True).sub_(1)
        begin, top, left, right, width = table.index_select(1, tile)
        place -= begin
        row, column = top + place // width, left + place % width
        counted = torch.nonzero((column < right) & (column > row)).flatten()
        if not len(counted):
            return
        i, j = (join.listed.index_select(0, at.index_select(0, counted)).long() for at in (row, column))
        near, sums = join.rows.near(i, j, join.floor)
        if len(near):
            self.found.append((i[near], j[near], sums))
            self.count += len(near)
        if self.count >= join.max_matches:
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


def _sent(table: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(table).to(device)


def _together(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Chunks and numbers of all parts concatenated, where the device has memory for that."""
    try:
        values, numbers = (torch.cat(list(some)) for some in zip(*parts, strict=True))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return parts
    parts.clear()
    return [(values, numbers)]


def _on_host(parts: Sequence[torch.Tensor]) -> np.ndarray:
    """Tensors concatenated on the host, or on the device first where it has memory for that."""
    try:
        return torch.cat(list(parts)).cpu().numpy()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return np.concatenate([part.cpu().numpy() for part in parts])
