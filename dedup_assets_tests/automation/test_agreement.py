"""Dagster and the ledger agree, whatever is done to partitions and assets in the UI."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dedup_assets as da
from dedup_assets.automation.agreement import agree, differences
from dedup_assets.automation.sensors import runs_under_way
from dedup_assets.corpus.data_versions import WITHDRAWN
from dedup_assets.definitions import definitions_for
from dedup_assets.errors import DedupError
from dedup_assets.names import Names
from dedup_assets.partitions import spans
from dedup_assets.resources.workspace import serving
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.materialising import partition_set, run_config
from dedup_assets_tests.automation.shards import write_shard
from dedup_assets_tests.cli.commands import Call
from dedup_assets_tests.cli.conftest import call  # noqa: F401

names = st.sampled_from("abcdefgh")
orders = st.lists(names, unique=True)


@given(orders, st.sets(names), orders)
def test_spans_are_ranges_of_partitions_that_hold_what_is_wanted_and_nothing_else(
    partitions: list[str], wanted: set[str], order: list[str]
) -> None:
    for given_order in (None, order):
        found = list(spans(partitions, wanted, given_order))
        ordered = partitions if given_order is None else given_order
        assert [key for span in found for key in span] == [k for k in ordered if k in wanted and k in partitions]
        for span in found:
            first = partitions.index(span[0])
            assert partitions[first : first + len(span)] == span
        for one, other in itertools.pairwise(found):
            assert partitions.index(one[-1]) + 1 != partitions.index(other[0])


versions = st.dictionaries(names, st.sampled_from(["1", "2", WITHDRAWN]))


@given(orders, st.fixed_dictionaries(dict.fromkeys(STAGES, versions)), orders, st.data())
def test_after_what_is_missing_was_done_nothing_is(
    shards: list[str], finished: dict[str, dict[str, str]], partitions: list[str], data: st.DataObject
) -> None:
    finished = {stage: {s: v for s, v in done.items() if s in shards} for stage, done in finished.items()}
    reported = {stage: data.draw(versions) for stage in STAGES}
    found = differences(shards, finished, partitions, reported)
    assert set(found.strangers) == set(partitions) - set(shards)
    after = {
        stage: reported[stage]
        | {shard: finished[stage][shard] for shard in found.unreported.get(stage, ())}
        | dict.fromkeys(found.void.get(stage, ()), WITHDRAWN)
        for stage in STAGES
    }
    again = differences(shards, finished, [*partitions, *found.missing], after)
    assert not again and again.strangers == found.strangers
    assert [s for s in shards if s in found.missing] == found.missing


@given(st.sampled_from(STAGES))
def test_what_rests_on_a_result_that_is_reported_is_reported_after_it(stage: str) -> None:
    finished = {name: {"a": "1", "b": "1"} for name in STAGES}
    reported = finished | {stage: {"b": "1"}}
    found = differences(["a", "b"], finished, ["a", "b"], reported)
    assert found.unreported == {name: ["a"] for name in STAGES[STAGES.index(stage) :]} and not found.void


def instance_of(ws: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(ws / "dagster"))


def materialised(ws: Path) -> dict[str, set[str]]:
    with instance_of(ws) as instance:
        return {stage: instance.get_materialized_partitions(dg.AssetKey(stage)) for stage in STAGES}


def changed(ws: Path) -> list[Path]:
    """All three files with other content."""
    return [write_shard(ws.parent / "in", name, f"new text of {name}", "and more") for name in ("s01", "s02", "s03")]


def test_a_stranger_among_the_partitions_is_in_no_run_and_ends_nothing(ws: Path, call: Call) -> None:  # noqa: F811
    with instance_of(ws) as instance:
        for key in ("s01", "s02", "s03"):
            instance.delete_dynamic_partition(partition_set(ws), key)
        instance.add_dynamic_partitions(partition_set(ws), ["s01", "stranger", "s02", "s03", "another"])
    result = da.curate(*changed(ws), workspace=ws, progress=False)
    assert len(result.summary["run_ids"]) == 2  # s01, and s02 with s03
    assert sorted(result.kept["text"].to_pylist())[-1] == "new text of s03" and not result.failures
    found = da.sync(workspace=ws)
    assert not found and found.strangers == ["stranger", "another"]
    said = call("sync", "--workspace", ws).out
    assert "2 partitions are no shards of this workspace: stranger, another" in said


def test_a_deleted_partition_comes_back_and_what_changed_is_done(ws: Path) -> None:
    with instance_of(ws) as instance:
        instance.delete_dynamic_partition(partition_set(ws), "s01")
    result = da.curate(*changed(ws), workspace=ws, progress=False)
    texts = set(result.kept["text"].to_pylist())
    assert {f"new text of s0{n}" for n in (1, 2, 3)} <= texts and not any("a text of" in text for text in texts)
    with instance_of(ws) as instance:
        assert list(instance.get_dynamic_partitions(partition_set(ws))) == ["s02", "s03", "s01"]
    # Shards are admitted in the order in which they were registered all the same.
    admissions = Workspace.open(ws).ledger.live_admissions()
    assert [a.shard for a in sorted(admissions, key=lambda a: a.number)] == ["s01", "s02", "s03"]


def test_a_range_without_a_partition_is_refused_with_the_reason(ws: Path) -> None:
    from dedup_assets.embedded import embedded_dagster

    with embedded_dagster(Workspace.open(ws)) as dagster, pytest.raises(DedupError, match="holds no partition"):
        dagster._run("curate_new_shards", ["s03", "s01"], _Nothing())


def test_a_run_without_a_partition_says_to_choose_some(ws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = definitions_for(ws).resolve_job_def("curate_new_shards")
    with serving(ws), dg.instance_for_test() as instance, pytest.raises(DedupError, match=r"over no partition. Choose"):
        job.execute_in_process(instance=instance, run_config=run_config(ws))


def test_watching_makes_the_settings_of_the_instance_that_its_daemon_reads(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", "a", "a text")
    da.watch(tmp_path / "in", workspace=tmp_path / "ws", embedding_column="v")
    assert "telemetry" in (tmp_path / "ws" / "dagster" / "dagster.yaml").read_text()


class _Nothing:
    """An outcome that takes what a run tells."""

    failures: dict[str, str] = {}  # noqa: RUF012
    run_ids: list[str] = []  # noqa: RUF012
    checks: list[object] = []  # noqa: RUF012


def test_what_was_wiped_or_is_in_a_new_instance_is_reported_again(ws: Path, call: Call) -> None:  # noqa: F811
    whole = {"s01", "s02", "s03"}
    with instance_of(ws) as instance:
        instance.wipe_assets([dg.AssetKey("pairwise_similarities")])
        instance.wipe_assets([dg.AssetKey("raw_shards")])
    assert materialised(ws)["pairwise_similarities"] == set() == materialised(ws)["raw_shards"]
    done = call("sync", "--json", "--workspace", ws).json()
    # With what rests on them, which Dagster compares with their history.
    assert done == {"added": [], "reported": dict.fromkeys(STAGES, 3), "void": {}, "changed": [], "strangers": []}
    assert all(found == whole for found in materialised(ws).values())
    with instance_of(ws) as instance:
        (event,) = instance.get_event_records(
            dg.EventRecordsFilter(
                dg.DagsterEventType.ASSET_MATERIALIZATION, asset_key=dg.AssetKey("raw_shards"), asset_partitions=["s02"]
            ),
            limit=1,
        )
        assert event.asset_materialization is not None and event.asset_materialization.metadata["records"].value == 2
    shutil.rmtree(ws / "dagster")
    da.curate(workspace=ws, progress=False)  # nothing is left to do
    assert all(found == whole for found in materialised(ws).values())
    with instance_of(ws) as instance:
        assert list(instance.get_dynamic_partitions(partition_set(ws))) == ["s01", "s02", "s03"]
    # A retracted shard is reported as such: nothing of it is missing.
    da.retract("s02", workspace=ws, progress=False)
    shutil.rmtree(ws / "dagster")
    da.sync(workspace=ws)
    assert all(found == whole for found in materialised(ws).values())
    with instance_of(ws) as instance:
        latest = instance.get_event_records(
            dg.EventRecordsFilter(
                dg.DagsterEventType.ASSET_MATERIALIZATION, asset_key=dg.AssetKey("raw_shards"), asset_partitions=["s02"]
            )
        )[0].asset_materialization
        assert latest is not None and latest.metadata["retracted"].value == "takedown"


def test_sync_names_the_files_that_changed(ws: Path, call: Call) -> None:  # noqa: F811
    write_shard(ws.parent / "in", "s02", "another content")
    assert call("sync", "--json", "--workspace", ws).json()["changed"] == ["s02"]
    assert "The files of s02 changed since they were read: `dedup-assets curate" in call("sync", "--workspace", ws).out


def test_runs_of_others_in_a_shared_instance_are_none_of_ours(ws: Path) -> None:
    @dg.op
    def anything() -> None: ...

    @dg.job
    def of_others() -> None:
        anything()

    space = Workspace.open(ws)
    paths = {"ours": str(ws), "another workspace's": str(ws.parent / "other")}
    with dg.instance_for_test() as instance:
        assert not agree(space, instance).strangers
        instance.create_run_for_job(of_others, status=dg.DagsterRunStatus.STARTED)
        assert runs_under_way(instance, space) == []
        for path in paths.values():
            config = run_config(Path(path))
            instance.create_run(
                job_name="curate_new_shards",
                run_id=None,
                run_config=config,
                status=dg.DagsterRunStatus.STARTED,
                tags={},
                root_run_id=None,
                parent_run_id=None,
                step_keys_to_execute=None,
                execution_plan_snapshot=None,
                job_snapshot=None,
                parent_job_snapshot=None,
                asset_selection=None,
                asset_check_selection=None,
                resolved_op_selection=None,
                op_selection=None,
                remote_job_origin=None,
                job_code_origin=None,
                asset_graph=None,
            )
        (found,) = runs_under_way(instance, space)
        assert found.run_config["resources"][Names.of(ws).workspace]["config"]["path"] == paths["ours"]
