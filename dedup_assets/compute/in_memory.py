"""Deduplicates an array in memory: fit, assign, join, decide. The one place that combines these four steps.

`deduplicate` and `find_matches` call it, and the benchmark of the join times it. The assets run the same steps one by
one, with a file between each two. This module handles arrays only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from dedup_assets.compute.cells import assign
from dedup_assets.compute.curation import BatchDecisions, TextDecisions, decide_batch
from dedup_assets.compute.dense import DenseCell, merge_cells
from dedup_assets.compute.device.memory import is_out_of_memory, release
from dedup_assets.compute.device.rows import DeviceRows
from dedup_assets.compute.distances import forget_distances
from dedup_assets.compute.guards import Covers
from dedup_assets.compute.join import DENSE_LIMIT, CellBlock, DenseCells, match_cells
from dedup_assets.compute.kmeans import choose_cells, fit_rows
from dedup_assets.compute.matches import Matches, unique_matches
from dedup_assets.compute.precision import one_thread_each
from dedup_assets.compute.similarity import as_bits

Stats = dict[str, float]
"""Figures of a run: seconds of each step (`seconds_fit`, `seconds_assign`, `seconds_join`, `seconds_decide`), `cells`,
`ghosts`, listed `matches`, `dense_cells`, `dense_rows` and `dense_products`."""


@dataclass(frozen=True)
class RowMatches(Matches):
    """Pairs of rows, each once, sorted by i, then j; and the dense cells, whose pairs are not listed.

    Attributes
    ----------
    dense : tuple of DenseCell
        Members are rows. A match between a home record and another record of one of them may be absent.
    """

    dense: tuple[DenseCell, ...] = ()


@dataclass(frozen=True)
class Decided:
    """Result of `deduplicate_vectors`."""

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
    """Decide which records stay: in curation order, a record is removed if an earlier keeper matches it.

    Parameters
    ----------
    vectors : array (m, d), float16 or float32
        One row for each distinct text.
    threshold : float
        Lowest canonical similarity of a match, in [-1, 1].
    texts : int64 array (n,), optional
        The row of each record; by default row r is record r.
    order : int64 array (n,), optional
        Record indexes in curation order; by default as given.
    reference : bool array (n,), optional
        Records that always stay; they come first in the order. If given, only these remove other records.
    rule : {"leader", "semdedup"}
        See `decisions`.
    covers : Covers, optional
        The guards, asked about rows; see `decide_batch`.
    dense_limit : int
        Matches per row from which the pairs of a cell are not listed; 0 lists all.
    clusters, seed, centroids, device, threads, done
        As in `exact_matches`.
    stats : dict, optional
        Receives the figures of the run, see `Stats`.

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
    """The last step of `deduplicate_vectors` alone, at any threshold not below that of the matches."""
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
        Or `DeviceRows`, which also determine the device.
    floor : float
        Lowest canonical similarity, in [-1, 1].
    sides : bool array (n,), optional
        Only pairs of a marked row with an unmarked one; by default all pairs.
    new : bool array (n,), optional
        Only pairs with at least one new row; all rows by default.
    dense_limit : int
        Matches per row from which a cell is named in `dense` and its pairs are not listed; 0 lists all.
    clusters : int, optional
        Number of cells; `choose_cells` by default.
    centroids : float array (k, d), optional
        Any centroids, instead of fitting.
    threads, tile_bytes, sketch, done
        As in `join.match_cells`.
    stats : dict, optional
        Receives the figures of the run, see `Stats`. `cells` is set before the first call of `done`.

    Returns
    -------
    RowMatches
        The pairs are the same for any clusters, seed, centroids, threads, tile size, sketch and device; of two runs
        with a dense limit the union of what is listed and what lies in dense cells is.
    """
    if sides is not None:
        # The join also finds pairs inside the smaller side; they are dropped.
        new = sides if 2 * int(sides.sum()) <= len(sides) else ~sides
    figures: Stats = {} if stats is None else stats

    def join(rows: np.ndarray | DeviceRows, device: str) -> RowMatches:
        n = len(rows)
        if n < 2:
            return RowMatches(*_columns(unique_matches([])))
        with _clock(figures, "fit"):
            book = centroids
            if book is None:
                book = fit_rows(rows, clusters or choose_cells(n, floor), seed, device=device)
        with _clock(figures, "assign"), one_thread_each(threads):
            cells = assign(rows, book, floor, device, threads=threads, packed=True)
            home_rows, home_offsets = cells.home_rows()
            block = CellBlock(
                rows,  # type: ignore[arg-type]  # rows on a device take the path of `device.block`
                home_offsets,
                home_rows,
                cells.ghost_offsets,
                cells.ghost_rows,
                np.ones(n, bool) if new is None else np.asarray(new, dtype=bool),
            )
            del cells
            forget_distances()
        figures["cells"], figures["ghosts"] = block.cells, int(block.ghost_offsets[-1])
        dense = DenseCells(dense_limit)
        with _clock(figures, "join"), one_thread_each(threads):
            matches = match_cells(
                block,
                floor,
                device=device,
                threads=threads,
                tile_bytes=tile_bytes,
                sketch=sketch,
                dense=dense,
                done=done,
            )
            found = unique_matches([part if sides is None else _across(part, sides) for part in matches])
            groups = merge_cells([_members(block, cell) for cell in sorted(dense.cells)])
        figures["matches"], figures["dense_cells"] = len(found), len(dense.cells)
        figures["dense_rows"] = sum(len(group.members) for group in groups)
        return RowMatches(*_columns(found), tuple(groups))

    if isinstance(vectors, DeviceRows):
        return join(vectors, vectors.device)
    as_bits(vectors[:0])
    if device != "cpu":
        try:
            return join(DeviceRows.of(vectors, device), device)  # uploaded once for all three steps
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release(device)  # each step processes as much as fits at a time
    return join(vectors, device)


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
