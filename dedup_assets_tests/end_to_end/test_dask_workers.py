"""A running Dask scheduler with two workers, one of which is killed while it works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import distributed
import pytest

from dedup_assets.errors import ClusterError
from dedup_assets_tests.assets.corpora import assert_same_tree, corpus, curate, leftovers, tree, write_shards
from dedup_assets_tests.ports import free_port

WAIT = 120
"""Seconds within which anything that is waited for has to happen."""

# The worker that comes first to the named task stops in the middle of it, whichever it is, and says which process
# it is: so the kill is never early or late, and does not hang on where the scheduler sends a task.
STUCK = """
import os, pathlib, time
from dedup_assets.resources import worker_tasks

# Dask runs a preloaded file twice.
work = getattr(worker_tasks.{task}, "work", worker_tasks.{task})

def stay(*arguments):
    try:
        pathlib.Path({marker!r}).symlink_to(str(os.getpid()))
    except FileExistsError:
        return work(*arguments)
    time.sleep(600)

stay.work = work
worker_tasks.{task} = stay
"""


@contextmanager
def dask(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A `dask ...` process; killed at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "dask", *arguments], stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_until(reached: Any, what: str) -> None:
    """Poll until something is true."""
    deadline = time.monotonic() + WAIT
    while not reached():
        assert time.monotonic() < deadline, f"{what} did not happen within {WAIT} s"
        time.sleep(0.05)


@pytest.mark.parametrize("task", ["assign_shard", "match_cells_of_shards"])
def test_a_worker_that_dies_in_the_middle_of_a_run_changes_nothing(tmp_path: Path, task: str) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", (60, 40, 50), seed=60))
    options = {"threshold": 0.9, "clusters": 12}
    address = f"tcp://127.0.0.1:{free_port()}"
    marker, stuck = tmp_path / "working", tmp_path / "stuck.py"
    stuck.write_text(STUCK.format(marker=str(marker), task=task))
    worker = ("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
    worker += ("--preload", "dedup_assets.resources.worker_setup", "--preload", str(stuck))
    with ExitStack() as running:
        port = address.rpartition(":")[2]
        scheduler = ("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        running.enter_context(dask(*scheduler, log=tmp_path / "scheduler.log"))
        workers = [running.enter_context(dask(*worker, log=tmp_path / f"worker-{n}.log")) for n in (1, 2)]
        with distributed.Client(address, timeout=WAIT) as client:
            client.wait_for_workers(2, timeout=WAIT)

        def kill_while_it_works() -> None:
            wait_until(marker.is_symlink, "work on the worker to be killed")
            os.kill(int(marker.readlink().name), signal.SIGKILL)

        killer = threading.Thread(target=kill_while_it_works)
        killer.start()
        result = curate(paths, tmp_path / "ws", scheduler=address, **options)
        killer.join()
        wait_until(lambda: [w.poll() for w in workers].count(-signal.SIGKILL) == 1, "the end of the worker")
    local = curate(paths, tmp_path / "local", **options)
    assert_same_tree(tree(result.output), tree(local.output))
    assert leftovers(tmp_path / "ws") == []


def test_a_scheduler_that_cannot_be_reached_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", (20,), seed=61))
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError, match=rf"Dask scheduler .*{address}.*`dask scheduler`.*--scheduler ''"):
        curate(paths, tmp_path / "ws", scheduler=address, threshold=0.9, worker_timeout=1)
    result = curate(paths, tmp_path / "ws", scheduler="")
    assert result.summary["shards"] == 1
