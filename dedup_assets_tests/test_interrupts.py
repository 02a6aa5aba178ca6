"""An interrupt ends what it interrupts, also where it arrives in code that ignores exceptions, or between steps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dedup_assets as da
from dedup_assets.interrupts import interrupts_noted, raise_interrupt
from dedup_assets.resources.worker_watch import BoundedWait, meanwhile
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.publish import exclusive_lock
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.cli.commands import heed_interrupts, write_jsonl

INTERRUPTED = """
import importlib, os, signal, sys, weakref
from pathlib import Path
import dedup_assets as da

number, place, name, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
module = importlib.import_module(f"dedup_assets.{place}")
work, calls = getattr(module, name), []

class Collected:
    '''Something whose end is told to a callback.'''

def interrupted(*arguments, **named):
    calls.append(arguments)
    if len(calls) == 2:
        gone = Collected()
        reference = weakref.ref(gone, lambda _: os.kill(os.getpid(), number))
        del gone  # Python ignores what the handler raises in the callback
        assert reference() is None
    return work(*arguments, **named)

setattr(module, name, interrupted)
try:
    # With so little memory files are read one after the other, in the main thread, in which signals arrive.
    options = {"embedding_column": "v", "memory_limit": "1GB"}
    da.curate(*sorted(folder.glob("s*.jsonl")), workspace=folder / "ws", progress=False, **options)
except KeyboardInterrupt:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and signal.set_wakeup_fd(-1) == -1
    print("interrupted after", len(calls), "calls")
"""


def shards(folder: Path) -> Path:
    for n in range(3):
        write_jsonl(folder / f"s{n}.jsonl", [{"id": f"s{n}", "text": f"text {n}", "v": [1.0, float(n)]}])
    return folder


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, preexec_fn=heed_interrupts)


@pytest.mark.parametrize("number", [2, 15], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("place", "work"),
    [
        (f"assets.{STAGES[0]}", "ingest_shard"),
        (f"assets.{STAGES[-1]}", "publish_shard"),
        ("checks.asset_checks", "evaluated"),
    ],
    ids=["first stage", "last stage", "checks"],
)
def test_an_interrupt_that_python_ignored_ends_the_run_all_the_same(
    number: int, place: str, work: str, tmp_path: Path
) -> None:
    done = run(INTERRUPTED, number, place, work, shards(tmp_path))
    assert done.returncode == 0 and "Exception ignored in" in done.stderr, done.stderr[-3000:]
    assert done.stdout in ("interrupted after 2 calls\n", "interrupted after 3 calls\n")
    finished = len(Workspace.open(tmp_path / "ws").ledger.completions(STAGES[-1]))
    assert finished == 3 if place.startswith("checks") else finished < 3
    assert da.curate(workspace=tmp_path / "ws", progress=False).summary["shards"] == 3


BETWEEN = """
import os, signal, sys
from pathlib import Path
import dedup_assets as da
from dagster._core.events import DagsterEvent

folder, success = Path(sys.argv[1]), DagsterEvent.job_success

def interrupted(context):
    print(signal.getsignal(signal.SIGINT).__qualname__)
    os.kill(os.getpid(), signal.SIGINT)
    return success(context)

DagsterEvent.job_success = staticmethod(interrupted)
try:
    da.curate(*sorted(folder.glob("s*.jsonl")), workspace=folder / "ws", embedding_column="v", progress=False)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_after_the_last_step_ends_the_call(tmp_path: Path) -> None:
    done = run(BETWEEN, shards(tmp_path))
    assert done.stdout == "capture_interrupts.<locals>._new_signal_handler\ninterrupted\n", done.stderr[-3000:]


ENTERED = """
import contextlib, fcntl, os, signal, sqlite3, sys
from pathlib import Path
import dedup_assets as da
from dedup_assets.storage.workspace import Workspace

name, folder = sys.argv[1], Path(sys.argv[2])
enter, kept = contextlib._GeneratorContextManager.__enter__, []

def interrupted(self):
    global left
    entered = enter(self)
    if self.gen.__qualname__ == name:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)
    return entered

contextlib._GeneratorContextManager.__enter__ = interrupted
for left in (1, 3):
    try:
        da.curate(*sorted(folder.glob("s*.jsonl")), workspace=folder / "ws", embedding_column="v", progress=False)
    except KeyboardInterrupt as problem:
        kept.append(problem)  # as a notebook does
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert len(kept) == 2
connection = sqlite3.connect(Workspace.open(folder / "ws").ledger._path, timeout=0)
connection.execute("BEGIN IMMEDIATE")
for file in (folder / "ws" / "locks").iterdir():
    if file.is_file():
        fcntl.flock(os.open(file, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
print("free")
"""


@pytest.mark.parametrize("name", ["LedgerFile._transaction", "exclusive_lock", "raise_interrupts_as"])
def test_an_interrupted_call_leaves_nothing_that_the_next_one_would_wait_for(name: str, tmp_path: Path) -> None:
    done = run(ENTERED, name, shards(tmp_path))
    assert done.stdout == "free\n", done.stderr[-3000:]


@pytest.fixture
def ignored() -> Iterator[None]:
    """Handlers that do nothing, as if what they raise were ignored."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("ignored")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_noted_whatever_the_handler_does_and_forgotten_with_its_block(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    with interrupts_noted():
        raise_interrupt()
        with interrupts_noted():
            os.kill(os.getpid(), number)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                raise_interrupt()
    raise_interrupt()
    with interrupts_noted():
        raise_interrupt()
        os.kill(os.getpid(), signal.SIGCHLD)
        raise_interrupt()


@pytest.mark.usefixtures("ignored")
def test_waits_end_for_an_interrupt_that_ended_nothing(tmp_path: Path) -> None:
    patience = BoundedWait(60)
    with interrupts_noted():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            meanwhile(lambda: time.sleep(60), lambda: patience.wait("nothing", ""))
        with pytest.raises(KeyboardInterrupt), exclusive_lock(tmp_path / "held"), exclusive_lock(tmp_path / "held"):
            pass


@pytest.mark.usefixtures("ignored")
def test_who_was_told_of_signals_before_is_told_of_them_afterwards() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    try:
        with interrupts_noted():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                raise_interrupt()
        assert {*os.read(reading, 9)} == {signal.SIGINT, signal.SIGTERM}
    finally:
        assert signal.set_wakeup_fd(before) == writing
        os.close(reading)
        os.close(writing)


FORKED = """
import os, signal
from dedup_assets.interrupts import interrupts_noted, raise_interrupt

signal.signal(signal.SIGTERM, lambda *_: None)
with interrupts_noted():
    if not (child := os.fork()):
        os.kill(os.getpid(), signal.SIGTERM)
        raise_interrupt()
        with interrupts_noted():
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                raise_interrupt()
            except KeyboardInterrupt:
                os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    raise_interrupt()
"""


def test_what_a_forked_child_is_sent_is_its_own() -> None:
    done = run(FORKED)
    assert done.returncode == 0, done.stderr[-3000:]
