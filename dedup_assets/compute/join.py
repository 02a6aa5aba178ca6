"""The exact join: every pair at or above a floor, within groups of cells held in memory.

Cheap products propose, the canonical similarity decides; `cells` proves that looking inside cells is enough.
Knows blocks of arrays; nothing of files, shards on disk or workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dedup_assets.compute.blocks import CellBlock, ShardPiece, build_block, new_first
from dedup_assets.compute.cells import assign
from dedup_assets.compute.device_join import Listing, match_on_device
from dedup_assets.compute.device_rows import DeviceRows
from dedup_assets.compute.kmeans import choose_cells, fit_centroids, sample_size
from dedup_assets.compute.precision import PRECISIONS, bits_of, native_precision, one_thread_each
from dedup_assets.compute.scan import (
    CHUNK,
    LOWEST_BOUND,
    bound_pattern,
    gather,
    order_narrow,
    order_wide,
    scan_half,
    scan_single,
)
from dedup_assets.compute.similarity import as_bits, canonical_pairs, squared_norms
from dedup_assets.compute.sketch import low_rows
from dedup_assets.compute.streams import stream
from dedup_assets.compute.tiles import TILE_BYTES, TILE_ROWS, padded_columns, padded_rows, tile_columns

__all__ = [
    "CellBlock",
    "DenseCells",
    "Matches",
    "ShardPiece",
    "build_block",
    "exact_matches",
    "match_cells",
    "match_pieces",
    "unique_matches",
]

MAX_MATCHES = 1 << 18
"""Matches handed over at a time: 6 MB."""

DENSE_LIMIT = 256
"""Matches per row from which a cell counts as dense. Families of package descriptions and licence texts reach
120 in real corpora and stay listed pair by pair; a template with thousands of near-copies does not."""

DENSE_MATCHES = 1 << 21
"""A cell with more matches is dense whatever its size: it holds 40 MB of them back until it is done."""

SAMPLE_SIDE = (32, 256)
"""Home and listed rows compared to recognise a very dense cell before its matches are met one by one: 8,192
pairs take 2 ms at most, 70,000 matches 20 ms."""


class DenseCells:
    """Receives the cells in which nearly everything matches: they are named instead of being listed.

    A cell is dense if it has more matches than `limit` for each row at home or for each new row, whichever
    are fewer, and than ``limit²``, below which nothing is gained. That depends on the rows of the cell alone.

    Attributes
    ----------
    limit : int
        Matches per row; 0: no cell is dense.
    cells : list of int
        Numbers of the dense cells met so far, in no particular order. Their matches were not given.
    """

    def __init__(self, limit: int = DENSE_LIMIT) -> None:
        if limit < 0:
            raise ValueError(f"limit must be 0 (every match is listed) or more, found {limit}")
        self.limit = limit
        self.cells: list[int] = []

    def most(self, home: int, new: int) -> int:
        """Matches that a cell with so many rows at home and so many new rows may have."""
        return min(self.limit * max(self.limit, min(home, new)), DENSE_MATCHES)


@dataclass(frozen=True)
class Matches:
    """Pairs and their canonical similarity: int64 (m,), int64 (m,), float64 (m,); i < j."""

    i: np.ndarray
    j: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.i)

    @staticmethod
    def of(i: np.ndarray, j: np.ndarray, similarity: np.ndarray) -> Matches:
        """Copy pairs, each put the smaller number first."""
        return Matches(np.minimum(i, j).astype(np.int64), np.maximum(i, j).astype(np.int64), np.array(similarity))


def unique_matches(matches: Matches | Sequence[Matches]) -> Matches:
    """Each pair once, sorted by i, then j. A pair met in two cells has the same similarity in both."""
    parts = [matches] if isinstance(matches, Matches) else list(matches)
    if not parts:
        return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
    i = np.concatenate([part.i for part in parts])
    j = np.concatenate([part.j for part in parts])
    similarity = np.concatenate([part.similarity for part in parts])
    if len(i) and i.min() >= 0 and j.max() < 1 << 31:
        order = np.argsort((i << 31) | j, kind="stable")  # one integer sorts 3× as fast as two
    else:
        order = np.lexsort((j, i))
    i, j = i[order], j[order]
    first = np.ones(len(i), bool)
    first[1:] = (i[1:] != i[:-1]) | (j[1:] != j[:-1])
    return Matches(i[first], j[first], similarity[order][first])


def match_cells(
    block: CellBlock,
    floor: float,
    *,
    device: str = "cpu",
    threads: int = 1,
    tile_bytes: int | None = None,
    max_matches: int = MAX_MATCHES,
    sketch: int | None = None,
    dense: DenseCells | None = None,
) -> Iterator[Matches]:
    """Every pair of the block's cells at or above the floor with at least one new record.

    Compared in each cell: home with home and home with ghost. A pair may be met in two cells and is then
    given twice: see `unique_matches`. Two ghosts are not compared here, they meet in another cell.

    Parameters
    ----------
    block : CellBlock
    floor : float
        Lowest canonical similarity, in [-1, 1].
    device : str
        ``"cpu"`` or a CUDA device, whose path is `device_join`.
    threads : int
        Cells worked on at once (CPU); products and scans release the GIL. Where it is above 1, torch should
        use one thread per operation: see `precision.one_thread_each`.
    tile_bytes : int, optional
        Bound of one tile of products; on a device of one pack of tiles.
    max_matches : int
        Matches per item at most. Memory does not grow with the number of matches.
    sketch : int, optional
        Columns of the sketch; 0 compares whole vectors; by default chosen by size.
    dense : DenseCells, optional
        Receives the dense cells, whose matches are then not given (each may still be met in another cell, and
        is given then); without it every match is given. On a CUDA device no cell is dense.

    Yields
    ------
    Matches
        Row numbers of the block; in no particular order.
    """
    if not -1.0 <= floor <= 1.0:
        raise ValueError(f"floor must be a cosine in [-1, 1], found {floor}")
    if max_matches < 1:
        raise ValueError(f"max_matches must be at least 1, found {max_matches}")
    if not len(block.home_rows) or not block.is_new.any():
        return iter(())
    if device != "cpu" or isinstance(block.vectors, DeviceRows):
        return _on_device(block, floor, device, tile_bytes, max_matches, sketch)
    join = _Join(block, floor, device, tile_bytes or TILE_BYTES, max_matches, sketch, threads)
    join.dense = dense if dense is not None and dense.limit else None
    return stream(join.worker, block.cells, threads)


def _on_device(
    block: CellBlock, floor: float, device: str, tile_bytes: int | None, max_matches: int, sketch: int | None
) -> Iterator[Matches]:
    given: object = block.vectors
    rows = given if isinstance(given, DeviceRows) else DeviceRows.of(block.vectors, device)
    listing = Listing(block.home_offsets, block.home_rows, block.ghost_offsets, block.ghost_rows, block.is_new)
    found = match_on_device(rows, listing, floor, max_matches=max_matches, pack_bytes=tile_bytes, sketch=sketch)
    return (Matches.of(*pairs) for pairs in found)


class _Join:
    """What all cells of a block share. Read-only once made, so that threads may share it."""

    def __init__(
        self,
        block: CellBlock,
        floor: float,
        device: str,
        tile_bytes: int,
        max_matches: int,
        sketch: int | None,
        threads: int,
    ) -> None:
        self.block, self.floor, self.device, self.max_matches = block, floor, device, max_matches
        self.dense: DenseCells | None = None
        self.vectors = as_bits(block.vectors)
        self.squares = squared_norms(block.vectors, threads)
        self.homes = _new_first(block.home_rows, block.home_offsets, block.is_new)
        self.ghosts = _new_first(block.ghost_rows, block.ghost_offsets, block.is_new)
        order = np.concatenate([self.homes, _only_ghosts(block)]).astype(np.int32)
        self.position = np.zeros(len(block.vectors), np.int32)
        self.position[order] = np.arange(len(order), dtype=np.int32)
        self.tile_rows = TILE_ROWS
        itemsize = PRECISIONS[native_precision(device)].itemsize
        self.tile_columns = tile_columns(tile_bytes, itemsize)
        low = low_rows(
            block.vectors,
            self.squares,
            order,
            padding=max(self.tile_rows, self.tile_columns),
            device=device,
            width=sketch,
            threads=threads,
        )
        self.low = low.rows
        self.bound = floor - low.slack
        self.pattern = bound_pattern(self.bound, self.low.dtype == torch.float32)
        self.scan = scan_half if self.vectors.dtype == np.uint16 else scan_single

    def worker(self, emit: Callable[[Matches], None]) -> _Worker:
        """A worker with buffers of its own."""
        return _Worker(self, emit)


def _new_first(rows: np.ndarray, offsets: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """The listing with each cell's new rows before its old ones."""
    return rows if is_new.all() else new_first(np.ascontiguousarray(rows), offsets, is_new)


