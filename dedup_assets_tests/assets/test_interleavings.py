"""Another process retracts, admits, decides or changes settings in the middle of a stage: at a known moment, so that
each of these is one case and not a matter of luck."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy.exc import IntegrityError

import dedup_assets as da
from dedup_assets.assets.stage import STAGES, StageRun
from dedup_assets.compute.text import hash_texts
from dedup_assets.corpus import retraction
from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.corpus.output import read_manifest
from dedup_assets.corpus.retraction import retract_shards
from dedup_assets.embedded import embedded_dagster
from dedup_assets.errors import ShardError, WorkspaceError
from dedup_assets.ingest.record_spec import ingest_spec
from dedup_assets.partitions import register_partitions
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.embeddings import EmbeddingTable
from dedup_assets.storage.ledger import Ledger, Shard
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, kept_ids, make_table, removals, write_shards
from dedup_assets_tests.assets.materialising import curate_up_to
from dedup_assets_tests.storage.ledgers import admit, finish

# The package shows the assets under these names.
raw_shards, cluster_partitions, pairwise_similarities, deduplicated_dataset = (
    import_module(f"dedup_assets.assets.{name}")
    for name in ("raw_shards", "cluster_partitions", "pairwise_similarities", "deduplicated_dataset")
)


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    """Two shards in the ledger, finished at every stage, with nothing on disk."""
    found = Workspace.create_or_open(tmp_path / "ws", {"embedding_column": "vector", "threshold": 0.9})
    found.ledger.register([(key, f"file:///{key}", "csv", None) for key in ("a", "b")])
    finish(found.ledger, 1, "a", "old")
    finish(found.ledger, 2, "b", "old")
    return found


def stage(name: str, space: Workspace, *shards: str) -> StageRun:
    return StageRun(name, shards, WorkspaceResource(path=str(space.root)), "run")


@pytest.fixture
def dask() -> Iterator[DaskCluster]:
    cluster = DaskCluster()
    yield cluster
    cluster.close()


def once_before(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[[], object]) -> None:
    """Do something before the first call of a function, as another process might."""
    original, left = getattr(module, name), [act]

    def called(*arguments: Any, **named: Any) -> Any:
        if left:
            left.pop()()
        return original(*arguments, **named)

    monkeypatch.setattr(module, name, called)


# -- what a run is over ------------------------------------------------------------------------------


def test_a_shard_that_is_retracted_while_a_run_begins_is_left_out(space: Workspace) -> None:
    run = stage("embeddings", space, "a", "b")
    retract_shards(space, ["b"], "vanished")
    assert list(run.upstream("raw_shards")) == run.shards == ["a"] and run.retracted == {"b": "vanished"}
    unknown = stage("embeddings", space, "a", "c")
    with pytest.raises(WorkspaceError, match="raw_shards is not finished for c"):
        unknown.upstream("raw_shards")


def test_who_decides_is_not_held_up_by_other_content_that_has_just_taken_over(space: Workspace) -> None:
    run = stage("duplicate_ids", space, "a", "b")
    admit(space.ledger, 3, "b", "new")
    run.require("pairwise_similarities")
    assert run.shards == ["a", "b"]
    with pytest.raises(WorkspaceError, match="pairwise_similarities is not finished for b"):
        run.upstream("pairwise_similarities")
    with pytest.raises(WorkspaceError, match="pairwise_similarities is not finished for c"):
        stage("duplicate_ids", space, "a", "c").require("pairwise_similarities")


def test_who_decides_does_not_pass_over_a_shard_that_has_come_back_and_is_not_read(space: Workspace) -> None:
    retract_shards(space, ["b"], "vanished")
    space.ledger.register([("b", "file:///b", "csv", None)])
    with pytest.raises(WorkspaceError, match="pairwise_similarities is not finished for b"):
        stage("duplicate_ids", space, "a", "b").require("pairwise_similarities")


def test_who_waited_to_decide_decides_by_the_settings_of_now(space: Workspace) -> None:
    run = stage("duplicate_ids", space, "a")
    Workspace.open(space.root).with_options({"threshold": 0.95})
    assert run.workspace.settings.threshold == 0.9
    with run.deciding():
        assert run.workspace.settings.threshold == 0.95


def test_content_that_was_read_since_is_not_replaced_by_older(space: Workspace) -> None:
    space.ledger.complete("raw_shards", [("b", "new", {}, 0.0)], "other")
    run = stage("cluster_partitions", space, "a", "b")
    contents = {"a": "other", "b": "another"}
    assert cluster_partitions._unadmitted(run, contents) == ["b"], "its old content is still in force"
    admit(space.ledger, 3, "b", "new")
    assert cluster_partitions._unadmitted(run, contents) == []


def test_the_ledger_can_be_written_while_it_is_looked_up_what_goes_with_a_shard(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def records(_: Workspace, key: str) -> Iterator[tuple[int, str]]:
        connection = sqlite3.connect(space.root / "ledger.sqlite", timeout=0, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        connection.close()
        yield 0, f"of {key}"

    monkeypatch.setattr(retraction, "_records_of", records)
    retract_shards(space, ["b"], "takedown")
    assert space.ledger.tombstones() == ["of b"]


# -- in the middle of a stage ------------------------------------------------------------------------


def test_a_file_that_is_read_anew_before_its_old_content_is_admitted_waits_for_its_own_run(tmp_path: Path) -> None:
    tables = corpus("clustered", (12, 12, 12), seed=91)
    paths = write_shards(tmp_path / "in", tables[:2])
    curate(paths[:1], tmp_path / "ws", threshold=0.85)
    curate_up_to("kmeans_centroids", paths[1], tmp_path / "ws")
    pq.write_table(tables[2], paths[1])
    curate_up_to("raw_shards", paths[1], tmp_path / "ws")
    space = Workspace.open(tmp_path / "ws")
    old = space.ledger.completions("kmeans_centroids")["s01"].input_version
    curate_up_to("cluster_partitions", paths[1], tmp_path / "ws", first="cluster_partitions")
    assert [(a.shard, a.fingerprint) for a in space.ledger.live_admissions()][1] == ("s01", old)
    assert space.ledger.completions("raw_shards")["s01"].input_version != old
    found = da.curate(workspace=tmp_path / "ws")
    ids = {*tables[0]["id"].to_pylist(), *tables[2]["id"].to_pylist()}
    assert kept_ids(found) | set(removals(found)) == ids


def read(run: StageRun, shard: Shard) -> int:
    """Rows of a shard that is read."""
    return raw_shards._ingest(run.workspace, ingest_spec(run.workspace.settings), shard, lambda: None)[1].rows


def test_a_file_that_is_written_to_while_it_is_read_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = corpus("random", (12, 13), seed=92)
    paths = write_shards(tmp_path / "in", tables[:1])
    da.register(*paths, workspace=tmp_path / "ws", embedding_column="vector")
    space = Workspace.open(tmp_path / "ws")
    once_before(monkeypatch, raw_shards, "ingest_shard", lambda: pq.write_table(tables[1], paths[0]))
    run, shard = stage("raw_shards", space, "s00"), space.ledger.shards()[0]
    with pytest.raises(ShardError, match=r"s00.*was written to while it was read.*run the same command again"):
        read(run, shard)
    assert space.ledger.completions("raw_shards") == {} and list((space.root / "raw").iterdir()) == []
    assert read(run, shard) == 13


def test_a_file_that_is_only_touched_while_it_is_read_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (12,), seed=92))
    da.register(*paths, workspace=tmp_path / "ws", embedding_column="vector")
    space = Workspace.open(tmp_path / "ws")
    once_before(monkeypatch, raw_shards, "ingest_shard", lambda: os.utime(paths[0], (1, 1)))
    assert read(stage("raw_shards", space, "s00"), space.ledger.shards()[0]) == 12


def test_matches_that_are_found_while_a_shard_is_retracted_are_of_what_is_left(
    tmp_path: Path, dask: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = [0.8, 0.6, 0.0]
    tables = [
        make_table(["a", "b"], ["one", "two"], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        make_table(["c"], ["one"], [[1.0, 0.0, 0.0]]),
        make_table(["d", "e"], ["three", "four"], [near, [0.0, 0.6, 0.8]]),
    ]
    paths = write_shards(tmp_path / "in", tables)
    curate(paths[:2], tmp_path / "ws", threshold=0.7)
    curate_up_to("cluster_partitions", paths[2], tmp_path / "ws")
    space = Workspace.open(tmp_path / "ws")
    once_before(monkeypatch, pairwise_similarities, "_write", lambda: retract_shards(space, ["s00"], "vanished"))
    run = stage("pairwise_similarities", space, "s02")
    pairwise_similarities.match_shards(run, dask, [a for a in space.ledger.live_admissions() if a.shard == "s02"])
    stored = pq.read_table(space.pairs(space.ledger.live_admissions()[-1]))
    assert LiveTexts(space).texts(np.unique(stored["key_a"])).all()
    assert stored.select(["id_a", "id_b"]).to_pylist() == [{"id_a": "c", "id_b": "d"}], "`one` lives on in `c`"


def test_what_a_rebuild_decides_along_is_published_along(
    tmp_path: Path, dask: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = corpus("clustered", (20, 20), seed=93)
    tables.append(tables[0].slice(0, 5).set_column(0, "id", pa.array([f"copy{i}" for i in range(5)])))
    paths = write_shards(tmp_path / "in", tables)
    curate(paths[:2], tmp_path / "ws", threshold=0.85)
    space = Workspace.open(tmp_path / "ws")

    def others() -> None:
        curate_up_to("pairwise_similarities", paths[2], tmp_path / "ws")
        space.ledger.request_rebuild("monday")

    once_before(monkeypatch, deduplicated_dataset, "decide_shards", others)
    run = stage("deduplicated_dataset", space, "s00", "s01")
    with run.deciding():
        deduplicated_dataset.publish_decided(run, dask)
    published = {entry["shard"] for entry in read_manifest(space)["shards"]}
    assert published == set(space.ledger.completions("duplicate_ids")) == {"s00", "s01", "s02"}


def test_whoever_decides_tells_dagster_of_the_matches_it_found_for_others(tmp_path: Path) -> None:
    tables = corpus("clustered", (20, 20, 20), seed=95)
    paths = write_shards(tmp_path / "in", tables)
    curate(paths[:2], tmp_path / "ws", threshold=0.85)
    curate_up_to("cluster_partitions", paths[2], tmp_path / "ws")
    da.retract("s00", workspace=tmp_path / "ws", reason="vanished")
    with embedded_dagster(Workspace.open(tmp_path / "ws")) as dagster:
        told = {
            name: dagster._instance.get_materialized_partitions(dg.AssetKey(name))
            for name in STAGES[STAGES.index("pairwise_similarities") :]
        }
    assert all("s02" in partitions for partitions in told.values()), told


def test_a_run_leaves_the_place_to_publish_to_another(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (12,), seed=96))
    da.register(*paths, workspace=tmp_path / "ws", embedding_column="vector")
    mine = Workspace.open(tmp_path / "ws")
    Workspace.create_or_open(tmp_path / "ws", {"output": str(tmp_path / "elsewhere")})
    with embedded_dagster(mine) as dagster:
        dagster.curate([])
    assert Workspace.open(tmp_path / "ws").output == tmp_path / "elsewhere"
    assert (tmp_path / "elsewhere" / "current" / "manifest.json").is_file()


# -- beside each other -------------------------------------------------------------------------------


def test_a_text_that_two_runs_embed_is_stored_once(tmp_path: Path) -> None:
    one, other = (EmbeddingTable(tmp_path / "lancedb", 2, "float16") for _ in range(2))
    hashes = hash_texts(["text"])
    for table in (one, other):
        assert len(table.known()) == 0
    for table, shard, vector in ((one, "a", [1.0, 0.0]), (other, "b", [0.0, 1.0])):
        table.add([table.rows(["id"], [shard], hashes, np.array([vector]))], unknown=True)
    stored = EmbeddingTable(tmp_path / "lancedb", 2, "float16")
    assert len(stored) == 1 and stored.vectors("b", hashes).tolist() == [[1.0, 0.0]]


def test_partitions_that_another_process_adds_at_the_same_moment_are_no_error() -> None:
    with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patched:
        add, taken = instance.add_dynamic_partitions, IntegrityError("INSERT", {}, Exception("UNIQUE"))

        def beside_another(name: str, keys: list[str]) -> None:
            if not instance.get_dynamic_partitions(name):
                add(name, ["a", "b"])
                raise taken
            add(name, keys)

        patched.setattr(instance, "add_dynamic_partitions", beside_another)
        assert register_partitions(instance, "shards", ["a", "b", "c"]) == ["a", "b", "c"]
        assert list(instance.get_dynamic_partitions("shards")) == ["a", "b", "c"]

        def refused(*_: object) -> None:
            raise taken

        patched.setattr(instance, "add_dynamic_partitions", refused)
        with pytest.raises(IntegrityError):
            register_partitions(instance, "shards", ["d"])


def test_failures_of_a_run_are_its_own_whatever_others_enter_or_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (12, 12), seed=94))
    paths[0].write_bytes(b"no table")
    monkeypatch.setattr(Ledger, "failures", lambda _: {"s01": ("embeddings", "another's", "another run")})
    result = curate(paths, tmp_path / "ws", threshold=0.9, check=False)
    assert list(result.failures) == ["s00"] and str(paths[0]) in result.failures["s00"]
    assert len(result.summary["run_ids"]) == 2 and result.summary["rows_in"] == 12
