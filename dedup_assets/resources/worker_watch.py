"""Whether the Dask workers of a run still live, looked at by whoever waits for them.

Dask waits for ever for workers that are gone or hang, and so does its client for a scheduler that hangs. Here every
wait says on standard error, every ten seconds, what it waits for, and it ends.
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
"""For taking leave of a scheduler, which may be lost, and of tasks that run when nobody wants their result any more."""

SAY_SECONDS = 10.0
LOOK_SECONDS = 2.0
"""Between two looks at the workers. A look costs the scheduler a millisecond for some tens of them."""

KEPT = "What is finished is kept: run the same command again to go on."


class Patience:
    """A wait that says what it waits for every ten seconds, and is over after so many seconds without progress."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.go_on()

    def go_on(self) -> None:
        """What is waited for is there."""
        self._since = self._said = time.monotonic()

    def wait(self, what: str, remedy: str) -> None:
        """Call it now and then while waiting. Raises ClusterError once it takes too long."""
        raise_interrupt()
        now = time.monotonic()
        waited = now - self._since
        if waited >= self.seconds:
            raise ClusterError(f"Waited {waited:.0f} s for {what}. {remedy}")
        if now - self._said >= SAY_SECONDS:
            self._said = now
            say(f"Waiting for {what} ({waited:.0f} s so far, at most {self.seconds:g} s)")


def say(line: str) -> None:
    """A line on standard error, which the live progress shows above its bars."""
    print(line, file=sys.stderr, flush=True)


def meanwhile(work: Callable[[], Result], look: Callable[[], None]) -> Result:
    """The result of a call that may wait for ever; `look` is called several times a second and may raise."""
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
    """The workers of a scheduler as its client sees them. `look` is called by whoever waits.

    Parameters
    ----------
    client, address
        A `distributed.Client`, connected to the scheduler at this address.
    seconds
        How long a worker may give no sign of life, and a run may be without any that does.
    restarted
        Who started the workers puts others in the place of those that hang.
    """

    def __init__(self, client: Any, address: str, seconds: float, *, restarted: bool) -> None:
        self._client = client
        self._address = address
        self._restarted = restarted
        self._patience = Patience(seconds)
        self._looked = time.monotonic()
        self._heard: dict[
            str, tuple[float, float]
        ] = {}  # by worker: its last sign by its scheduler's clock and by ours
        self._said: dict[str, float] = {}

    def watching(self, work: Callable[[], Result]) -> Result:
        """The result of a call to the client. Raises ClusterError if scheduler or workers are lost meanwhile."""
        with self.minding():
            return meanwhile(work, self.look)

    def answers(self, question: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What each worker answers that is still there afterwards, or the exception it ended with."""
        client = self._client
        answers = self.watching(lambda: client.run(question, *arguments, on_error="return"))
        there = self.watching(client.nthreads)  # some may have gone instead of answering
        return {worker: answer for worker, answer in answers.items() if worker in there}

    def wait_for_one(self, finished: Any) -> None:
        """Wait until one of some futures, an `as_completed`, is done; as above."""
        while not finished.has_ready():
            self.look()
            with finished.thread_condition:
                finished.thread_condition.wait(0.1)

    @contextmanager
    def minding(self) -> Iterator[None]:
        """Raise ClusterError in the place of what the client raises once the connection broke."""
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
        """Raise ClusterError if the scheduler is lost, or all workers have been for too long, or for an interrupt that
        ended nothing."""
        raise_interrupt()
        now = time.monotonic()
        every = min(LOOK_SECONDS, self._patience.seconds / 5)
        if now - self._looked < every:
            return
        if now - self._looked > 10 * every:  # nobody waited in between
            self._patience.go_on()
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
            self._judge(info["workers"])

    def start_anew(self, refused: Refused, *, most: int, before: int) -> None:
        """End the worker whose GPU no longer works. Its nanny starts another; where it has none, others do its work.

        Raises DedupError where that does not help: the GPU lacks memory, or the work ended ``most`` GPUs before, none
        of which can be had again in this process.
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
            return  # ended already
        if refused.process and self.answers(os.getpid).get(worker, refused.process) != refused.process:
            return  # restarted for what ran beside this
        say(f"The GPU of Dask worker {worker} no longer works ({refused.broken}): it is restarted")
        if known["nanny"] is None:
            self.watching(lambda: client.retire_workers([worker], close_workers=True))
            return
        # A nanny that is still starting a worker does not notice its end.
        while not all(self.watching(lambda: client.run(nanny_runs, workers=[worker], nanny=True)).values()):
            self.look()
            time.sleep(0.1)
        seconds = self._patience.seconds
        self.watching(lambda: client.restart_workers([worker], timeout=seconds, raise_for_error=False))

    def _gone(self) -> ClusterError:
        """The error of a scheduler to which the connection broke."""
        return ClusterError(
            f"The Dask scheduler at {self._address} is gone, and with it the work it had given out. {KEPT}"
        )

    def _judge(self, workers: dict[str, Any]) -> None:
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
            self._patience.go_on()
            for name in workers.keys() - set(fresh):
                self._miss(name, silent[name])
        elif fresh:
            self._patience.wait(
                f"memory: all Dask workers at {self._address} are paused, because theirs is full",
                f"Give the workers more memory, or lower batch_size. {KEPT}",
            )
        else:
            left = f"none of the {len(workers)} there gives a sign of life" if workers else "none is there"
            self._patience.wait(f"a Dask worker of {self._address}: {left}", f"Start workers. {KEPT}")

    def _miss(self, name: str, seconds: float) -> None:
        """One of several workers hangs: its work is done elsewhere in time."""
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
    """A worker that is paused goes on with what it is at, and then waits until memory is freed."""
    return worker["status"] == "running" or bool(worker["metrics"].get("task_counts", {}).get("executing"))
