"""Two processes curate different shards into one workspace at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dedup_assets.assets.stage import STAGES
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import assert_same_tree, corpus, curate, leftovers, tree, write_shards
from dedup_assets_tests.end_to_end import children

OPTIONS: dict[str, Any] = {"threshold": 0.9, "floor": 0.8}


def curate_abreast(paths: Sequence[Path], workspace: Path, log: Path, barrier: Any, meet_at: str) -> None:
    """Curate; begin, and begin one stage, at the same moment as the other process."""

    def meet(stage: str) -> None:
        nonlocal meet_at
        if stage == meet_at:
            meet_at = ""
            # The other one may have found nothing left to do.
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait(5)

    barrier.wait(60)
    children.curate(paths, workspace, log, children.Watch(meet), **OPTIONS)


@pytest.mark.parametrize("meet_at", ["embeddings", "cluster_partitions", "duplicate_ids"])
def test_two_runs_at_once_give_what_one_after_the_other_gives(tmp_path: Path, meet_at: str) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", (30, 30, 60, 25), seed=50))
    workspace = tmp_path / "ws"
    # Each brings a small shard and a larger one, so that both outgrow the first codebook.
    parts = paths[::2], paths[1::2]
    barrier = children.barrier(len(parts))
    logs = [tmp_path / f"{number}.log" for number in range(len(parts))]
    running = [
        children.start(curate_abreast, part, workspace, log, barrier, meet_at)
        for part, log in zip(parts, logs, strict=True)
    ]
    for child in running:
        child.join(200)
    said = [log.read_text() if log.exists() else "" for log in logs]
    assert [child.exitcode for child in running] == [0, 0], "\n".join(said)

    ledger = Workspace.open(workspace).ledger
    admitted = [admission.shard for admission in ledger.admissions()]
    assert sorted(admitted) == ["s00", "s01", "s02", "s03"]
    assert all(set(ledger.completions(stage)) == set(admitted) for stage in STAGES)
    # Shards named in this order are admitted in this order.
    alone = curate([tmp_path / "in" / f"{shard}.parquet" for shard in admitted], tmp_path / "alone", **OPTIONS)
    assert_same_tree(tree(workspace / "output"), tree(alone.output))
    assert leftovers(workspace) == []
