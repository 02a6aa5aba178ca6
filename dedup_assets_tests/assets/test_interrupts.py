"""A cancelled run ends cancelled, also where the interrupt arrives in code that ignores exceptions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dedup_assets as da
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.cli.commands import write_jsonl

INTERRUPTED = """
import importlib, os, signal, sys, weakref
from pathlib import Path
import dedup_assets as da
from dedup_assets.assets import interrupts

number, stage, name, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
module = importlib.import_module(f"dedup_assets.assets.{stage}")
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
    da.curate(*sorted(folder.glob("s*.jsonl")), workspace=folder / "ws", embedding_column="v", progress=False)
except KeyboardInterrupt:
    left = [getattr(signal.getsignal(each), "__module__", "") for each in (signal.SIGINT, signal.SIGTERM)]
    assert interrupts.__name__ not in left and not interrupts._noted.is_set()
    print("interrupted after", len(calls), "calls")
"""


@pytest.mark.parametrize("number", [2, 15], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("stage", "work"), [(STAGES[0], "ingest_shard"), (STAGES[-1], "publish_shard")], ids=["first stage", "last stage"]
)
def test_an_interrupt_that_python_ignored_ends_the_run_all_the_same(
    number: int, stage: str, work: str, tmp_path: Path
) -> None:
    for n in range(3):
        write_jsonl(tmp_path / f"s{n}.jsonl", [{"id": f"s{n}", "text": f"text {n}", "v": [1.0, float(n)]}])
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(number), stage, work, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "Exception ignored in" in done.stderr, done.stderr[-3000:]
    assert done.stdout in ("interrupted after 2 calls\n", "interrupted after 3 calls\n")
    assert len(Workspace.open(tmp_path / "ws").ledger.completions(STAGES[-1])) < 3
    assert da.curate(workspace=tmp_path / "ws", progress=False).summary["shards"] == 3
