"""Beside other people's definitions, and beside another workspace in one instance."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

import dedup_assets as da
from dedup_assets.cancellation import cancellable_executor
from dedup_assets.definitions import definitions_for
from dedup_assets.names import Names
from dedup_assets.resources.workspace import serving
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.materialising import add_partitions, run_config
from dedup_assets_tests.automation.shards import write_shard


@dg.asset(deps=["kmeans_centroids", "deduplicated_dataset"])
def consumer() -> None:
    raise AssertionError("theirs to run")


theirs = dg.Definitions(
    assets=[consumer],
    resources={"workspace": object(), "dask": object()},
    executor=dg.multiprocess_executor,
    jobs=[dg.define_asset_job("their_job", selection=dg.AssetSelection.assets("consumer"))],
)


def test_merged_with_definitions_of_others_our_jobs_run_our_assets_alone(ws: Path) -> None:
    merged = dg.Definitions.merge(definitions_for(ws), theirs)
    dg.Definitions.validate_loadable(merged)
    space = Workspace.open(ws)
    with serving(space.root), dg.instance_for_test() as instance:
        add_partitions(instance, space, ["s01", "s02", "s03"])
        ends = {"dagster/asset_partition_range_start": "s01", "dagster/asset_partition_range_end": "s03"}
        job = merged.resolve_job_def("recurate_corpus")
        result = job.execute_in_process(instance=instance, tags=ends, run_config=run_config(space.root))
    assert result.success
    assert {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()} == {*STAGES[2:]}


def test_without_an_executor_of_a_location_ours_run_in_one_process() -> None:
    from dedup_assets.location import defs as location

    assert location.executor is cancellable_executor
    assert definitions_for("anywhere").executor is None


def test_two_workspaces_in_one_instance_never_meet(ws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other" / "ws"
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    write_shard(tmp_path / "more", "s02", "a text of another corpus")
    write_shard(tmp_path / "more", "s09", "and one more")
    da.sync(workspace=ws)
    result = da.curate(tmp_path / "more", workspace=other, embedding_column="v", progress=False)
    assert len(result.kept.to_arrow()) == 2
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        sets = [list(instance.get_dynamic_partitions(Names.of(root).partitions)) for root in (ws, other)]
    assert sets == [["s01", "s02", "s03"], ["s02", "s09"]]
    assert da.sync(workspace=ws).strangers == [] == da.sync(workspace=other).strangers
    assert Names.of(ws) != Names.of(other) and Names.of(ws) == Names.of(f"{ws}/../ws")
