"""The workers in this process end soon, also in the middle of a task."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from dedup_assets.resources import worker_tasks
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.worker_watch import CLOSE_SECONDS
from dedup_assets.settings import Settings

SECONDS = 25


started, ended = threading.Event(), threading.Event()  # the tasks run in this process


def tell() -> None:
    """A long task that tells how far it is."""
    done = worker_tasks._ProgressReporter("topic", 0)
    try:
        for _ in range(SECONDS * 20):
            started.set()
            time.sleep(0.05)
            done()
    finally:
        ended.set()


def sleep() -> None:
    """One that does not."""
    started.set()
    ended.wait(SECONDS)


@pytest.mark.parametrize(("task", "seconds"), [(tell, 3.0), (sleep, CLOSE_SECONDS + 3.0)])
def test_an_interrupted_run_does_not_wait_for_its_tasks(task, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_tasks, "TELL_SECONDS", 0.1)
    started.clear()
    ended.clear()
    dask = DaskCluster()
    dask.adopt(Settings())
    running = dask.client().submit(task, pure=False)
    assert started.wait(20), running
    since = time.monotonic()
    dask.close()
    assert time.monotonic() - since < seconds
    if task is tell:
        assert ended.wait(3), "the task goes on although nobody wants its result"
    ended.set()
    assert list(dask.map(pow, [(2, 3)])) == [(0, 8)]
    dask.close()


AFTER_A_LOSS = """
import asyncio, gc
from distributed import Client, utils
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.settings import Settings

def cluster():
    dask = DaskCluster()
    dask.adopt(Settings())
    return dask

async def hang(*arguments, **named):
    await asyncio.sleep(60)

gc.disable()  # what is garbage stays until the worst moment
lost = cluster()
lost.client()
close, Client._close = Client._close, hang  # the scheduler no longer answers
lost.close()
Client._close = close
del lost

def begin(self, *arguments, _begin=utils._CollectErrorThread.__init__, **named):
    gc.collect()
    _begin(self, *arguments, **named)

utils._CollectErrorThread.__init__ = begin
dask = cluster()
print(list(dask.map(pow, [(2, 3)])))
dask.close()
"""


def test_a_scheduler_that_was_lost_does_not_keep_the_next_cluster_from_starting() -> None:
    """Dask closes a client in the garbage collector; inside the start of another it would wait for its own lock."""
    done = subprocess.run([sys.executable, "-c", AFTER_A_LOSS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "[(0, 8)]\n", done.stderr[-2000:]
