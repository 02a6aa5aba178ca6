"""GPUs that break or lack memory, and who uses how many: with workers of Dask, and stand-ins for their GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dedup_assets.errors import DedupError, NoRoomError
from dedup_assets.resources import dask_cluster, worker_device
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.memory import GPU_SHARE, memory_plan
from dedup_assets.resources.worker_device import Refused, WorkerRoom
from dedup_assets.settings import Settings
from dedup_assets_tests.resources import broken_gpu

GB = 10**9


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    """Two worker processes that believe to have a GPU each."""
    cluster = DaskCluster()
    cluster.adopt(Settings(device="cpu", workers=2, worker_timeout=200))
    start = cluster._start_processes

    def started(kind: str, **options: object) -> None:
        start(kind, **{**options, "preload": [broken_gpu.__name__]})

    object.__setattr__(cluster, "_start_processes", started)
    try:
        yield cluster
    finally:
        cluster.close()


def test_a_worker_whose_gpu_breaks_is_started_anew_and_its_work_is_done(
    cluster: DaskCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(cluster.client().run(os.getpid).values())
    done = [found for _, found in cluster.map(broken_gpu.work, ((n, str(tmp_path / "first")) for n in range(12)))]
    assert sorted(number for number, _ in done) == list(range(12))
    after = {process for _, process in done} | set(cluster.client().run(os.getpid).values())
    assert len(before & after) == 1, "one worker stayed, the other is a new process"
    said = capsys.readouterr().err
    assert f"no longer works ({broken_gpu.STICKY}): it is restarted" in said


def test_work_that_breaks_every_gpu_is_given_up_with_the_reason(cluster: DaskCluster) -> None:
    refused = Refused("tls://127.0.0.1:1", "AcceleratorError: first", broken_gpu.STICKY)
    with pytest.raises(DedupError, match=rf"of 4 Dask workers in turn no longer works: {broken_gpu.STICKY}.*first"):
        cluster._watch.restart_worker(refused, most=3, before=3)
    cluster._watch.restart_worker(refused, most=3, before=2)  # that worker is not there any more: nothing to do


def test_a_lack_of_memory_is_not_repeated(cluster: DaskCluster, tmp_path: Path) -> None:
    marker = tmp_path / "tried"
    with pytest.raises(NoRoomError, match="no memory for a tile of 16 × 16"):
        list(cluster.map(broken_gpu.no_room, [(str(marker),)]))
    assert marker.read_text() == "tried\n"


def test_the_workers_say_what_they_have(cluster: DaskCluster) -> None:
    rooms = cluster.rooms()
    assert rooms and len({room.machine for room in rooms}) == 1  # the other may still be on its way back
    assert all(room.free > 0 and room.threads >= 1 for room in rooms)


# -- one GPU, and more workers than GPUs -------------------------------------------------------------

ONE_GPU = """
import os, sys
import torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
sys.modules["dask_cuda"] = None  # not installed

from dedup_assets.compute.device import memory as device_memory
device_memory.free_bytes = lambda device: 8 * 10**9

from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.settings import Settings

cluster = DaskCluster()
cluster.adopt(Settings({options}))
print(cluster.resolved_device(), [pid == os.getpid() for _, pid in cluster.map(os.getpid, [()] * 3)], flush=True)
import psutil
print(len(psutil.Process().children(recursive=True)), cluster.lanes(cluster.rooms()).tasks)
cluster.close()
"""


@pytest.mark.parametrize("options", ["", "device='cuda', workers=8"])
def test_one_gpu_is_used_in_this_process_by_a_script_without_a_guard(tmp_path: Path, options: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(ONE_GPU.format(options=options))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["cuda [True, True, True]", "0 2"]
    assert ("workers = 8, but a GPU takes one, and 1 are there: 1 start" in done.stderr) == bool(options)


def test_a_broken_gpu_of_this_process_ends_the_run_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "cuda_available", lambda: True)
    monkeypatch.setattr(dask_cluster, "gpu_count", lambda: 1)
    monkeypatch.setattr(worker_device, "_broken", lambda device: broken_gpu.STICKY)
    cluster = DaskCluster()
    cluster.adopt(Settings())
    try:
        with pytest.raises(DedupError, match=r"The GPU of this process no longer works.*run the same command again"):
            list(cluster.map(divmod, [(1, 0)]))
    finally:
        cluster.close()


# -- how much is gathered at once --------------------------------------------------------------------


def test_groups_are_as_large_as_the_smallest_worker_takes() -> None:
    big, small = (WorkerRoom(name, 1, 500 * GB, "cuda", free) for name, free in (("a", 80 * GB), ("b", 24 * GB)))
    assert memory_plan(Settings(), 1, [big, small]).group_bytes == int(GPU_SHARE * 24 * GB)
    assert memory_plan(Settings(), 1, [big]).group_bytes == int(GPU_SHARE * 80 * GB)
    crowded = [WorkerRoom("a", 1, 64 * GB, "cuda", 80 * GB)] * 8  # one machine's memory for eight workers
    assert memory_plan(Settings(), 1, crowded).group_bytes == 64 * GB // 2 // 8 // 2
    limited = memory_plan(Settings().changed({"memory_limit": "16GB"}), 1, [big, small])
    assert limited.group_bytes == min(int(GPU_SHARE * 24 * GB), 16 * GB // 2) and limited.total == 16 * GB
