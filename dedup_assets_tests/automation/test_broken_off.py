"""Runs that were broken off: what they leave in Dagster goes, whether a daemon looks or not. Nobody waits for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

import dedup_assets as da
from dedup_assets.automation import sensors
from dedup_assets.definitions import definitions_for
from dedup_assets.names import Names
from dedup_assets.partitions import range_tags
from dedup_assets.resources.workspace import serving
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.liveness import has_died, holding_run
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.materialising import partition_set, run_config
from dedup_assets_tests.automation.shards import write_shard
from dedup_assets_tests.automation.test_sensors import Daemon, spans
from dedup_assets_tests.automation.watched import Watched

SHARDS = ("s01", "s02")
"""Curated in the workspace of these tests."""


@pytest.fixture
def instance(ws: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(ws / "dagster")) as found:
        yield found


def shown(ws: Path, instance: dg.DagsterInstance, asset: str) -> tuple[set[str], set[str], set[str]]:
    """The partitions that the UI shows as materialised, as failed and as under way."""
    shard_partitions = dg.DynamicPartitionsDefinition(name=Names.of(ws).partitions)
    status = get_and_update_asset_status_cache_value(instance, dg.AssetKey(asset), shard_partitions)
    assert status is not None
    green, red, under_way = (
        set(subset.get_partition_keys())
        for subset in (
            status.deserialize_materialized_partition_subsets(shard_partitions),
            status.deserialize_failed_partition_subsets(shard_partitions),
            status.deserialize_in_progress_partition_subsets(shard_partitions),
        )
    )
    return green - red - under_way, red, under_way


def test_what_is_finished_is_green_again_after_a_run_over_it_failed(ws: Path, instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions(partition_set(ws), ["stranger"])
    with serving(ws):
        failed = (
            definitions_for(ws)
            .resolve_job_def("curate_new_shards")
            .execute_in_process(
                instance=instance,
                tags=range_tags(["s01", "stranger"]),
                run_config=run_config(ws),
                raise_on_error=False,
            )
        )
    assert not failed.success
    assert shown(ws, instance, "embeddings") == (set(), {"s01", "s02", "stranger"}, set())
    found = da.sync(workspace=ws)
    assert found.unreported == {stage: ["s01", "s02"] for stage in STAGES[1:]}
    for stage in STAGES:
        assert shown(ws, instance, stage)[0] == {"s01", "s02"}
    # What is no shard is none of the ledger's, which would name it as failed for ever.
    assert Workspace.open(ws).ledger.failures() == {}
    assert not da.sync(workspace=ws)


def test_a_shard_that_did_fail_stays_red(ws: Path, instance: dg.DagsterInstance) -> None:
    bad = ws.parent / "in" / "s02.jsonl"
    bad.write_text("{no json")
    result = da.curate(ws.parent / "in", workspace=ws, check=False, progress=False)
    assert set(result.failures) == {"s02"}
    assert shown(ws, instance, "raw_shards") == ({"s01"}, {"s02"}, set())
    assert not da.sync(workspace=ws)
    write_shard(ws.parent / "in", "s02", "a text of s02", "another one of s02")  # as it was: nothing is left to do
    da.curate(ws.parent / "in", workspace=ws, progress=False)
    for stage in STAGES:
        assert shown(ws, instance, stage)[0] == {"s01", "s02"}


def test_a_curation_ends_the_run_of_one_that_was_killed(ws: Path, instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(
        definitions_for(ws).resolve_job_def("curate_new_shards"),
        tags=range_tags(["s01"]),
        status=dg.DagsterRunStatus.STARTED,
    )
    left = ws / "locks" / "runs" / run.run_id
    left.write_text(socket.gethostname())
    da.curate(workspace=ws, progress=False)
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None and ended.status is dg.DagsterRunStatus.FAILURE and not left.exists()


def test_a_curation_that_is_interrupted_before_its_run_begins_leaves_nothing_under_way(
    ws: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(ws.parent / "in", "s02", "new text of s02")
    create = dg.DagsterInstance.create_run_for_job

    def interrupted(*given: object, **named: object) -> None:
        create(*given, **named)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(dg.DagsterInstance, "create_run_for_job", interrupted)
        da.curate(ws.parent / "in", workspace=ws, progress=False)
    assert [run.status.value for run in instance.get_runs(limit=1)] == ["FAILURE"]
    assert shown(ws, instance, "raw_shards") == ({"s01"}, {"s02"}, set())
    da.curate(ws.parent / "in", workspace=ws, progress=False)
    assert shown(ws, instance, "raw_shards") == ({"s01", "s02"}, set(), set())


def test_a_run_that_was_made_and_never_launched_is_waited_for_no_longer_than_launching_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Dagster leaves one where somebody asks for a range that is backwards."""
    watched = Watched(tmp_path)
    for number, name in enumerate("ab"):
        watched.write(name, 10 * number)
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(watched, instance)
        (request,) = daemon.tick().run_requests or ()
        daemon.run(request)
        lost = instance.create_run_for_job(
            definitions_for(watched.space.root).resolve_job_def("curate_new_shards"),
            tags=range_tags(["b", "a"]),
            status=dg.DagsterRunStatus.NOT_STARTED,
        )
        (watched.folder / "a.parquet").unlink()
        assert [spans(daemon.tick()), spans(daemon.tick())] == [[], []]
        monkeypatch.setattr(sensors, "LAUNCH_SECONDS", 0)
        assert spans(daemon.tick()) == [("redecide", "a", "a")]
        ended = instance.get_run_by_id(lost.run_id)
        assert ended is not None and ended.status is dg.DagsterRunStatus.FAILURE


def test_the_sign_of_a_run_stays_until_the_last_of_its_blocks_has_ended(tmp_path: Path) -> None:
    sign = tmp_path / "locks" / "runs" / "run"
    with holding_run(tmp_path, "run"):
        with holding_run(tmp_path, "run"):
            pass
        assert sign.is_file() and not has_died(tmp_path, "run")
    assert not sign.exists()
