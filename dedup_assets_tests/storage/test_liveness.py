"""A run shows that its process is there, and a killed one is told from one that waits, has ended, or is elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dedup_assets.storage.liveness import forget_run, has_died, holding_run

HOLD = """
import sys, time, pathlib
from dedup_assets.storage.liveness import holding_run
with holding_run(pathlib.Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(120)
"""


def test_only_a_run_whose_process_was_killed_has_died(tmp_path: Path) -> None:
    assert not has_died(tmp_path, "run")
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        assert not has_died(tmp_path, "run")
        with holding_run(tmp_path, "other"):
            assert not has_died(tmp_path, "other")
        assert not has_died(tmp_path, "other")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert has_died(tmp_path, "run") and has_died(tmp_path, "run")
    forget_run(tmp_path, "run")
    assert not has_died(tmp_path, "run")
    assert list((tmp_path / "locks" / "runs").iterdir()) == []


def test_of_a_run_on_another_machine_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "locks" / "runs" / "run"
    left.parent.mkdir(parents=True)
    left.write_text("another-machine")
    assert not has_died(tmp_path, "run")
    monkeypatch.setattr("socket.gethostname", lambda: "another-machine")
    assert has_died(tmp_path, "run")


def test_a_run_that_ends_while_it_is_looked_at_has_not_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holding, read = holding_run(tmp_path, "run"), os.pread
    holding.__enter__()

    def read_and_end(*arguments: int) -> bytes:
        found = read(*arguments)
        holding.__exit__(None, None, None)
        return found

    monkeypatch.setattr(os, "pread", read_and_end)
    assert not has_died(tmp_path, "run")
