"""Deduplication of vectors in memory: fit, assign, join and leader cover in one call.

For small jobs and for measuring; the pipeline does the same from files. Knows arrays only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from dedup_assets.compute.cells import assign
from dedup_assets.compute.decisions import UNKNOWN, Decisions, Walk
from dedup_assets.compute.dense import PIECE, DenseCell, merge_cells, walk_dense
from dedup_assets.compute.join import DENSE_LIMIT, CellBlock, DenseCells, match_cells
from dedup_assets.compute.kmeans import choose_cells, fit_centroids, sample_size
from dedup_assets.compute.precision import one_thread_each


def deduplicate_vectors(
    vectors: np.ndarray,
    threshold: float,
    *,
    rule: str = "leader",
    dense_limit: int = DENSE_LIMIT,
    clusters: int | None = None,
    seed: int = 0,
    centroids: np.ndarray | None = None,
    device: str = "cpu",
    threads: int = 1,
    piece: int = PIECE,
    facts: dict[str, float] | None = None,
) -> Decisions:
    """Decide which rows stay: in row order, a row goes if a keeper before it matches it.

    Parameters
    ----------
    vectors : array (n, d), float16 or float32
        Rows in curation order.
    threshold : float
        Lowest canonical similarity of a match, in [-1, 1].
    rule : {"leader", "semdedup"}
        See `decisions`.
    dense_limit : int
        Matches per row from which a cell is not listed pair by pair; 0: all are.
    clusters, seed, centroids, device, threads
        As in `join.exact_matches`.
    piece : int
        Rows of dense cells decided at a time.
    facts : dict, optional
        Receives seconds by stage (`seconds_fit`, `seconds_assign`, `seconds_join`, `seconds_cover`) and what
        was met: `cells`, `matches` (listed, a pair met in two cells twice), `dense_cells`, `dense_rows`,
        `dense_products`.

    Returns
    -------
    Decisions
        The same for any dense_limit, clusters, seed, centroids, device, threads and piece. For a pair of a
        kept and a removed row the similarity is canonical.
    """
    noted: dict[str, float] = {} if facts is None else facts
    n = len(vectors)
    with _clock(noted, "fit"):
        if centroids is None:
            k = clusters or choose_cells(n, threshold)
            chosen = np.sort(np.random.default_rng(seed).choice(n, size=sample_size(n, k), replace=False))
            centroids = fit_centroids(vectors[chosen], k, seed, device=device)
    with _clock(noted, "assign"), one_thread_each(threads):
        assigned = assign(vectors, centroids, threshold, device, threads=threads, packed=True)
        home_rows, home_offsets = assigned.home_rows()
        ghost_offsets, ghost_rows = assigned.ghost_offsets, assigned.ghost_rows
        del assigned
        block = CellBlock(vectors, home_offsets, home_rows, ghost_offsets, ghost_rows, np.ones(n, bool))
    dense = DenseCells(dense_limit)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with _clock(noted, "join"), one_thread_each(threads):
        for found in match_cells(block, threshold, device=device, threads=threads, dense=dense):
            # Half the memory of what the join gives: rows of one block fit 32 bits.
            parts.append((found.i.astype(np.int32), found.j.astype(np.int32), found.similarity))
    with _clock(noted, "cover"), one_thread_each(threads):
        kinds = (np.int32, np.int32, np.float64)
        i, j, similarity = (np.concatenate([np.empty(0, k), *(p[at] for p in parts)]) for at, k in enumerate(kinds))
        del parts
        groups = merge_cells([_members(block, cell) for cell in sorted(dense.cells)])
        del block, home_rows, home_offsets, ghost_rows, ghost_offsets
        walk = Walk(i, j, similarity, n, threshold, keepers_only=rule == "leader")
        del i, j, similarity
        products = walk_dense(walk, groups, lambda rows: vectors[rows], np.full(n, UNKNOWN, np.int8), piece=piece)
    noted["cells"], noted["dense_cells"] = len(centroids), len(dense.cells)
    noted["matches"] = walk.matches
    noted["dense_rows"] = sum(len(group.members) for group in groups)
    noted["dense_products"] = products
    return walk.decisions()


def _members(block: CellBlock, cell: int) -> DenseCell:
    homes = block.home_rows[block.home_offsets[cell] : block.home_offsets[cell + 1]]
    ghosts = block.ghost_rows[block.ghost_offsets[cell] : block.ghost_offsets[cell + 1]]
    return DenseCell.of(homes, ghosts)


@contextmanager
def _clock(facts: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    facts[f"seconds_{stage}"] = facts.get(f"seconds_{stage}", 0.0) + time.perf_counter() - started
