"""Two processes curate different shards into one workspace at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import dedup_assets as da
from dedup_assets.assets.stage import STAGES
from dedup_assets.encoder.settled import open_table
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import (
    assert_same_tree,
    corpus,
    curate,
    kept_ids,
    leftovers,
    removals,
    tree,
    write_shards,
)
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

    space = Workspace.open(workspace)
    ledger = space.ledger
    admitted = [admission.shard for admission in ledger.admissions()]
    assert sorted(admitted) == ["s00", "s01", "s02", "s03"]
    assert all(set(ledger.completions(stage)) == set(admitted) for stage in STAGES)
    # Shards named in this order are admitted in this order.
    alone = curate([tmp_path / "in" / f"{shard}.parquet" for shard in admitted], tmp_path / "alone", **OPTIONS)
    assert_same_tree(tree(workspace / "output"), tree(alone.output))
    # Each of them embeds all that is registered and has no vectors yet.
    assert len(open_table(space)) == sum(admission.texts for admission in ledger.admissions())
    assert leftovers(workspace) == []


def retract_abreast(shard: str, workspace: Path, log: Path, barrier: Any, meet_at: str) -> None:
    """Retract a shard while the other process curates."""
    barrier.wait(60)
    with children.said_to(log):
        if meet_at:
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait(20)
        da.retract(shard, workspace=workspace, reason="vanished")


@pytest.mark.parametrize("meet_at", ["cluster_partitions", "duplicate_ids"])
def test_a_retraction_beside_a_run_gives_what_one_after_the_other_gives(tmp_path: Path, meet_at: str) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", (40, 30, 60, 25), seed=51))
    workspace = tmp_path / "ws"
    curate(paths[:2], workspace, **OPTIONS)
    barrier = children.barrier(2)
    logs = [tmp_path / "curate.log", tmp_path / "retract.log"]
    running = [
        children.start(curate_abreast, paths[2:], workspace, logs[0], barrier, meet_at),
        children.start(retract_abreast, "s00", workspace, logs[1], barrier, meet_at),
    ]
    for child in running:
        child.join(200)
    said = [log.read_text() if log.exists() else "" for log in logs]
    assert [child.exitcode for child in running] == [0, 0], "\n".join(said)

    result, alone = da.open_curation(workspace), curate(paths[1:], tmp_path / "alone", **OPTIONS)
    assert (kept_ids(result), removals(result)) == (kept_ids(alone), removals(alone))
    assert leftovers(workspace) == []
