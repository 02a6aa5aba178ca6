"""The exact join: every pair at or above a floor, within groups of cells held in memory.

Cheap products propose, the canonical similarity decides; `cells` proves that looking inside cells is enough.
Knows blocks of arrays; nothing of files, shards on disk or workers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np

from dedup_assets.compute.blocks import CellBlock, ShardPiece, build_block
from dedup_assets.compute.cell_worker import Prepared
from dedup_assets.compute.cells import assign
from dedup_assets.compute.device_block import match_block
from dedup_assets.compute.device_memory import is_out_of_memory, release
from dedup_assets.compute.device_rows import DeviceRows
from dedup_assets.compute.distances import forget
from dedup_assets.compute.kmeans import choose_cells, fit_centroids, sample_size
from dedup_assets.compute.matches import DENSE_LIMIT, MAX_MATCHES, DenseCells, Matches, unique_matches
from dedup_assets.compute.precision import one_thread_each
from dedup_assets.compute.similarity import as_bits
from dedup_assets.compute.streams import stream

__all__ = [
    "DENSE_LIMIT",
    "MAX_MATCHES",
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

    Compared in each cell: home with home and home with ghost. A pair may be met in two cells and is then
    given twice: see `unique_matches`. Two ghosts are not compared here, they meet in another cell.

    Parameters
    ----------
    block : CellBlock
    floor : float
        Lowest canonical similarity, in [-1, 1].
    device : str
        ``"cpu"`` or a CUDA device, whose path is `device_block`.
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
        is given then); without it every match is given. On a device only a sample tells a cell dense, so a few that
        a CPU names are listed there: see `device_dense`.
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
    forget()  # the distances of centroids: what is compared here was assigned before
    if device != "cpu" or isinstance(block.vectors, DeviceRows):
        return match_block(
            block, floor, device, max_matches=max_matches, pack_bytes=tile_bytes, sketch=sketch, dense=dense
        )
    join = Prepared(block, floor, tile_bytes, max_matches, sketch, threads, dense)
    return stream(join.worker, block.cells, threads, done)


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
    """`match_cells` on cells ``first_cell`` to ``last_cell`` of shard pieces, by global keys.

    Options as in `match_cells`; ``dense`` receives the numbers that cells have in the codebook, once all
    matches were taken. Pairs of rows with one key are left out: they are one text. The block is built by so many
    ``threads``; ``turn`` is held while it is compared, and not before. Close what does not go to its end.
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
    work = partial(
        _exact_matches,
        floor=floor,
        clusters=clusters,
        seed=seed,
        centroids=centroids,
        new=new,
        threads=threads,
        tile_bytes=tile_bytes,
        sketch=sketch,
    )
    if isinstance(vectors, DeviceRows):
        return work(vectors, vectors.device)
    as_bits(vectors[:0])
    if device != "cpu":
        try:
            return work(DeviceRows.of(vectors, device), device)  # uploaded once for all three steps
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release(device)  # each step takes what fits at a time
    return work(vectors, device)


def _exact_matches(
    vectors: np.ndarray | DeviceRows,
    device: str,
    *,
    floor: float,
    clusters: int | None,
    seed: int,
    centroids: np.ndarray | None,
    new: np.ndarray | None,
    threads: int,
    tile_bytes: int | None,
    sketch: int | None,
) -> Matches:
    """`exact_matches` of rows that stay where they are."""
    n = len(vectors)
    if n < 2:
        return unique_matches([])
    if centroids is None:
        k = clusters or choose_cells(n, floor)
        chosen = np.sort(np.random.default_rng(seed).choice(n, size=sample_size(n, k), replace=False))
        sample = vectors.take(chosen) if isinstance(vectors, DeviceRows) else vectors[chosen]
        centroids = fit_centroids(sample, k, seed, device=device) if k > 1 else _one(vectors.shape[1])
    with one_thread_each(threads):
        cells = assign(vectors, centroids, floor, device, threads=threads, packed=True)
        home_rows, home_offsets = cells.home_rows()
        is_new = np.ones(n, bool) if new is None else np.asarray(new, dtype=bool)
        block = CellBlock(
            vectors,  # type: ignore[arg-type]  # rows on a device take the path of `device_block`
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
