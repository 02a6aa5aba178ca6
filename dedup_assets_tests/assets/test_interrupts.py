"""A cancelled run ends cancelled, also where the interrupt arrives in code that ignores exceptions."""

from __future__ import annotations

import os
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest

import dedup_assets as da
from dedup_assets.assets import interrupts
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.cli.commands import write_jsonl


class Collected:
    """Something whose end is told to a callback."""


def interrupt_while_ignored(number: int) -> None:
    """Send this process a signal from the callback of a weak reference, of which Python ignores what it raises."""
    gone = Collected()
    reference = weakref.ref(gone, lambda _: os.kill(os.getpid(), number))
    del gone
    assert reference() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("last", [False, True], ids=["first stage", "last stage"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_ignored_ends_the_run_all_the_same(
    number: signal.Signals, last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        write_jsonl(tmp_path / f"s{n}.jsonl", [{"id": f"s{n}", "text": f"text {n}", "v": [1.0, float(n)]}])
        for n in range(3)
    ]
    module = __import__(f"dedup_assets.assets.{STAGES[-1 if last else 0]}", fromlist=["x"])
    name = "publish_shard" if last else "ingest_shard"
    work, calls = getattr(module, name), []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            interrupt_while_ignored(number)
        return work(*arguments, **named)

    monkeypatch.setattr(module, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        da.curate(*paths, workspace=tmp_path / "ws", embedding_column="v", progress=False)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert not any(getattr(handler, "__module__", "") == interrupts.__name__ for handler in handlers)
    assert len(calls) <= 3 and not interrupts._noted.is_set()
    assert len(Workspace.open(tmp_path / "ws").ledger.completions(STAGES[-1])) < 3
    monkeypatch.undo()
    assert da.curate(workspace=tmp_path / "ws", progress=False).summary["shards"] == 3
