"""Checks that the Dask workers of a run are alive while their client waits.

Dask waits indefinitely for workers that are gone or hang, and its client for a scheduler that hangs. Here every wait is
bounded, and reports on standard error every ten seconds what it waits for.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from dedup_assets.errors import ClusterError, DedupError, NoRoomError
from dedup_assets.interrupts import raise_interrupt
from dedup_assets.resources.worker_device import Refused, nanny_runs

Result = TypeVar("Result")

CLOSE_SECONDS = 5
"""Seconds for disconnecting from a scheduler, which may be lost, and for running tasks whose results are no longer
needed."""

SAY_SECONDS = 10.0
LOOK_SECONDS = 2.0
"""Seconds between two checks of the workers. A check of a few tens of workers costs the scheduler a millisecond."""

KEPT = "What is finished is kept: run the same command again to go on."


class BoundedWait:
    """A wait that reports its reason every ten seconds, and ends after a number of seconds without progress."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.reset()

    def reset(self) -> None:
        """Record progress."""
        self._since = self._said = time.monotonic()

    def wait(self, what: str, remedy: str) -> None:
        """Call it repeatedly while waiting. Raises ClusterError after too long."""
        raise_interrupt()
        now = time.monotonic()
        waited = now - self._since
        if waited >= self.seconds:
            raise ClusterError(f"Waited {waited:.0f} s for {what}. {remedy}")
        if now - self._said >= SAY_SECONDS:
            self._said = now
            say(f"Waiting for {what} ({waited:.0f} s so far, at most {self.seconds:g} s)")


def say(line: str) -> None:
    """Print a line on standard error, which the live progress shows above its bars."""
    print(line, file=sys.stderr, flush=True)


def meanwhile(work: Callable[[], Result], look: Callable[[], None]) -> Result:
    """The result of a call that may block; `look` is called several times a second and may raise."""
    answer: Future[Result] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as problem:
            answer.set_exception(problem)

    threading.Thread(target=run, name="dedup-assets-wait", daemon=True).start()
    while not wait([answer], timeout=0.1).done:
        look()
    return answer.result()


