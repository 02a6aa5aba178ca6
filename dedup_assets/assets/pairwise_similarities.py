"""Pairwise similarities: every match of a shard with itself and with all shards admitted before it, down to the floor.
Matches inside dense cells are not listed: the cells are named, and their texts are on disk."""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from dedup_assets.assets.failures import affects_all_shards
from dedup_assets.assets.stage import StageRun, shard_asset, stage_run
from dedup_assets.compute.cell_groups import CellGroup, plan_groups
from dedup_assets.compute.join import Matches
from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.corpus.retraction import forget_dead_pairs_of
from dedup_assets.progress import Progress
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.memory import memory_plan
from dedup_assets.resources.worker_room import Lanes
from dedup_assets.resources.worker_tasks import match_cells_of_shards, shard_piece
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.cells import ShardCells
from dedup_assets.storage.ledger import Admission, Codebook
from dedup_assets.storage.publish import temporary_folder
from dedup_assets.storage.shards import admission_of
from dedup_assets.storage.spill import MatchRuns
from dedup_assets.storage.tables import pairs_table, write_pairs
from dedup_assets.storage.workspace import Workspace

STAGE = "pairwise_similarities"

GROUPS_PER_LANE = 4
"""Groups of cells for each concurrent task, and for each GPU: with the longest first, workers end together."""

GROUP_COST = 5e8
"""Pairs and rows that justify a separate task: half a second on one core. Every group gathers and sketches rows that
its neighbours also hold."""

GPU_GROUP_COST = 1e10
"""The same on a GPU, by arithmetic: a third of a second at 60,000 rows/s with 500,000 pairs each, as a corpus of 100
million rows is modelled on one H200."""


@shard_asset(
    deps=["cluster_partitions"],
    kinds={"torch", "dask", "parquet"},
    description="Every match between this shard and the corpus admitted before it, down to the floor: the "
    "same set that comparing every pair gives.",
)
def pairwise_similarities(context: dg.AssetExecutionContext, workspace: WorkspaceResource, dask: DaskCluster) -> None:
    """Join the shards of this run with themselves and with all shards admitted before them."""
    with stage_run(context, workspace, dask) as run:
        input_versions = {shard: done.input_version for shard, done in run.upstream("cluster_partitions").items()}
        pending = run.unfinished(input_versions)
        if pending:
            run.without_failing(lambda: find_matches_of(run, dask, pending))


def find_matches_of(run: StageRun, dask: DaskCluster, shards: Sequence[str]) -> None:
    """Compute the matches of the admitted ones of some shards. Raises ShardFailure if a single shard fails."""
    wanted = [a for a in run.ledger.live_admissions() if a.shard in set(shards)]
    try:
        match_shards(run, dask, wanted)
    except Exception as problem:
        if affects_all_shards(problem):
            raise
        for a in wanted:
            with run.attributing_to(a.shard):
                match_shards(run, dask, [a])


def match_shards(run: StageRun, dask: DaskCluster, wanted: Sequence[Admission]) -> None:
    """Compute, publish and record the matches of admissions; one join per codebook."""
    living = LiveTexts(run.workspace)
    codebooks = run.ledger.codebooks()
    plans = []
    for number in sorted({a.codebook for a in wanted}):
        new = sorted((a for a in wanted if a.codebook == number), key=lambda a: a.number)
        visible = [a for a in living.visible if a.number <= new[-1].number]
        plans.append((codebooks[number], new, visible))
    run.progress.total(sum(codebook.cells for codebook, _, _ in plans), "cells")
    for codebook, new, visible in plans:
        _match_under(run, dask, codebook, new, visible, living)
    # A decision after a concurrent retraction may already have cleaned the matches, and will not do it again.
    while run.ledger.last_retraction() != living.retractions:
        living = LiveTexts(run.workspace)
        forget_dead_pairs_of(run.workspace, living, wanted)


