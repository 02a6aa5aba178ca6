"""Workers of a running scheduler say what they have: device, lanes and texts a task are theirs, not the client's.

The workers are of this process, with stand-ins for their GPUs; the client has none.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster, get_worker

from dedup_assets.compute.cell_groups import CellGroup
from dedup_assets.errors import ClusterError
from dedup_assets.resources import centroids, dask_cluster, worker_device
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.memory import GPU_TASK_TEXTS, GROUP_TEXTS, TASK_TEXTS, TEXT_BYTES, text_plan
from dedup_assets.resources.worker_device import WorkerRoom
from dedup_assets.resources.worker_processes import LOOPBACK_HTTP
from dedup_assets.resources.worker_room import Lanes, agreed_device, lanes_of
from dedup_assets.settings import Settings
from dedup_assets_tests.compute.vectors import make_vectors

GB = 10**9

pairs = importlib.import_module("dedup_assets.assets.pairwise_similarities")  # not the asset of that name


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of one with three workers of one thread each."""
    with LocalCluster(
        processes=False,
        n_workers=3,
        threads_per_worker=1,
        dashboard_address=None,
        scheduler_kwargs=LOOPBACK_HTTP,
        worker_dashboard_address=LOOPBACK_HTTP["dashboard_address"],
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker has a GPU, the client has none."""
    monkeypatch.setattr(worker_device, "_cuda", True)
    monkeypatch.setattr(dask_cluster, "cuda_available", lambda: False)
    monkeypatch.setattr("dedup_assets.compute.device.memory.free_bytes", lambda device: 24 * GB)


@pytest.fixture
def cluster(scheduler: str) -> Iterator[DaskCluster]:
    cluster = DaskCluster(scheduler=scheduler)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_client_without_a_gpu_uses_those_of_the_workers(cluster: DaskCluster, gpus: None, wanted: str) -> None:
    cluster.adopt(Settings(device=wanted))
    assert cluster.resolved_device() == "cuda"
    rooms = cluster.rooms()
    assert [(room.device, room.device_free) for room in rooms] == [("cuda", 24 * GB)] * 3
    assert cluster.lanes(rooms).gpus == 3
    assert text_plan(Settings(), cluster.lanes(rooms), rooms).task(10**6) > 10 * TASK_TEXTS


def test_the_workers_are_asked_for_their_device_once(
    cluster: DaskCluster, gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    answers = dask_cluster.WorkerWatch.answers
    monkeypatch.setattr(
        dask_cluster.WorkerWatch, "answers", lambda watch, *a: asked.append(a[0].__name__) or answers(watch, *a)
    )
    for _ in range(3):
        assert cluster.resolved_device() == "cuda"
        assert len(list(cluster.map(os.getpid, [()] * 3))) == 3
    assert asked == ["device_here"]


def test_workers_without_a_gpu_work_on_the_cpu(cluster: DaskCluster) -> None:
    assert cluster.resolved_device() == "cpu"
    assert cluster.lanes(cluster.rooms()) == Lanes(3, 1, 0)


def test_a_gpu_that_is_demanded_and_not_there_is_an_error(cluster: DaskCluster) -> None:
    cluster.adopt(Settings(device="cuda"))
    with pytest.raises(ClusterError, match=r"3 of 3 Dask workers find no usable GPU.*--device cpu"):
        cluster.resolved_device()


def test_workers_of_which_some_have_a_gpu_are_refused(cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_has_one(dask_worker: Any) -> str:
        return "cuda" if str(dask_worker.name) == "0" else "cpu"

    monkeypatch.setattr(dask_cluster, "device_here", first_has_one)
    with pytest.raises(ClusterError, match=r"2 of 3 Dask workers find no usable GPU: inproc.*inproc.*--device cpu"):
        list(cluster.map(os.getpid, [()]))
    cluster.adopt(Settings(device="cpu"))
    assert [pid for _, pid in cluster.map(os.getpid, [()])] == [os.getpid()]


def test_a_worker_that_comes_later_without_a_gpu_is_refused(
    cluster: DaskCluster, gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.adopt(Settings(), tmp_path)
    assert cluster.resolved_device() == "cuda"
    monkeypatch.setattr(worker_device, "_cuda", False)
    with pytest.raises(ClusterError, match="came later, finds no usable GPU"):
        list(cluster.map(os.getpid, [()]))


def test_a_worker_that_cannot_be_asked_is_named() -> None:
    with pytest.raises(ClusterError, match=r"worker b cannot say .*RuntimeError: no driver\. Mend"):
        agreed_device("auto", {"a": "cuda", "b": RuntimeError("no driver")})


def test_centroids_are_fitted_on_a_gpu_of_the_workers_and_not_by_the_client(
    cluster: DaskCluster, gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kmeans_centroids = importlib.import_module("dedup_assets.assets.kmeans_centroids")
    rows = make_vectors("clustered", 500, 12, np.float16, 1)
    fit = centroids.fit_centroids

    def by_client(*arguments: Any, **options: Any) -> np.ndarray:
        raise AssertionError("the client fitted")

    def by_worker(sample: np.ndarray, cells: int, seed: int, device: str) -> np.ndarray:
        get_worker()
        assert device == "cuda"
        return fit(sample, cells, seed, device="cpu:0")

    monkeypatch.setattr(kmeans_centroids, "SMALL_FIT", 0)
    monkeypatch.setattr(kmeans_centroids, "fit_centroids", by_client)
    monkeypatch.setattr(kmeans_centroids, "open_table", lambda workspace: SimpleNamespace(sample=lambda *a: rows))
    monkeypatch.setattr(centroids, "probe", lambda: "torch")
    monkeypatch.setattr(centroids, "fit_centroids", by_worker)
    found, facts = kmeans_centroids._fitted(SimpleNamespace(settings=Settings()), cluster, 500, 4)
    assert found.shape == (4, 12) and facts["fitted_with"] == "torch"


# -- how much at once --------------------------------------------------------------------------------


def gpu(machine: str, *, threads: int = 2, cores: int = 32) -> WorkerRoom:
    return WorkerRoom(machine, threads, 500 * GB, "cuda", 80 * GB, cores)


def test_lanes_are_those_of_all_workers_and_hosts_are_shared_by_their_gpus() -> None:
    assert lanes_of([gpu("a")] * 8) == Lanes(16, 4, 8)
    assert lanes_of([gpu("a", cores=64), gpu("b"), gpu("b")]) == Lanes(6, 16, 3)
    assert lanes_of([WorkerRoom("a", 4, GB, "cpu", None, 16)] * 3) == Lanes(12, 1, 0)


@pytest.mark.parametrize("gpus", [1, 4, 32])
def test_texts_are_given_out_in_proportion_to_the_gpus(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dedup_assets.resources.memory.free_memory", lambda: 512 * GB)
    plan = text_plan(Settings(), lanes_of([gpu("a")] * gpus), [gpu("a")] * gpus)
    assert plan.group >= 2 * gpus * GPU_TASK_TEXTS
    assert plan.task(plan.group) == GPU_TASK_TEXTS
    few = 4 * gpus * TASK_TEXTS  # too few for full tasks: still two for each GPU
    assert plan.task(few) == 2 * TASK_TEXTS
    limited = text_plan(Settings(memory_limit="1GB"), lanes_of([gpu("a")] * gpus), [gpu("a")] * gpus)
    assert limited.group * TEXT_BYTES <= GB // 4


def test_a_text_task_fits_the_memory_of_the_worker() -> None:
    small = WorkerRoom("a", 2, GB, "cuda", 80 * GB, 8)
    plan = text_plan(Settings(), lanes_of([small, gpu("b")]), [small, gpu("b")])
    assert plan.task(10**9) * TEXT_BYTES <= GB // 2 // 8
    beside = [WorkerRoom("a", 2, 4 * GB, "cuda", 80 * GB, 8)] * 8  # they share the memory of one machine
    assert text_plan(Settings(), lanes_of(beside), beside).task(10**9) * TEXT_BYTES <= 4 * GB // 16 // 8


def test_on_cpus_groups_of_texts_grow_with_the_cores_and_tasks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dedup_assets.resources.memory.free_memory", lambda: 64 * GB)
    laptop, large = text_plan(Settings(), Lanes(1, 4, 0)), text_plan(Settings(), Lanes(128, 1, 0))
    assert (laptop.group, laptop.task(10**6)) == (GROUP_TEXTS, TASK_TEXTS)
    assert large.group >= 8 * 128 * TASK_TEXTS and large.task(10**6) == TASK_TEXTS


@pytest.mark.parametrize(
    ("lanes", "cost", "wanted"),
    [
        (Lanes(16, 4, 8), 1e13, 32),
        (Lanes(2, 16, 1), 1e13, 4),  # one GPU: the next group is built while it works
        (Lanes(16, 4, 8), 5e10, 6),  # not worth more: each gathers its rows again
        (Lanes(16, 4, 8), 1e9, 1),
        (Lanes(8, 1, 0), 1e13, 32),  # eight workers of one thread each on CPUs
        (Lanes(1, 8, 0), 1e13, 1),
    ],
)
def test_every_gpu_has_several_groups_of_cells_and_a_small_join_has_one(
    lanes: Lanes, cost: float, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def planned(pieces: list[Any], most: int, at_least: int = 1) -> list[CellGroup]:
        asked.append(at_least)
        return [CellGroup(0, 1, cost)]

    monkeypatch.setattr(pairs, "shard_piece", lambda *folder: SimpleNamespace(vectors=[0]))
    monkeypatch.setattr(pairs, "plan_groups", planned)
    pairs._plan([("", 1, True)], GB, lanes)
    assert max(asked) == wanted


def test_eight_workers_of_one_thread_have_more_than_one_task_in_flight(cluster: DaskCluster) -> None:
    lanes = cluster.lanes(cluster.rooms())
    taken = 0

    def batches() -> Iterator[tuple[()]]:
        nonlocal taken
        for _ in range(20):
            taken += 1
            yield ()

    results = cluster.map(os.getpid, batches(), lanes.tasks)
    next(results)
    assert taken >= 3, "a worker without work"
    list(results)