class WorkerWatch:
    """The workers of a scheduler as seen by its client. The waiting thread calls `look`.

    Parameters
    ----------
    client, address
        A `distributed.Client`, connected to the scheduler at this address.
    seconds
        How long a worker may send no heartbeat, and how long a run may have no working worker.
    restarted
        Whether hanging workers are replaced by the process that started them.
    """

    def __init__(self, client: Any, address: str, seconds: float, *, restarted: bool) -> None:
        self._client = client
        self._address = address
        self._restarted = restarted
        self._patience = BoundedWait(seconds)
        self._looked = time.monotonic()
        self._heard: dict[
            str, tuple[float, float]
        ] = {}  # by worker: its last heartbeat by the scheduler's clock and by ours
        self._said: dict[str, float] = {}

    def watching(self, work: Callable[[], Result]) -> Result:
        """The result of a call to the client. Raises ClusterError if scheduler or workers are lost meanwhile."""
        with self.connection_errors():
            return meanwhile(work, self.look)

    def answers(self, question: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """The answer or exception of each worker that is still connected afterwards."""
        client = self._client
        answers = self.watching(lambda: client.run(question, *arguments, on_error="return"))
        there = self.watching(client.nthreads)  # some may have disconnected without an answer
        return {worker: answer for worker, answer in answers.items() if worker in there}

    def wait_for_one(self, finished: Any) -> None:
        """Wait until one of some futures, an `as_completed`, is done; raises like `watching`."""
        while not finished.has_ready():
            self.look()
            with finished.thread_condition:
                finished.thread_condition.wait(0.1)

    @contextmanager
    def connection_errors(self) -> Iterator[None]:
        """Raise ClusterError instead of the client's errors after the connection broke."""
        from distributed.client import ClosedClientError
        from distributed.comm import CommClosedError

        try:
            yield
        except (CancelledError, ClosedClientError, CommClosedError) as problem:
            raise self._gone() from problem
        except OSError as problem:
            if self._client.status == "running":
                raise
            raise self._gone() from problem

    def look(self) -> None:
        """Raise ClusterError if the scheduler is lost or all workers have been lost for too long. Raises a pending
        interrupt too."""
        raise_interrupt()
        now = time.monotonic()
        every = min(LOOK_SECONDS, self._patience.seconds / 5)
        if now - self._looked < every:
            return
        if now - self._looked > 10 * every:  # there was no wait in between
            self._patience.reset()
            self._heard.clear()
        self._looked = now
        if self._client.status != "running":
            raise self._gone()
        scheduler = f"the Dask scheduler at {self._address}"
        try:
            info = self._client.sync(
                self._client.scheduler.identity, n_workers=-1, callback_timeout=max(1.0, min(5.0, 2 * every))
            )
        except TimeoutError:
            self._patience.wait(f"{scheduler}, which does not answer", KEPT)
        except OSError as problem:
            raise self._gone() from problem
        else:
            self._check_all(info["workers"])

    def restart_worker(self, refused: Refused, *, most: int, before: int) -> None:
        """End a worker whose GPU no longer works. Its nanny starts a replacement; without a nanny, other workers do its
        work.

        Raises DedupError if that does not help: the GPU lacks memory, the work already broke ``most`` GPUs, or the GPU
        belongs to this process.
        """
        if not refused.broken:
            raise NoRoomError(refused.problem)
        if before >= most:
            whose = f"of {before + 1} Dask workers in turn" if before else "of this process"
            raise DedupError(
                f"The GPU {whose} no longer works: {refused.broken}. First came {refused.problem}. {KEPT} "
                "With --device cpu the decisions are the same."
            )
        worker, client = refused.worker, self._client
        known = self.watching(lambda: client.sync(client.scheduler.identity, n_workers=-1))["workers"].get(worker)
        if known is None:
            return  # already ended
        if refused.process and self.answers(os.getpid).get(worker, refused.process) != refused.process:
            return  # already restarted for a concurrent task
        say(f"The GPU of Dask worker {worker} no longer works ({refused.broken}): it is restarted")
        if known["nanny"] is None:
            self.watching(lambda: client.retire_workers([worker], close_workers=True))
            return
        # A nanny that is still starting a worker does not notice the worker's end.
        while not all(self.watching(lambda: client.run(nanny_runs, workers=[worker], nanny=True)).values()):
            self.look()
            time.sleep(0.1)
        seconds = self._patience.seconds
        self.watching(lambda: client.restart_workers([worker], timeout=seconds, raise_for_error=False))

    def _gone(self) -> ClusterError:
        """The error for a broken connection to the scheduler."""
        return ClusterError(
            f"The Dask scheduler at {self._address} is gone, and with it the work it had given out. {KEPT}"
        )

    def _check_all(self, workers: dict[str, Any]) -> None:
        now = time.monotonic()
        before = self._heard
        self._heard = {
            name: before[name]
            if name in before and before[name][0] == worker["last_seen"]
            else (worker["last_seen"], now)
            for name, worker in workers.items()
        }
        silent = {name: now - heard for name, (_, heard) in self._heard.items()}
        fresh = [name for name in workers if silent[name] < min(SAY_SECONDS, self._patience.seconds)]
        if any(_can_work(workers[name]) for name in fresh):
            self._patience.reset()
            for name in workers.keys() - set(fresh):
                self._report_hanging(name, silent[name])
        elif fresh:
            self._patience.wait(
                f"memory: all Dask workers at {self._address} are paused, because theirs is full",
                f"Give the workers more memory, or lower batch_size. {KEPT}",
            )
        else:
            left = f"none of the {len(workers)} there gives a sign of life" if workers else "none is there"
            self._patience.wait(f"a Dask worker of {self._address}: {left}", f"Start workers. {KEPT}")

    def _report_hanging(self, name: str, seconds: float) -> None:
        """Report that one of several workers hangs; others will do its work."""
        now = time.monotonic()
        if now - self._said.get(name, 0.0) >= SAY_SECONDS:
            self._said[name] = now
            limit = self._patience.seconds
            say(f"No sign of life from Dask worker {name} for {seconds:.0f} s; after {limit:g} s it counts as lost")
        if seconds >= self._patience.seconds and not self._restarted:
            self._client.sync(
                self._client.scheduler.unregister, address=name, stimulus_id=f"no-sign-of-life-{time.time()}"
            )


def _can_work(worker: dict[str, Any]) -> bool:
    """A paused worker finishes its current tasks, then waits until memory is freed."""
    return worker["status"] == "running" or bool(worker["metrics"].get("task_counts", {}).get("executing"))
