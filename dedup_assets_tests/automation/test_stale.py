"""What Dagster marks as stale or missing is what a curation would do, over random histories."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

import dedup_assets as da
from dedup_assets.assets import SHARD_ASSETS
from dedup_assets.corpus.retraction import retract_shards
from dedup_assets.definitions import definitions_for
from dedup_assets.embedded import embedded_dagster
from dedup_assets.errors import DedupError
from dedup_assets.storage.ledger import STAGES, TAKEDOWN
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.materialising import materialise, partition_set

WORDS = [f"word{n}" for n in range(12)]


class History:
    """A workspace to which things happen."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.source, self.ws = folder / "in", folder / "ws"
        self.source.mkdir()
        self.log: list[str] = []
        for name in ("a", "b", "c"):
            self.write(name)
        self.curate()

    def write(self, name: str) -> None:
        rows = []
        for n in range(self.random.randint(1, 6)):
            text = " ".join(self.random.choices(WORDS, k=2))
            vector = [float(text.count(word)) + 0.01 for word in WORDS]
            rows.append({"id": f"{name}{n}", "text": text, "v": vector})
        (self.source / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def curate(self) -> None:
        da.curate(self.source, workspace=self.ws, embedding_column="v", progress=False)

    @property
    def shards(self) -> list[str]:
        return [s.key for s in Workspace.open(self.ws).ledger.shards()]

    # -- what happens -------------------------------------------------------------------------------

    def change_a_file(self) -> None:
        live = [s.key for s in Workspace.open(self.ws).ledger.shards() if s.retracted is None]
        if live:
            self.write(self.random.choice(live))

    def touch_a_file(self) -> None:
        path = self.random.choice(sorted(self.source.iterdir()))
        path.write_bytes(path.read_bytes())

    def change_the_threshold(self) -> None:
        Workspace.create_or_open(self.ws, {"threshold": self.random.choice([0.9, 0.92, 0.95])})

    def publish_elsewhere(self) -> None:
        place = self.ws.parent / self.random.choice(["x", "y"])
        Workspace.create_or_open(self.ws, {"output": str(place)})

    def retract_a_shard(self) -> None:
        live = [s.key for s in Workspace.open(self.ws).ledger.shards() if s.retracted is None]
        if len(live) > 1:
            da.retract(self.random.choice(live), workspace=self.ws, progress=False)

    def retract_and_leave_it(self) -> None:
        """As a tick of the sensor does, or a killed call."""
        retract_shards(Workspace.open(self.ws), [self.random.choice(self.shards)], TAKEDOWN)

    def wipe_an_asset(self) -> None:
        with instance_of(self.ws) as instance:
            instance.wipe_assets([dg.AssetKey(self.random.choice(STAGES))])

    def delete_a_partition(self) -> None:
        with instance_of(self.ws) as instance:
            instance.delete_dynamic_partition(partition_set(self.ws), self.random.choice(self.shards))

    def materialise_some(self) -> None:
        """What a person does in the UI: some stages of a shard, whether or not there is something to do."""
        first = self.random.randrange(len(STAGES))
        last = self.random.randrange(first, len(STAGES))
        with embedded_dagster(Workspace.open(self.ws)) as dagster:
            dagster.register()
        with instance_of(self.ws) as instance, suppress(DedupError):  # where an earlier stage is not finished
            materialise(
                SHARD_ASSETS[first : last + 1], instance, Workspace.open(self.ws), [self.random.choice(self.shards)]
            )


def instance_of(ws: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(ws / "dagster"))


def marked(ws: Path) -> dict[str, str]:
    """By shard, the first stage that Dagster shows as stale or missing."""
    with instance_of(ws) as instance:
        resolver = CachingStaleStatusResolver(
            instance, definitions_for(ws).resolve_asset_graph(), LoadingContextForTest(instance)
        )
        found = {}
        for shard in instance.get_dynamic_partitions(partition_set(ws)):
            for stage in STAGES:
                if resolver.get_status(dg.AssetKey(stage), shard) is not StaleStatus.FRESH:
                    found.setdefault(shard, stage)
        return found


def worked_on(ws: Path, curate: Callable[[], None]) -> dict[str, str]:
    """By shard, the first stage that a curation enters in the ledger."""
    before = {stage: numbers(ws, stage) for stage in STAGES}
    curate()
    found: dict[str, str] = {}
    for stage in STAGES:
        for shard in sorted(numbers(ws, stage) - before[stage]):
            found.setdefault(shard[0], stage)
    return found


def numbers(ws: Path, stage: str) -> set[tuple[str, int]]:
    rows = Workspace.open(ws).ledger._rows("SELECT shard, number FROM stage WHERE stage = ?", stage)
    return {(row["shard"], row["number"]) for row in rows}


@pytest.mark.parametrize("seed", range(20))
def test_what_is_stale_or_missing_is_what_a_curation_does(tmp_path: Path, seed: int) -> None:
    history = History(tmp_path, seed)
    happenings = [
        history.change_a_file,
        history.change_the_threshold,
        history.delete_a_partition,
        history.materialise_some,
        history.publish_elsewhere,
        history.retract_a_shard,
        history.retract_and_leave_it,
        history.touch_a_file,
        history.wipe_an_asset,
    ]
    for happening in history.random.choices(happenings, k=3):
        history.log.append(happening.__name__)
        happening()
    da.sync(workspace=history.ws)
    marks = marked(history.ws)
    assert worked_on(history.ws, history.curate) == marks, history.log
    assert marked(history.ws) == {}, history.log
