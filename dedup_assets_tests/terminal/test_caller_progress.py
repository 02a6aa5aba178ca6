"""Callers from Python see progress where somebody can see it, and nothing of it anywhere else."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

import dedup_assets as da
from dedup_assets.terminal.live import caller_progress
from dedup_assets.terminal.notebook import NotebookBars, in_notebook
from dedup_assets_tests.cli.commands import on_a_terminal, write_corpus

PROGRAM = """
import os, sys
import dedup_assets as da
da.curate({shards!r}, workspace={workspace!r}, embedding_column="v")
print("curated", flush=True)
os.write(1, b"from compiled code\\n")
os.write(2, b"SILENT FROM HERE\\n")
print(len(da.rethreshold(0.96, workspace={workspace!r}, progress=False).kept))
print(len(da.recurate(workspace={workspace!r}, progress=False).kept))
print(len(da.retract("b", workspace={workspace!r}, progress=False).kept))
"""


def test_a_terminal_shows_bars_until_they_are_silenced(tmp_path: Path) -> None:
    program = PROGRAM.format(shards=str(write_corpus(tmp_path / "shards")), workspace=str(tmp_path / "ws"))
    shown, silent = on_a_terminal(program, 100).split("SILENT FROM HERE")
    assert "starting" in shown and "deduplicated_dataset" in shown and "6/6 records" in shown
    assert shown.rstrip().endswith("from compiled code") and "curated" in shown
    assert silent.split() == ["4", "4", "2"]


def test_nothing_is_shown_where_nobody_looks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shards = write_corpus(tmp_path / "shards")
    da.curate(shards, workspace=tmp_path / "ws", embedding_column="v")
    assert capfd.readouterr() == ("", "")


NESTED = """
import io, os, sys
from dedup_assets.terminal.live import caller_progress
with caller_progress() as bars:
    assert bars is not None
    assert not os.isatty(1) and not os.isatty(2), "what is written goes above the bars"
    with caller_progress() as second:
        assert second is None, "two displays would draw over each other"
with caller_progress() as again:
    assert again is not None
own = os.open(os.devnull, os.O_WRONLY)
saved = os.dup(1)
os.dup2(own, 1)
with caller_progress() as bars:
    assert bars is not None and os.fstat(1) == os.fstat(own), "the caller's own file stays"
os.dup2(saved, 1)
sys.stderr = io.StringIO()
with caller_progress() as bars:
    assert bars is None, "somebody captures what Python writes"
sys.stderr = None
with caller_progress() as bars:
    assert bars is None
print("done")
"""


def test_one_call_draws_at_a_time_and_leaves_the_callers_streams_alone() -> None:
    assert on_a_terminal(NESTED, 80).rstrip().endswith("done")


def test_a_kernel_is_known_without_loading_ipython(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert not in_notebook()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caller_progress() as bars:
        assert bars is None


def test_bars_of_a_notebook_are_short_and_carry_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    class Handle:
        def update(self, bars: NotebookBars) -> None:
            drawn.append(f"{bars!r}\n{bars._repr_html_()}")

    bars = NotebookBars()
    bars._handle = Handle()
    bars.stage_started("a<b>")
    bars.stage_total("a<b>", 4000, "texts")
    for _ in range(4000):
        bars.stage_advanced("a<b>", 1)
    bars.stage_finished("a<b>")
    bars.stage_started("idle")
    bars.stage_finished("idle")
    bars.__exit__()
    assert len(drawn) < 30, "not a message for every step"
    assert "starting" not in drawn[0] and "4,000/4,000 texts" in drawn[-1]
    assert "a&lt;b&gt;" in drawn[-1] and drawn[-1].count("<progress value=") == 2
