"""What is looked up is of one generation, whole, also where another is decided and the old one removed meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dedup_assets as da
from dedup_assets.corpus.maintenance import prune
from dedup_assets.errors import WorkspaceError
from dedup_assets.lookups.corpus import Corpus
from dedup_assets.lookups.explain import explain
from dedup_assets.lookups.steady import TRIES
from dedup_assets.report.page import report_page
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, write_shards


def decided_meanwhile(monkeypatch: pytest.MonkeyPatch, workspace: Path, times: int) -> None:
    """Decide under another threshold, and remove what was decided before, in the middle of the next look-ups."""
    real, left = Corpus.decided.func, iter(range(times))

    def decided(corpus: Corpus) -> Any:
        found = real(corpus)
        if (number := next(left, None)) is not None:
            da.rethreshold(0.9 + 0.01 * (number % 2), workspace=workspace)
            prune(Workspace.open(workspace))
        return found

    monkeypatch.setattr(Corpus, "decided", property(decided))


def test_explain_and_report_answer_from_one_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = tmp_path / "ws"
    result = curate(
        write_shards(tmp_path / "in", corpus("clustered", (60, 60), seed=3)), ws, threshold=0.95, floor=0.85
    )
    (removed, *_) = result.removed.to_arrow().column("id").to_pylist()
    with monkeypatch.context() as patch:
        decided_meanwhile(patch, ws, 1)
        answer = explain(Workspace.open(ws), removed)
    assert answer["generation"] == 2 and answer["settings"]["threshold"] == 0.9
    with monkeypatch.context() as patch:
        decided_meanwhile(patch, ws, 2)
        page = report_page(Workspace.open(ws))
    assert page == report_page(Workspace.open(ws))
    with monkeypatch.context() as patch:
        decided_meanwhile(patch, ws, 2 * TRIES + 2)
        with pytest.raises(WorkspaceError, match="replaced 5 times"):
            explain(Workspace.open(ws), removed)
