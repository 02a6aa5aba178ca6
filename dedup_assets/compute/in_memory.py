"""The join of an array in memory: fit, assign, join, decide. The one place where these four steps are put together.

`deduplicate` and `find_matches` call it, and the benchmark of the join times it. The assets take the same steps one by
one, because there is a file between any two of them. Knows arrays only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from dedup_assets.compute.cells import assign
from dedup_assets.compute.curation import BatchDecisions, TextDecisions, decide_batch
from dedup_assets.compute.dense import DenseCell, merge_cells
from dedup_assets.compute.device.memory import is_out_of_memory, release
from dedup_assets.compute.device.rows import DeviceRows
from dedup_assets.compute.guards import Covers
from dedup_assets.compute.join import DENSE_LIMIT, CellBlock, DenseCells, match_cells
from dedup_assets.compute.kmeans import choose_cells, fit_rows
from dedup_assets.compute.matches import Matches, unique_matches
from dedup_assets.compute.precision import one_thread_each
from dedup_assets.compute.similarity import as_bits

Stats = dict[str, float]
"""What was done: seconds of each step (`seconds_fit`, `seconds_assign`, `seconds_join`, `seconds_decide`), `cells`,
`ghosts`, `matches` that are listed, `dense_cells`, `dense_rows` and `dense_products`."""


@dataclass(frozen=True)
class RowMatches(Matches):
    """Pairs of rows, each once, sorted by i, then j; and the cells in which they are not listed.

    Attributes
    ----------
    dense : tuple of DenseCell
        Members are rows. A match between a home record and another record of one of them may be absent.
    """

    dense: tuple[DenseCell, ...] = ()


@dataclass(frozen=True)
class Decided:
    """What `deduplicate_vectors` found and decided."""

    matches: RowMatches
    decisions: BatchDecisions


def deduplicate_vectors(
    vectors: np.ndarray,
    threshold: float,
    *,
    texts: np.ndarray | None = None,
    order: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    rule: str = "leader",
    covers: Covers | None = None,
    dense_limit: int = DENSE_LIMIT,
    clusters: int | None = None,
    seed: int = 0,
    centroids: np.ndarray | None = None,
    device: str = "cpu",
    threads: int = 1,
    done: Callable[[], None] | None = None,
    stats: Stats | None = None,
) -> Decided:
    """Decide which records stay: in their order, a record goes if a keeper before it matches it.

    Parameters
    ----------
    vectors : array (m, d), float16 or float32
        One row for each distinct text.
    threshold : float
        Lowest canonical similarity of a match, in [-1, 1].
    texts : int64 array (n,), optional
        The row of each record; by default row r is record r.
    order : int64 array (n,), optional
        Record indexes in curation order; by default as they stand.
    reference : bool array (n,), optional
        Records that stay whatever they match, first in the order. Then nothing but these removes anything.
    rule : {"leader", "semdedup"}
        See `decisions`.
    covers : Covers, optional
        The guards, asked about rows; see `decide_batch`.
    dense_limit : int
        Matches per row from which a cell is not listed pair by pair; 0: all are.
    clusters, seed, centroids, device, threads, done
        As in `exact_matches`.
    stats : dict, optional
        Receives what was done, see `Stats`.

    Returns
    -------
    Decided
        The decisions are the same for any dense_limit, clusters, seed, centroids, device and threads.
    """
    noted: Stats = {} if stats is None else stats
    referred = None
    if reference is not None:
        which = np.arange(len(vectors)) if texts is None else texts
        referred = np.zeros(len(vectors), bool)
        referred[which[reference]] = True
    matches = exact_matches(
        vectors,
        threshold,
        sides=referred,
        dense_limit=dense_limit,
        clusters=clusters,
        seed=seed,
        centroids=centroids,
        device=device,
        threads=threads,
        done=done,
        stats=noted,
    )
    decisions = decide_rows(
        vectors,
        matches,
        threshold,
        texts=texts,
        order=order,
        reference=reference,
        rule=rule,
        covers=covers,
        stats=noted,
    )
    return Decided(matches, decisions)


def decide_rows(
    vectors: np.ndarray,
    matches: RowMatches,
    threshold: float,
    *,
    texts: np.ndarray | None = None,
    order: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    rule: str = "leader",
    covers: Covers | None = None,
    stats: Stats | None = None,
) -> BatchDecisions:
    """The last step alone, under any threshold from that of the matches on: as in `deduplicate_vectors`."""
    noted: Stats = {} if stats is None else stats
    record_texts = np.arange(len(vectors)) if texts is None else texts
    with _clock(noted, "decide"):
        return decide_batch(
            record_texts,
            np.arange(len(record_texts)) if order is None else order,
            (matches.i, matches.j, matches.similarity),
            threshold,
            TextDecisions.empty(),
            rule,
            matches.dense,
            lambda rows: vectors[rows],
            reference=reference,
            only=None if reference is None else np.unique(record_texts[reference]),
            covers=covers,
            stats=noted,
        )


def exact_matches(
    vectors: np.ndarray | DeviceRows,
    floor: float,
    *,
    sides: np.ndarray | None = None,
    new: np.ndarray | None = None,
    dense_limit: int = 0,
    clusters: int | None = None,
    seed: int = 0,
    centroids: np.ndarray | None = None,
    device: str = "cpu",
    threads: int = 1,
    tile_bytes: int | None = None,
    sketch: int | None = None,
    done: Callable[[], None] | None = None,
    stats: Stats | None = None,
) -> RowMatches:
    """All pairs of rows at or above the floor, i < j, sorted: fit, assign and join in memory.

    Parameters
    ----------
    vectors : array (n, d), float16 or float32
        Or `DeviceRows`, which settle the device too.
    floor : float
        Lowest canonical similarity, in [-1, 1].
    sides : bool array (n,), optional
        Only pairs of a row that is marked with one that is not; by default all pairs.
    new : bool array (n,), optional
        Only pairs with at least one new row; all rows by default.
    dense_limit : int
        Matches per row from which a cell is named in `dense` and not listed pair by pair; 0: all are listed.
    clusters : int, optional
        Number of cells; `choose_cells` by default.
    centroids : float array (k, d), optional
        Any centroids, instead of fitting.
    threads, tile_bytes, sketch, done
        As in `join.match_cells`.
    stats : dict, optional
        Receives what was done, see `Stats`. `cells` is there before the first call of `done`.

    Returns
    -------
    RowMatches
        The pairs are the same for any clusters, seed, centroids, threads, tile size, sketch and device; of two runs
        with a dense limit the union of what is listed and what lies in dense cells is.
    """
    if sides is not None:
        # Pairs inside the smaller side are met on the way, and left out.
        new = sides if 2 * int(sides.sum()) <= len(sides) else ~sides
    work = partial(
        _exact_matches,
        floor=floor,
        clusters=clusters,
        seed=seed,
        centroids=centroids,
        new=new,
        sides=sides,
        dense_limit=dense_limit,
        threads=threads,
        tile_bytes=tile_bytes,
        sketch=sketch,
        done=done,
        stats={} if stats is None else stats,
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
    sides: np.ndarray | None,
    dense_limit: int,
    threads: int,
    tile_bytes: int | None,
    sketch: int | None,
    done: Callable[[], None] | None,
    stats: Stats,
) -> RowMatches:
    """`exact_matches` of rows that stay where they are."""
    n = len(vectors)
    if n < 2:
        return RowMatches(*_columns(unique_matches([])))
    with _clock(stats, "fit"):
        if centroids is None:
            centroids = fit_rows(vectors, clusters or choose_cells(n, floor), seed, device=device)
    with _clock(stats, "assign"), one_thread_each(threads):
        cells = assign(vectors, centroids, floor, device, threads=threads, packed=True)
        home_rows, home_offsets = cells.home_rows()
        block = CellBlock(
            vectors,  # type: ignore[arg-type]  # rows on a device take the path of `device.block`
            home_offsets,
            home_rows,
            cells.ghost_offsets,
            cells.ghost_rows,
            np.ones(n, bool) if new is None else np.asarray(new, dtype=bool),
        )
        del cells
    stats["cells"], stats["ghosts"] = block.cells, int(block.ghost_offsets[-1])
    dense = DenseCells(dense_limit)
    with _clock(stats, "join"), one_thread_each(threads):
        parts = []
        for part in match_cells(
            block, floor, device=device, threads=threads, tile_bytes=tile_bytes, sketch=sketch, dense=dense, done=done
        ):
            parts.append(part if sides is None else _across(part, sides))
        found = unique_matches(parts)
        del parts
        groups = merge_cells([_members(block, cell) for cell in sorted(dense.cells)])
    stats["matches"], stats["dense_cells"] = len(found), len(dense.cells)
    stats["dense_rows"] = sum(len(group.members) for group in groups)
    return RowMatches(*_columns(found), tuple(groups))


def _columns(matches: Matches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return matches.i, matches.j, matches.similarity


def _across(part: Matches, sides: np.ndarray) -> Matches:
    apart = sides[part.i] != sides[part.j]
    return Matches(part.i[apart], part.j[apart], part.similarity[apart])


def _members(block: CellBlock, cell: int) -> DenseCell:
    homes = block.home_rows[block.home_offsets[cell] : block.home_offsets[cell + 1]]
    ghosts = block.ghost_rows[block.ghost_offsets[cell] : block.ghost_offsets[cell + 1]]
    return DenseCell.of(homes, ghosts)


@contextmanager
def _clock(stats: Stats, step: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    stats[f"seconds_{step}"] = stats.get(f"seconds_{step}", 0.0) + time.perf_counter() - started