def _only_ghosts(block: CellBlock) -> np.ndarray:
    listed = np.zeros(len(block.vectors), bool)
    listed[block.ghost_rows] = True
    listed[block.home_rows] = False
    return np.flatnonzero(listed)


class _Worker:
    """Compares the cells it is given, one after the other."""

    def __init__(self, join: _Join, emit: Callable[[Matches], None]) -> None:
        self.join, self.emit = join, emit
        rows, columns = join.tile_rows, join.tile_columns
        room = max(join.max_matches, columns)
        self.i, self.j = np.empty(room, np.int32), np.empty(room, np.int32)
        self.s = np.empty(room, np.float64)
        self.count = 0
        self.before = 0  # matches in the buffer that are of earlier cells
        self.held: list[Matches] | None = None  # matches of a cell that may turn out dense
        self.met, self.most = 0, 0
        self.product = join.low.new_empty(rows * columns)
        self.columns = join.low.new_zeros(columns, join.low.shape[1])

    def __call__(self, cell: int) -> None:
        """Compare one cell: new home rows with all, old home rows with new ghosts."""
        join = self.join
        block = join.block
        first, last = int(block.home_offsets[cell]), int(block.home_offsets[cell + 1])
        ghosts = join.ghosts[block.ghost_offsets[cell] : block.ghost_offsets[cell + 1]]
        homes = join.homes[first:last]
        new_homes = int(block.is_new[homes].sum())
        new_ghosts = int(block.is_new[ghosts].sum())
        if join.dense is None:
            self._compare(first, homes, ghosts, new_homes, new_ghosts)
            return
        self.most = join.dense.most(len(homes), new_homes + new_ghosts)
        pairs = new_homes * (len(homes) + len(ghosts)) + (len(homes) - new_homes) * new_ghosts
        self.before, self.met, self.held = self.count, 0, [] if pairs > self.most else None
        try:
            if self.held is not None and self._looks_dense(homes, ghosts, new_homes, new_ghosts, pairs):
                raise _Dense
            self._compare(first, homes, ghosts, new_homes, new_ghosts)
            if self.held is not None and self.met + self.count - self.before > self.most:
                raise _Dense
            for matches in self.held or ():
                self.emit(matches)
        except _Dense:
            self.count = self.before
            join.dense.cells.append(cell)
        finally:
            self.held = None

    def _looks_dense(self, homes: np.ndarray, ghosts: np.ndarray, new_homes: int, new_ghosts: int, pairs: int) -> bool:
        """Whether a sample of the cell's pairs, the same on every machine, promises four times the bound."""
        # A pair of two home rows can be drawn either way round, hence half.
        join = self.join
        rows, columns = (homes[:new_homes], (homes, ghosts)) if new_homes else (homes, (ghosts[:new_ghosts],))
        rows, listed = _spread(rows, SAMPLE_SIDE[0]), _spread(np.concatenate(columns), SAMPLE_SIDE[1])
        i, j = np.repeat(rows, len(listed)), np.tile(listed, len(rows))
        near = (join.low[join.position[rows]] @ join.low[join.position[listed]].T).float().numpy().ravel()
        # Against the rounded bound no match is lost, so what is counted does not depend on the precision.
        proposed = (near >= torch.tensor(join.bound, dtype=join.low.dtype).item()) & (i != j)
        similarity = canonical_pairs(join.block.vectors, i[proposed], j[proposed], squares=join.squares)
        share = np.count_nonzero(similarity >= join.floor) / max(1, len(i))
        return bool(share * pairs / 2 > 4 * self.most)

    def _compare(self, first: int, homes: np.ndarray, ghosts: np.ndarray, new_homes: int, new_ghosts: int) -> None:
        """Compare the rows of one cell whose homes begin at place ``first``."""
        join = self.join
        last, width = first + len(homes), join.tile_columns
        if new_homes:
            for start in range(0, len(homes), width):
                stop = min(start + width, len(homes))
                rows = (first, first + min(new_homes, stop))
                right = join.low[first + start : first + start + padded_columns(stop - start, width)]
                self._rows(rows, right, homes[start:stop], first + start)
        wanted = ghosts if new_homes else ghosts[:new_ghosts]
        for start in range(0, len(wanted), width):
            part = wanted[start : start + width]
            right = self._gather(part)
            if new_homes:
                self._rows((first, first + new_homes), right, part, None)
            fresh = min(max(new_ghosts - start, 0), len(part))
            if fresh and new_homes < len(homes):
                self._rows((first + new_homes, last), right[: padded_columns(fresh, width)], part[:fresh], None)

    def finish(self) -> None:
        """Hand over what is left."""
        self._flush()

    def _gather(self, rows: np.ndarray) -> torch.Tensor:
        join = self.join
        padded = padded_columns(len(rows), join.tile_columns)
        if self.columns.dtype == torch.bfloat16:
            word = torch.int64 if join.low.shape[1] % 4 == 0 else torch.int16
            gather(join.low.view(word).numpy(), join.position, rows, self.columns.view(word).numpy())
        else:
            places = torch.from_numpy(join.position[rows])
            torch.index_select(join.low, 0, places, out=self.columns[: len(rows)])
        return self.columns[:padded]

    def _rows(self, rows: tuple[int, int], right: torch.Tensor, columns: np.ndarray, origin: int | None) -> None:
        """Home rows at places ``rows`` against the columns, tile by tile.

        ``origin`` is the place of the first column where columns are home rows themselves.
        """
        join = self.join
        for start in range(rows[0], rows[1], join.tile_rows):
            count = min(join.tile_rows, rows[1] - start)
            if origin is not None and start >= origin + len(columns) - 1:
                break
            left = join.low[start : start + padded_rows(count)]
            product = self.product[: len(left) * len(right)].view(len(left), len(right))
            torch.mm(left, right.T, out=product)
            diagonal = -(1 << 40) if origin is None else start - origin
            self._decide(product, join.homes[start : start + count], columns, diagonal)

    def _decide(self, product: torch.Tensor, rows: np.ndarray, columns: np.ndarray, diagonal: int) -> None:
        join = self.join
        bits = bits_of(product)
        bits = bits if bits.dtype == np.int16 else bits.view(np.int32)
        if join.bound < LOWEST_BOUND:
            (order_narrow if bits.dtype == np.int16 else order_wide)(bits)
        pattern = bits.dtype.type(join.pattern)
        chunks = bits.reshape(len(bits), -1, CHUNK)
        row = 0
        while True:
            self.count, row = join.scan(
                chunks, pattern, rows, columns, diagonal, join.vectors, join.squares, join.floor,
                row, self.i, self.j, self.s, self.count,
            )  # fmt: skip
            if row >= len(rows):
                break
            self._flush()
        if self.held is not None and self.met + self.count - self.before > self.most:
            raise _Dense

    def _flush(self) -> None:
        """Hand the buffer over; what a cell has met that may be dense yet is held back."""
        ours = self.count if self.held is None else self.before
        for start in range(0, ours, self.join.max_matches):
            at = slice(start, min(start + self.join.max_matches, ours))
            self.emit(Matches.of(self.i[at], self.j[at], self.s[at]))
        if self.held is not None:
            for start in range(ours, self.count, self.join.max_matches):
                at = slice(start, min(start + self.join.max_matches, self.count))
                self.held.append(Matches.of(self.i[at], self.j[at], self.s[at]))
            self.met += self.count - ours
        self.count = self.before = 0


