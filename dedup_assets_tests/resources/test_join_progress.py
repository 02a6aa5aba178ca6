"""How far the join is, told cell by cell while its tasks run, and never more than there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dedup_assets as da
from dedup_assets.assets.pairwise_similarities import _CellsDone
from dedup_assets.compute.cell_groups import CellGroup
from dedup_assets.progress import Progress
from dedup_assets.resources import worker_tasks
from dedup_assets_tests.assets.corpora import corpus, write_shards


class Steps(Progress):
    """Keeps what a stage reports."""

    def __init__(self) -> None:
        super().__init__("pairwise_similarities")
        self.steps: list[int] = []

    def advance(self, amount: int) -> None:
        self.steps.append(amount)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data())
def test_whatever_tasks_tell_the_cells_add_up(sizes, data):
    groups = [CellGroup(0, size, 1.0) for size in sizes]
    steps = Steps()
    done = _CellsDone(steps, groups, sum(sizes) + 3)
    assert steps.steps == [3], "cells without a group have nothing to compare"
    for _ in range(data.draw(st.integers(0, 20))):
        done.hear((data.draw(st.integers(0, len(sizes) - 1)), data.draw(st.integers(0, 12))))
        assert sum(steps.steps) <= sum(sizes) + 3
    for index in data.draw(st.permutations(range(len(sizes)))):
        done.reach(index)
    assert sum(steps.steps) == sum(sizes) + 3
    assert all(step > 0 for step in steps.steps)


def test_a_single_group_of_cells_reports_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_tasks, "TELL_SECONDS", 0.0)
    heard: dict[str, list[int]] = {"total": [], "advanced": []}

    class Listener:
        def stage_started(self, stage: str) -> None: ...

        def stage_finished(self, stage: str) -> None: ...

        def stage_total(self, stage: str, total: int, unit: str) -> None:
            if stage == "pairwise_similarities":
                heard["total"].append(total)

        def stage_advanced(self, stage: str, amount: int) -> None:
            if stage == "pairwise_similarities":
                heard["advanced"].append(amount)

    paths = write_shards(tmp_path / "in", corpus("clustered", (150, 150), seed=2))
    da.curate(*paths, workspace=tmp_path / "ws", embedding_column="vector", clusters=12, listener=Listener())
    assert heard["total"] == [12]
    assert sum(heard["advanced"]) == 12
    assert len(heard["advanced"]) > 2, "nothing was told before the only group was done"
