"""The inner loop of the join on a CPU: the products of one cell after another, each scanned as soon as it is computed.

It works on one block of cells in memory and passes the matches on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from dedup_assets.compute.blocks import CellBlock, new_first
from dedup_assets.compute.matches import SAMPLE_SIDE, SAMPLED_FROM, DenseCells, Matches, spread
from dedup_assets.compute.precision import bits_of, dtype_of, native_precision
from dedup_assets.compute.scan import (
    CHUNK,
    LOWEST_BOUND,
    bound_pattern,
    gather,
    order_narrow,
    order_wide,
    scan,
)
from dedup_assets.compute.similarity import as_bits, canonical_pairs, squared_norms
from dedup_assets.compute.sketch import low_rows
from dedup_assets.compute.tiles import TILE_BYTES, TILE_ROWS, padded_columns, padded_rows, tile_columns
from dedup_assets.later import torch


class Prepared:
    """Data that all cells of a block share. It is read-only after construction, so threads can share it."""

    def __init__(
        self,
        block: CellBlock,
        floor: float,
        tile_bytes: int | None,
        max_matches: int,
        sketch: int | None,
        threads: int,
        dense: DenseCells | None = None,
    ) -> None:
        self.block, self.floor, self.max_matches = block, floor, max_matches
        self.dense = dense if dense is not None and dense.limit else None
        self.vectors = as_bits(block.vectors)
        self.squares = squared_norms(block.vectors, threads)
        self.all_new = bool(block.is_new.all())
        homes = np.ascontiguousarray(block.home_rows)
        self.homes = homes if self.all_new else new_first(homes, block.home_offsets, block.is_new)
        order = np.concatenate([self.homes, _only_ghosts(block)]).astype(np.int32)
        self.position = np.zeros(len(block.vectors), np.int32)
        self.position[order] = np.arange(len(order), dtype=np.int32)
        itemsize = dtype_of(native_precision("cpu")).itemsize
        self.tile_columns = tile_columns(tile_bytes or TILE_BYTES, itemsize)
        low = low_rows(
            block.vectors,
            self.squares,
            order,
            padding=max(TILE_ROWS, self.tile_columns),
            width=sketch,
            threads=threads,
        )
        self.low = low.rows
        self.bound = floor - low.slack
        wide = self.low.dtype == torch.float32
        self.pattern = (np.int32 if wide else np.int16)(bound_pattern(self.bound, wide))
        self.words = _words(self.low)
        self.scan = scan

    def ghosts(self, cell: int) -> tuple[np.ndarray, int]:
        """Ghosts of a cell, new ones first, and the number of new ones."""
        block = self.block
        rows = block.ghost_rows[block.ghost_offsets[cell] : block.ghost_offsets[cell + 1]]
        if self.all_new:
            return rows, len(rows)
        fresh = block.is_new[rows]
        return np.concatenate([rows[fresh], rows[~fresh]]), int(fresh.sum())

    def worker(self, emit: Callable[[Matches], None]) -> CellWorker:
        """A worker with its own buffers."""
        return CellWorker(self, emit)


def _only_ghosts(block: CellBlock) -> np.ndarray:
    """Rows of the block that are listed in some of its cells and at home in none."""
    if len(block.home_rows) == len(block.vectors):
        return np.empty(0, np.int64)
    listed = np.zeros(len(block.vectors), bool)
    for cell in range(block.cells):
        listed[block.ghost_rows[block.ghost_offsets[cell] : block.ghost_offsets[cell + 1]]] = True
    listed[block.home_rows] = False
    return np.flatnonzero(listed)


def _words(rows: torch.Tensor) -> np.ndarray | None:
    """bfloat16 rows viewed as the widest integers that divide a row, for `scan.gather`; None for other rows."""
    if rows.dtype != torch.bfloat16:
        return None
    return rows.view(torch.int64 if rows.shape[1] % 4 == 0 else torch.int16).numpy()


class _Tile(NamedTuple):
    """Three views of one buffer: the product, its bit patterns, and the patterns in chunks for the scan."""

    product: torch.Tensor
    bits: np.ndarray
    chunks: np.ndarray


class CellWorker:
    """Compares one cell per call."""

    def __init__(self, join: Prepared, emit: Callable[[Matches], None]) -> None:
        self.join, self.emit = join, emit
        columns = join.tile_columns
        room = max(join.max_matches, columns)
        self.i, self.j = np.empty(room, np.int32), np.empty(room, np.int32)
        self.s = np.empty(room, np.float64)
        self.count = 0
        self.before = 0  # matches in the buffer that belong to earlier cells
        self.held: list[Matches] | None = None  # matches of a cell that may turn out dense
        self.met, self.most = 0, 0
        self.looks_dense: Callable[[], bool] | None = None  # of the current cell, until it was sampled
        self.product = join.low.new_empty(TILE_ROWS * columns)
        self.tiles: dict[tuple[int, int], _Tile] = {}
        self.columns = join.low.new_zeros(columns, join.low.shape[1])
        self.words = _words(self.columns)

    def __call__(self, cell: int) -> None:
        """Compare one cell: new home rows with all, old home rows with new ghosts."""
        join = self.join
        block = join.block
        first, last = int(block.home_offsets[cell]), int(block.home_offsets[cell + 1])
        ghosts, new_ghosts = join.ghosts(cell)
        homes = join.homes[first:last]
        new_homes = int(block.is_new[homes].sum())
        if join.dense is None:
            self._compare(first, homes, ghosts, new_homes, new_ghosts)
            return
        self.most = join.dense.most(len(homes), new_homes + new_ghosts)
        pairs = new_homes * (len(homes) + len(ghosts)) + (len(homes) - new_homes) * new_ghosts
        self.before, self.met, self.held = self.count, 0, [] if pairs > self.most else None
        self.looks_dense = partial(self._sample, homes, ghosts, new_homes, new_ghosts, pairs)
        try:
            self._compare(first, homes, ghosts, new_homes, new_ghosts)
            for matches in self.held or ():
                self.emit(matches)
        except _Dense:
            self.count = self.before
            join.dense.cells.append(cell)
        finally:
            self.held = self.looks_dense = None

    def _sample(self, homes: np.ndarray, ghosts: np.ndarray, new_homes: int, new_ghosts: int, pairs: int) -> bool:
        """Whether a sample of the cell's pairs, the same on every machine, predicts four times the bound."""
        join = self.join
        rows, columns = (homes[:new_homes], (homes, ghosts)) if new_homes else (homes, (ghosts[:new_ghosts],))
        rows, listed = spread(rows, SAMPLE_SIDE[0]), spread(np.concatenate(columns), SAMPLE_SIDE[1])
        i, j = np.repeat(rows, len(listed)), np.tile(listed, len(rows))
        near = (join.low[join.position[rows]] @ join.low[join.position[listed]].T).float().numpy().ravel()
        # The comparison with the rounded bound loses no match, so the count does not depend on the precision.
        proposed = (near >= torch.tensor(join.bound, dtype=join.low.dtype).item()) & (i != j)
        similarity = canonical_pairs(join.block.vectors, i[proposed], j[proposed], squares=join.squares)
        share = np.count_nonzero(similarity >= join.floor) / max(1, len(i))
        return DenseCells.is_promised(share, pairs, self.most)

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
        """Emit the remaining matches."""
        self._flush()

    def _gather(self, rows: np.ndarray) -> torch.Tensor:
        join = self.join
        if join.words is not None and self.words is not None:
            gather(join.words, join.position, rows, self.words)
        else:
            places = torch.from_numpy(join.position[rows])
            torch.index_select(join.low, 0, places, out=self.columns[: len(rows)])
        return self.columns[: padded_columns(len(rows), join.tile_columns)]

    def _tile(self, rows: int, columns: int) -> _Tile:
        """The product buffer as a tile of this shape. There are few shapes, and a view costs some microseconds."""
        shape = (rows, columns)
        if shape not in self.tiles:
            product = self.product[: rows * columns].view(shape)
            bits = bits_of(product)
            bits = bits if bits.dtype == np.int16 else bits.view(np.int32)
            self.tiles[shape] = _Tile(product, bits, bits.reshape(rows, -1, CHUNK))
        return self.tiles[shape]

    def _rows(self, rows: tuple[int, int], right: torch.Tensor, columns: np.ndarray, origin: int | None) -> None:
        """Home rows at places ``rows`` against the columns, tile by tile.

        ``origin`` is the place of the first column where columns are home rows themselves.
        """
        join = self.join
        width, turned = right.shape[0], right.T
        for start in range(rows[0], rows[1], TILE_ROWS):
            count = min(TILE_ROWS, rows[1] - start)
            if origin is not None and start >= origin + len(columns) - 1:
                break
            height = padded_rows(count)
            tile = self._tile(height, width)
            torch.mm(join.low[start : start + height], turned, out=tile.product)
            diagonal = -(1 << 40) if origin is None else start - origin
            self._decide(tile, join.homes[start : start + count], columns, diagonal)

    def _decide(self, tile: _Tile, rows: np.ndarray, columns: np.ndarray, diagonal: int) -> None:
        join = self.join
        if join.bound < LOWEST_BOUND:
            (order_narrow if tile.bits.dtype == np.int16 else order_wide)(tile.bits)
        row = 0
        while True:
            self.count, row = join.scan(
                tile.chunks, join.pattern, rows, columns, diagonal, join.vectors, join.squares, join.floor,
                row, self.i, self.j, self.s, self.count,
            )  # fmt: skip
            if row >= len(rows):
                break
            self._flush()
        if self.held is not None:
            self._refuse_dense()

    def _refuse_dense(self) -> None:
        """Raise _Dense if the cell has more matches than are worth listing, or if a sample of it predicts that.

        Most cells have few matches and need no sample. Whether a cell has more than `SAMPLED_FROM` does not depend on
        the order in which they are found.
        """
        met = self.met + self.count - self.before
        if self.looks_dense is not None and met > min(SAMPLED_FROM, self.most):
            looks_dense, self.looks_dense = self.looks_dense, None
            if looks_dense():
                raise _Dense
        if met > self.most:
            raise _Dense

    def _flush(self) -> None:
        """Emit the buffer, except for the matches of the current cell while it may still turn out dense."""
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
    """The current cell has more matches than are worth listing."""
