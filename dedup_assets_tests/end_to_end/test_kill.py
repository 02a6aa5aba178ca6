"""A process killed at any moment inside any asset: a second call gives the result of an undisturbed run."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.assets.stage import STAGES
from dedup_assets.storage import ledger, publish
from dedup_assets.storage.embeddings import EmbeddingTable
from dedup_assets.storage.ledger import Ledger
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import assert_same_tree, corpus, curate, leftovers, tree, write_shards
from dedup_assets_tests.end_to_end import children

OPTIONS: dict[str, Any] = {"threshold": 0.9, "keep": "column:quality"}
Point = tuple[str, str, int]
"""Where to die: asset, moment, and at which occurrence of it."""

MOMENTS = ("written", "renamed", "in a transaction", "recorded")
"""Files are written and not renamed; renamed and not recorded; the record is half made; it is made."""

# Vectors go to LanceDB, whose commit stands for the rename; the second occurrence leaves a shard or file
# finished and others not.
POINTS: list[Point] = [
    ("raw_shards", "written", 2),
    ("raw_shards", "renamed", 2),
    ("raw_shards", "in a transaction", 3),
    ("embeddings", "written", 1),
    ("embeddings", "renamed", 1),
    ("kmeans_centroids", "written", 1),
    ("kmeans_centroids", "renamed", 1),
    ("cluster_partitions", "written", 2),
    ("cluster_partitions", "renamed", 4),
    ("cluster_partitions", "in a transaction", 1),
    ("pairwise_similarities", "written", 2),
    ("pairwise_similarities", "renamed", 2),
    ("duplicate_ids", "written", 3),
    ("duplicate_ids", "renamed", 3),
    ("duplicate_ids", "in a transaction", 1),
    ("deduplicated_dataset", "written", 5),
    ("deduplicated_dataset", "renamed", 2),
    ("deduplicated_dataset", "renamed", 9),  # all files of the three shards, and no manifest
    ("deduplicated_dataset", "written", 10),
    ("deduplicated_dataset", "in a transaction", 1),
]


# -- in the child ------------------------------------------------------------------------------------


def curate_and_die(paths: Sequence[Path], workspace: Path, log: Path, point: Point) -> None:
    """Curate, and be killed at the point."""
    watch = children.Watch()
    arm(point, watch)
    children.curate(paths, workspace, log, watch, **OPTIONS)


def retract_and_die(shard: str, workspace: Path, log: Path, point: Point) -> None:
    """Retract a shard, and be killed at the point."""
    watch = children.Watch()
    arm(point, watch)
    with children.said_to(log):
        da.retract(shard, workspace=workspace, listener=watch)


def arm(point: Point, watch: children.Watch) -> None:
    """See to it that this process is killed at the point."""
    stage, moment, occurrence = point
    seen = 0

    def reached(what: str) -> None:
        nonlocal seen
        if watch.stage == stage and what == moment:
            seen += 1
            if seen == occurrence:
                children.die()

    sync_file, sync_folder = publish.sync_file, publish.sync_folder

    def synced_file(path: Path) -> None:
        sync_file(path)
        if not path.parent.name.startswith(".tmp-"):  # the one file of `publish_file`
            reached("written")

    def synced_folder(path: Path) -> None:
        sync_folder(path)
        reached("written" if path.name.startswith(".tmp-") else "renamed")

    def around(owner: Any, name: str, before: str, after: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(inner)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            reached(before)
            result = inner(*arguments, **named)
            reached(after)
            return result

        setattr(owner, name, wrapped)

    publish.sync_file, publish.sync_folder = synced_file, synced_folder
    around(EmbeddingTable, "add", "written", "renamed")
    for name in ("complete", "admit", "add_codebook", "add_generation", "retract_shard"):
        around(Ledger, name, "about to record", "recorded")
    around(ledger, "_record", "in a transaction begun", "in a transaction")  # its last statement before the commit
    around(ledger, "_void", "in a transaction begun", "in a transaction")


# -- the promise -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("in"), corpus("clustered", (40, 25, 60), seed=40))


@pytest.fixture(scope="module")
def undisturbed(shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """`output/` of a run that nobody killed."""
    return tree(curate(shards, tmp_path_factory.mktemp("undisturbed"), **OPTIONS).output)


def kill(what: Sequence[Path] | str, workspace: Path, point: Point, act: Callable[..., None] = curate_and_die) -> None:
    """Curate, or do something else, in a child that is killed at the point."""
    log = workspace.with_suffix(".log")
    child = children.start(act, what, workspace, log, point)
    child.join(120)
    said = log.read_text() if log.exists() else ""
    assert child.exitcode == -signal.SIGKILL, f"{point} was not reached, exit code {child.exitcode}\n{said}"


def assert_nothing_half_written_is_visible(workspace: Path, undisturbed: dict[str, bytes]) -> None:
    """Whatever has a proper name has its proper content, even now."""
    visible = {name: data for name, data in tree(workspace / "output").items() if ".tmp-" not in name}
    assert {name for name in visible if visible[name] != undisturbed.get(name)} == set()
    for folder in ("raw", "pairs", "decisions"):
        for path in (workspace / folder).rglob("*.parquet"):
            if ".tmp-" not in str(path):
                pq.read_table(path)


def assert_undisturbed(workspace: Path, undisturbed: dict[str, bytes]) -> None:
    """The result, nothing beside it, and a ledger in which all is finished."""
    assert_same_tree(tree(workspace / "output"), undisturbed)
    assert leftovers(workspace) == []
    ledger = Workspace.open(workspace).ledger
    keys = {shard.key for shard in ledger.shards()}
    assert all(set(ledger.completions(stage)) == keys for stage in STAGES)
    assert [admission.number for admission in ledger.admissions()] == list(range(1, len(keys) + 1))
    assert ledger.failures() == {}


@pytest.mark.parametrize("point", POINTS, ids=lambda point: "-".join(map(str, point)).replace(" ", "_"))
def test_a_second_call_finishes_what_a_killed_one_began(
    tmp_path: Path, shards: list[Path], undisturbed: dict[str, bytes], point: Point
) -> None:
    kill(shards, tmp_path / "ws", point)
    assert_nothing_half_written_is_visible(tmp_path / "ws", undisturbed)
    result = curate(shards, tmp_path / "ws")
    assert result.summary["run_ids"]
    assert_undisturbed(tmp_path / "ws", undisturbed)


def test_killed_in_every_asset_in_turn_and_twice_in_the_last_the_work_is_still_finished(
    tmp_path: Path, shards: list[Path], undisturbed: dict[str, bytes]
) -> None:
    for stage in (*STAGES, STAGES[-1]):
        kill(shards, tmp_path / "ws", (stage, "renamed", 1))
        assert_nothing_half_written_is_visible(tmp_path / "ws", undisturbed)
    curate(shards, tmp_path / "ws")
    assert_undisturbed(tmp_path / "ws", undisturbed)


# -- the switch to a new generation ------------------------------------------------------------------

SWITCH_POINTS: list[Point] = [
    ("", "in a transaction", 1),  # the retraction itself
    ("", "recorded", 1),
    ("duplicate_ids", "renamed", 2),  # matches of the retracted shard are gone, decisions are not there
    ("duplicate_ids", "in a transaction", 1),
    ("duplicate_ids", "recorded", 1),
    ("deduplicated_dataset", "renamed", 3),
    ("deduplicated_dataset", "renamed", 7),  # all files and the manifest, and no list of changes
    ("deduplicated_dataset", "renamed", 8),  # all but the switch
    ("deduplicated_dataset", "renamed", 9),  # switched and not recorded
    ("deduplicated_dataset", "in a transaction", 1),
]


@pytest.fixture(scope="module")
def retracted(shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """`output/` after a shard was retracted and nobody was killed."""
    workspace = tmp_path_factory.mktemp("retracted")
    curate(shards, workspace, **OPTIONS)
    return tree(da.retract("s00", workspace=workspace).output)


@pytest.mark.parametrize("point", SWITCH_POINTS, ids=lambda point: "-".join(map(str, point)).replace(" ", "_"))
def test_a_reader_sees_the_old_generation_or_the_new_whatever_dies_between(
    tmp_path: Path, shards: list[Path], retracted: dict[str, bytes], point: Point
) -> None:
    workspace = tmp_path / "ws"
    curate(shards, workspace, **OPTIONS)
    before = tree((workspace / "output" / "current").resolve())
    kill("s00", workspace, point, retract_and_die)
    after = {name.removeprefix("generations/0002/"): data for name, data in retracted.items() if "0002/" in name}
    assert tree((workspace / "output" / "current").resolve()) in (before, after)
    da.retract("s00", workspace=workspace)
    assert_same_tree(tree(workspace / "output"), retracted)
    assert leftovers(workspace) == []