def _match_under(
    run: StageRun,
    dask: DaskCluster,
    codebook: Codebook,
    new: list[Admission],
    visible: list[Admission],
    living: LiveTexts,
) -> None:
    """Join `new` shards with `visible` ones under one codebook."""
    started = time.perf_counter()
    workspace = run.workspace
    new_numbers = np.array([a.number for a in new])
    folders = [(str(workspace.cells(codebook, a)), a.number, bool(a.number in new_numbers)) for a in visible]
    rooms = dask.rooms()
    lanes = dask.lanes(rooms)
    memory = memory_plan(workspace.settings, lanes.tasks, rooms)
    groups = _plan(folders, memory.group_bytes, lanes)
    done = _CellsDone(run.progress, groups, codebook.cells)
    topic = f"cells of {run.run_id}, {codebook.name}"
    dense: list[int] = []
    with temporary_folder(workspace.root) as scratch, dask.subscribed(topic, done.hear):
        gathered = MatchRuns(scratch, memory.match_bytes)
        options = (workspace.settings.floor, dask.resolved_device(), workspace.settings.dense_limit)
        spill = (str(scratch), memory.task_match_bytes)
        arguments = (
            (folders, group.first, group.last, *options, spill, lanes.threads, (topic, index))
            for index, group in enumerate(groups)
        )
        for index, found in dask.map(match_cells_of_shards, arguments, lanes.tasks) if groups else ():
            gathered.add(found.matches)
            gathered.files += found.files
            dense += found.dense_cells
            done.reach(index)
        runs = gathered.runs()
        stats = [_write(workspace, codebook, a, living, gathered.of_owner(runs, a.number), dense) for a in new]
    seconds = time.perf_counter() - started
    total = max(1, sum(a.records for a in new))
    entries = [
        (a.shard, a.input_version, fact, seconds * a.records / total) for a, fact in zip(new, stats, strict=True)
    ]
    run.ledger.complete(STAGE, entries, run.run_id)
    run.spent.rows += sum(a.records for a in new)


class _CellsDone:
    """Progress by cell: reports of running tasks, and the rest of a group when it is finished."""

    def __init__(self, progress: Progress, groups: Sequence[CellGroup], cells: int) -> None:
        self._progress = progress
        self._sizes = [group.last - group.first for group in groups]
        self._done = [0] * len(groups)
        self._lock = threading.Lock()  # reports arrive on another thread
        progress.advance(cells - sum(self._sizes))

    def hear(self, told: tuple[int, int]) -> None:
        """Handle a task's report of the finished cells of its group."""
        self.reach(*told)

    def reach(self, index: int, cells: int | None = None) -> None:
        """Set the finished cells of a group; all by default. It never decreases."""
        with self._lock:
            size = self._sizes[index]
            more = (size if cells is None else min(cells, size)) - self._done[index]
            if more > 0:
                self._done[index] += more
                self._progress.advance(more)


def _write(
    workspace: Workspace,
    codebook: Codebook,
    a: Admission,
    living: LiveTexts,
    parts: Iterable[Matches],
    dense_cells: Sequence[int],
) -> dict[str, Any]:
    """Publish the matches that a shard owns, with the names of the dense cells that list it; returns the stats."""
    counts = dict.fromkeys(("matches", "matches_at_threshold", "with_earlier_shards"), 0)

    def tables() -> Iterator[pa.Table]:
        for part in parts:
            lives = living.texts(part.i) & living.texts(part.j)
            part = Matches(part.i[lives], part.j[lives], part.similarity[lives])
            counts["matches"] += len(part)
            counts["matches_at_threshold"] += int((part.similarity >= workspace.settings.threshold).sum())
            counts["with_earlier_shards"] += int((admission_of(part.i) != a.number).sum())
            yield pairs_table(part.i, part.j, living.names(part.i), living.names(part.j), part.similarity)

    cells = ShardCells.read(workspace.cells(codebook, a))
    texts = {c: int(cells.home_counts[c]) for c in dense_cells if cells.home_counts[c] or cells.ghost_counts[c]}
    write_pairs(workspace.pairs(a), tables(), list(texts))
    return {
        "rows": a.records,
        **counts,
        "floor": workspace.settings.floor,
        "compared_with_admissions": a.number,
        "codebook": codebook.number,
        "pairs_file": str(workspace.pairs(a)),
        "dense_cells": len(texts),
        "texts_in_dense_cells": sum(texts.values()),
    }


def _plan(folders: Sequence[tuple[str, int, bool]], group_bytes: int, lanes: Lanes) -> list[CellGroup]:
    """Groups of cells that fit in memory, as few as keep all lanes busy; none if there is nothing to compare.

    A single GPU also gets several: while it joins one, its host builds the next.
    """
    pieces = [piece for folder in folders if len((piece := shard_piece(*folder)).vectors)]
    groups = plan_groups(pieces, group_bytes)
    worth = GPU_GROUP_COST if lanes.gpus else GROUP_COST
    wanted = min(GROUPS_PER_LANE * lanes.shares, 1 + int(sum(group.cost for group in groups) / worth))
    several = lanes.gpus or lanes.tasks > 1
    return plan_groups(pieces, group_bytes, wanted) if several and wanted > len(groups) else groups
