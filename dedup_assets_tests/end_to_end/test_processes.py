"""Where a curation may be called from: scripts without a guard, threads, forks. Each ends with a result or an error."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.settings import Settings
from dedup_assets_tests.assets.corpora import corpus, write_shards
from dedup_assets_tests.cli.commands import SCRIPT, heed_interrupts
from dedup_assets_tests.end_to_end.test_dask_workers import wait_until

UNGUARDED = """
import multiprocessing, os, threading
from pathlib import Path
import dedup_assets as da

print("the script runs", flush=True)

def go(name, **options):
    try:
        result = da.curate(Path("in"), workspace=name, embedding_column="vector", threshold=0.9, **options)
        print(name, result.summary["rows_in"], *result.summary["stages"]["duplicate_ids"].items(), sep="|", flush=True)
    except da.DedupError as problem:
        print(name, str(problem).split(",")[0], sep="|", flush=True)

go("processes", workers=2)
threads = [threading.Thread(target=go, args=(f"thread-{n}",), daemon=n > 0) for n in (0, 1)]
threads.append(threading.Thread(target=go, args=("thread-0",)))  # two in one workspace
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if (pid := os.fork()) == 0:
    go("fork")
    os._exit(0)
os.waitpid(pid, 0)
child = multiprocessing.get_context("fork").Process(target=go, args=("multiprocessing",))
child.start()
child.join()
"""

WORKERS = """
import os
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.settings import Settings

print("the script runs", flush=True)
cluster = DaskCluster()
cluster.adopt(Settings(device="cpu", workers=2))
assert [result for _, result in cluster.map(pow, [(2, 5)])] == [32]
cluster.close()
"""

LOCKED = """
import multiprocessing, os, subprocess, sys, time
from pathlib import Path
from dedup_assets.storage.publish import exclusive_lock

with exclusive_lock(Path("lock")):
    child = multiprocessing.get_context("spawn").Process(target=print)
    child.start()
    child.join()
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
with exclusive_lock(Path("lock")):  # the fork has it open
    print(child.exitcode)
os.kill(pid, 9)
"""


def run(*command: str, folder: Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=folder, input=given, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "in", corpus("clustered", (30, 30), seed=63))
    return tmp_path


def test_a_script_without_a_guard_curates_with_workers_in_threads_and_not_in_forks(folder: Path) -> None:
    (folder / "script.py").write_text(UNGUARDED)
    done = run("-W", "ignore", "script.py", folder=folder)
    assert done.returncode == 0 and done.stderr == ""
    first, *lines = done.stdout.splitlines()
    assert first == "the script runs"
    said = sorted(line.split("|", 2)[:2] for line in lines)
    results = [["processes", "60"], ["thread-0", "60"], ["thread-0", "60"], ["thread-1", "60"]]
    forked = sorted(line for line in said if line not in results)
    assert len(said) == len(results) + 2 and [name for name, _ in forked] == ["fork", "multiprocessing"]
    assert all(text.startswith("This process was forked from process") for _, text in forked)


@pytest.mark.parametrize("way", [("-c", WORKERS), ()], ids=["-c", "redirected"])
def test_workers_are_started_from_programs_without_a_file(tmp_path: Path, way: tuple[str, ...]) -> None:
    done = run(*way, folder=tmp_path, given=WORKERS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the script runs\n", "")


def test_a_child_that_runs_its_parents_script_again_does_not_wait_for_its_lock(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(LOCKED)
    done = run("script.py", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "lock is locked" in done.stderr and "if __name__ == '__main__':" in done.stderr.splitlines()[-1]


def test_ctrl_c_leaves_no_worker_behind(folder: Path) -> None:
    command = [*SCRIPT, "curate", "in", "--workspace", "ws", "--embedding-column", "vector", "--workers", "2"]
    with subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed_interrupts
    ) as process:
        here = psutil.Process(process.pid)
        wait_until(lambda: len(here.children(recursive=True)) >= 2, "the start of workers")
        known = here.children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.decode().strip().startswith("Interrupted.") and err.count(b"\n") <= 2
    assert not psutil.wait_procs(known, timeout=20)[1]


def test_what_is_left_on_the_loop_of_a_cluster_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    cluster = DaskCluster()
    cluster.adopt(Settings(device="cpu"))
    loop = cluster.client().loop.asyncio_loop

    async def forget() -> None:
        asyncio.get_running_loop().create_future().set_exception(TimeoutError("Timeout"))

    asyncio.run_coroutine_threadsafe(forget(), loop).result()
    cluster.close()
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []
