"""While one task has the GPU, the other gathers its rows: with stand-ins for the GPU, on CPU tensors."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dedup_assets.compute import join
from dedup_assets.compute.matches import Matches
from dedup_assets.resources import dask_cluster, memory, worker_device, worker_tasks
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.worker_device import WorkerRoom
from dedup_assets.resources.worker_watch import WorkerWatch
from dedup_assets.settings import Settings
from dedup_assets_tests.assets.corpora import assert_same_tree, corpus, curate, tree, write_shards
from dedup_assets_tests.resources.test_worker_room import GB, pairs

GROUPS = 6
SECONDS = 20
"""For what has to happen meanwhile."""


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has a GPU, which is the CPU by another name."""
    monkeypatch.setattr(dask_cluster, "cuda_available", lambda: True)
    monkeypatch.setattr(dask_cluster, "gpu_count", lambda: 1)
    monkeypatch.setattr(dask_cluster, "room_here", lambda device: WorkerRoom("here", 1, GB, device, GB, 2))
    monkeypatch.setattr(worker_device, "_broken", lambda device: "")
    monkeypatch.setattr(worker_tasks, "worker_device", lambda device: "cpu:0" if device == "cuda" else device)


@pytest.fixture
def cluster(one_gpu: None) -> Iterator[DaskCluster]:
    cluster = DaskCluster()
    try:
        yield cluster
    finally:
        cluster.close()


class Device:
    """Stands in for building and joining, and watches who does what meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changed = threading.Condition()
        self.blocks: weakref.WeakSet[Block] = weakref.WeakSet()
        self.held, self.on_device, self.most_on_device = 0, 0, 0
        self.built, self.begun = 0, 0
        self.alone: list[int] = []  # groups on the device while no other was built
        monkeypatch.setattr(join, "build_block", self.build)
        monkeypatch.setattr(join, "match_cells", self.match)
        monkeypatch.setattr(worker_tasks, "shard_piece", lambda *shard: None)

    def build(self, pieces: Any, first: int, last: int, threads: int) -> Block:
        block = Block(first)
        with self.changed:
            self.blocks.add(block)
            self.held = max(self.held, len(self.blocks))
            self.built += 1
            self.changed.notify_all()
        return block

    def match(self, block: Block, floor: float, **options: Any) -> Iterator[Matches]:
        with self.changed:
            self.on_device += 1
            self.most_on_device = max(self.most_on_device, self.on_device)
            self.begun += 1
            ahead = min(GROUPS, self.begun + 1)
            if not self.alone and not self.changed.wait_for(lambda: self.built >= ahead, SECONDS):
                self.alone.append(block.first)
        yield Matches.of(np.array([0]), np.array([1]), np.array([1.0]))
        with self.changed:
            self.on_device -= 1


class Block:
    """A block without rows."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.keys = np.array([0, 1])


def groups(folder: Path) -> list[tuple[Any, ...]]:
    return [([], n, n + 1, 0.9, "cuda", 0, (str(folder), 2**20), 2, ("topic", n)) for n in range(GROUPS)]


def test_the_next_block_is_built_while_this_one_is_on_the_device(
    cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(monkeypatch)
    lanes = cluster.lanes(cluster.rooms())
    done = list(cluster.map(worker_tasks.match_cells_of_shards, groups(tmp_path), lanes.tasks))
    assert len(done) == GROUPS
    assert device.alone == [], "the device worked and nobody built the next block"
    assert device.most_on_device == 1 and device.held == 2


def test_the_device_is_given_back_where_keeping_the_matches_fails(
    one_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Device(monkeypatch).alone.append(0)  # nobody is beside it

    def full(self: Any, matches: Matches) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(worker_tasks.MatchRuns, "add", full)
    try:
        worker_tasks.match_cells_of_shards(*groups(tmp_path)[-1])
    except OSError as problem:
        held = problem  # with its traceback, as Dask holds it
    assert worker_device._turn.acquire(timeout=1), f"still held after {held}"
    worker_device._turn.release()


def test_with_two_tasks_on_a_gpu_all_that_is_published_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", (300, 200, 250), seed=5))
    wanted = curate(paths, tmp_path / "cpu", threshold=0.8, clusters=12, device="cpu")
    request.getfixturevalue("one_gpu")
    monkeypatch.setattr(pairs, "GPU_GROUP_COST", 100)
    ran: list[int] = []
    build = join.build_block
    monkeypatch.setattr(join, "build_block", lambda *a: ran.append(a[1]) or build(*a))
    found = curate(paths, tmp_path / "gpu", threshold=0.8, clusters=12)
    assert len(ran) >= pairs.GROUPS_PER_LANE
    assert_same_tree(tree(found.output), tree(wanted.output))
    assert_same_tree(tree(tmp_path / "gpu" / "pairs"), tree(tmp_path / "cpu" / "pairs"))


def test_two_tasks_share_the_memory_of_the_host_and_have_the_gpu_in_turn() -> None:
    one, two = (WorkerRoom("a", threads, 64 * GB, "cuda", 8 * GB) for threads in (1, 2))
    small = [WorkerRoom("a", threads, 8 * GB, "cuda", 80 * GB) for threads in (1, 2)]
    group = [memory.memory_plan(Settings(), 1, [room]).group_bytes for room in (one, two, *small)]
    assert group[0] == group[1] and group[2] == 2 * group[3]


def test_a_gpu_that_broke_for_two_tasks_is_started_anew_once(cluster: DaskCluster) -> None:
    client = cluster.client()
    (worker,) = client.nthreads()
    refused = worker_device.Refused(worker, "first", "sticky", process=-1)  # of a process that is gone
    restarted: list[Any] = []
    watch = WorkerWatch(client, "here", 60, restarted=True)
    for name in ("restart_workers", "retire_workers"):
        object.__setattr__(client, name, lambda *a, **o: restarted.append(a))
    watch.restart_worker(refused, most=3, before=0)
    assert restarted == []
