"""The exact join: every pair at or above a floor, within groups of cells held in memory.

Cheap products propose pairs, and the canonical similarity decides. `cells` proves that it is enough to compare inside
cells. This module has no notion of files or workers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from dedup_assets.compute.blocks import CellBlock, ShardPiece, build_block
from dedup_assets.compute.cell_worker import Prepared
from dedup_assets.compute.device.block import match_block
from dedup_assets.compute.device.rows import DeviceRows
from dedup_assets.compute.matches import DENSE_LIMIT, MAX_MATCHES, DenseCells, Matches, unique_matches
from dedup_assets.compute.one_cell import MOST_ROWS, match_one_cell
from dedup_assets.compute.streams import stream

__all__ = [
    "DENSE_LIMIT",
    "MAX_MATCHES",
    "CellBlock",
    "DenseCells",
    "Matches",
    "ShardPiece",
    "build_block",
    "match_cells",
    "match_pieces",
    "unique_matches",
]


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
    done: Callable[[], None] | None = None,
) -> Iterator[Matches]:
    """Every pair of the block's cells at or above the floor with at least one new record.

    Compared in each cell: home with home and home with ghost. A pair that shares two cells is yielded twice: see
    `unique_matches`. Two ghosts are not compared here; they meet in another cell.

    Parameters
    ----------
    block : CellBlock
    floor : float
        Lowest canonical similarity, in [-1, 1].
    device : str
        ``"cpu"`` or a CUDA device, which `device.block` serves.
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
        Receives the dense cells, whose matches are then not yielded (a match that shares another cell is still yielded
        there); without it every match is yielded. On a device only a sample detects dense cells, so it lists a few that
        a CPU names: see `device.dense`.
    done : callable, optional
        Called after each cell, on any of the threads; on a CUDA device not at all.

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
        return match_block(
            block, floor, device, max_matches=max_matches, pack_bytes=tile_bytes, sketch=sketch, dense=dense
        )
    if block.cells == 1 and len(block.home_rows) == len(block.vectors) <= MOST_ROWS and tile_bytes is sketch is None:
        found = match_one_cell(block, floor, max_matches, dense)
        return found if done is None else _counted(found, done)
    join = Prepared(block, floor, tile_bytes, max_matches, sketch, threads, dense)
    return stream(join.worker, block.cells, threads, done)


def _counted(matches: Iterator[Matches], done: Callable[[], None]) -> Iterator[Matches]:
    yield from matches
    done()


def match_pieces(
    pieces: Sequence[ShardPiece],
    first_cell: int,
    last_cell: int,
    floor: float,
    dense: DenseCells | None = None,
    threads: int = 1,
    turn: AbstractContextManager[object] | None = None,
    **options: object,
) -> Generator[Matches]:
    """`match_cells` on cells ``first_cell`` to ``last_cell`` (exclusive) of shard pieces; yields global keys.

    Options as in `match_cells`; ``dense`` receives cell numbers of the codebook once all matches were consumed. Pairs
    of rows with the same key are left out: they are one text. ``threads`` threads build the block; ``turn`` is held
    only while it is compared. Close the generator if you stop early.
    """
    block = build_block(pieces, first_cell, last_cell, threads)
    keys = block.keys
    assert keys is not None
    within = None if dense is None else DenseCells(dense.limit)
    with turn or nullcontext():
        for found in match_cells(block, floor, dense=within, threads=threads, **options):  # type: ignore[arg-type]
            i, j = keys[found.i], keys[found.j]
            apart = i != j
            if apart.any():
                yield Matches.of(i[apart], j[apart], found.similarity[apart])
    if dense is not None and within is not None:
        dense.cells += [first_cell + cell for cell in within.cells]