class _Dense(Exception):
    """The cell at hand has more matches than are worth listing."""


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64)]


def match_pieces(
    pieces: Sequence[ShardPiece],
    first_cell: int,
    last_cell: int,
    floor: float,
    dense: DenseCells | None = None,
    threads: int = 1,
    **options: object,
) -> Iterator[Matches]:
    """`match_cells` on cells ``first_cell`` to ``last_cell`` of shard pieces, by global keys.

    Options as in `match_cells`; ``dense`` receives the numbers that cells have in the codebook, once all
    matches were taken. Pairs of rows with one key are left out: they are one text.
    """
    block = build_block(pieces, first_cell, last_cell, threads)
    keys = block.keys
    assert keys is not None
    within = None if dense is None else DenseCells(dense.limit)
    for found in match_cells(block, floor, dense=within, threads=threads, **options):  # type: ignore[arg-type]
        i, j = keys[found.i], keys[found.j]
        apart = i != j
        if apart.any():
            yield Matches.of(i[apart], j[apart], found.similarity[apart])
    if dense is not None and within is not None:
        dense.cells += [first_cell + cell for cell in within.cells]


def exact_matches(
    vectors: np.ndarray | DeviceRows,
    floor: float,
    *,
    clusters: int | None = None,
    seed: int = 0,
    centroids: np.ndarray | None = None,
    device: str = "cpu",
    new: np.ndarray | None = None,
    threads: int = 1,
    tile_bytes: int | None = None,
    sketch: int | None = None,
) -> Matches:
    """All pairs of rows at or above the floor, i < j, sorted: fit, assign and join in memory.

    Parameters
    ----------
    vectors : array (n, d), float16 or float32
        Or `DeviceRows`, which settle the device too.
    floor : float
        Lowest canonical similarity, in [-1, 1].
    clusters : int, optional
        Number of cells; `choose_cells` by default.
    centroids : float array (k, d), optional
        Any centroids, instead of fitting.
    new : bool array (n,), optional
        Only pairs with at least one new row; all rows by default.

    Returns
    -------
    Matches
        The same for any clusters, seed, centroids, threads, tile size, sketch and device.
    """
    if device != "cpu" and not isinstance(vectors, DeviceRows):
        vectors = DeviceRows.of(vectors, device)  # once for all three steps
    if isinstance(vectors, DeviceRows):
        device = vectors.device
    else:
        as_bits(vectors[:0])
    n = len(vectors)
    if n < 2:
        return unique_matches([])
    if centroids is None:
        k = clusters or choose_cells(n, floor)
        chosen = np.sort(np.random.default_rng(seed).choice(n, size=sample_size(n, k), replace=False))
        sample = vectors.take(chosen) if isinstance(vectors, DeviceRows) else vectors[chosen]
        centroids = fit_centroids(sample, k, seed, device=device) if k > 1 else _one(vectors.shape[1])
    with one_thread_each(threads):
        cells = assign(vectors, centroids, floor, device, threads=threads)
        home_rows, home_offsets = cells.home_rows()
        is_new = np.ones(n, bool) if new is None else np.asarray(new, dtype=bool)
        block = CellBlock(
            vectors,  # type: ignore[arg-type]  # rows on a device take the path of `device_join`
            home_offsets,
            home_rows,
            cells.ghost_offsets,
            cells.ghost_rows,
            is_new,
        )
        found = match_cells(block, floor, device=device, threads=threads, tile_bytes=tile_bytes, sketch=sketch)
        return unique_matches(list(found))


def _one(dimension: int) -> np.ndarray:
    centroid = np.zeros((1, dimension), np.float32)
    centroid[0, 0] = 1.0
    return centroid
