"""A running Dask scheduler with two workers, one of which is killed while it works."""

from __future__ import annotations

import os
import signal
import socket
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

import dedup_assets.assets.pairwise_similarities  # noqa: F401  (its module is patched below)
from dedup_assets.errors import WorkspaceError
from dedup_assets_tests.assets.corpora import assert_same_tree, corpus, curate, leftovers, tree, write_shards

WAIT = 120
"""Seconds within which anything that is waited for has to happen."""

# The worker that will be killed stops in the middle of the named task, so the kill is never early or late.
STUCK = """
import pathlib, time
from dedup_assets.resources import worker_tasks

def stay(*arguments):
    pathlib.Path({marker!r}).touch()
    time.sleep(600)

worker_tasks.{task} = stay
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
def test_a_worker_that_dies_in_the_middle_of_a_run_changes_nothing(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few records are one group of cells, which either worker might get: here they make several.
    monkeypatch.setattr(sys.modules["dedup_assets.assets.pairwise_similarities"], "GROUP_COST", 100.0)
    paths = write_shards(tmp_path / "in", corpus("clustered", (60, 40, 50), seed=60))
    options = {"threshold": 0.9, "clusters": 12}
    address = f"tcp://127.0.0.1:{free_port()}"
    marker, stuck = tmp_path / "working", tmp_path / "stuck.py"
    stuck.write_text(STUCK.format(marker=str(marker), task=task))
    worker = ("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
    worker += ("--preload", "dedup_assets.resources.worker_setup")
    with ExitStack() as running:
        port = address.rpartition(":")[2]
        scheduler = ("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        running.enter_context(dask(*scheduler, log=tmp_path / "scheduler.log"))
        running.enter_context(dask(*worker, log=tmp_path / "survivor.log"))
        victim = running.enter_context(dask(*worker, "--preload", str(stuck), log=tmp_path / "victim.log"))
        with distributed.Client(address, timeout=WAIT) as client:
            client.wait_for_workers(2, timeout=WAIT)

        def kill_while_it_works() -> None:
            wait_until(marker.exists, "work on the worker to be killed")
            os.kill(victim.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_while_it_works)
        killer.start()
        result = curate(paths, tmp_path / "ws", scheduler=address, **options)
        killer.join()
        assert victim.wait(WAIT) == -signal.SIGKILL
    local = curate(paths, tmp_path / "local", **options)
    assert_same_tree(tree(result.output), tree(local.output))
    assert leftovers(tmp_path / "ws") == []


def test_a_scheduler_that_cannot_be_reached_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in the package but for how long it waits.
    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout=1: client(address, timeout=1))
    paths = write_shards(tmp_path / "in", corpus("clustered", (20,), seed=61))
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(
        WorkspaceError, match=rf"No Dask scheduler .* answers at {address}.*`dask scheduler`.*--scheduler ''"
    ):
        curate(paths, tmp_path / "ws", scheduler=address, threshold=0.9)
    result = curate(paths, tmp_path / "ws", scheduler="")
    assert result.summary["shards"] == 1
