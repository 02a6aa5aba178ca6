"""What Dagster and the command line show of the checks: after a run, for its shards; in an audit, for everything."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest

from dedup_assets.assets import SHARD_ASSETS
from dedup_assets.checks import health
from dedup_assets.checks.asset_checks import CHECKS, define_checks
from dedup_assets.checks.finding import Finding
from dedup_assets.definitions import defs
from dedup_assets.names import Names
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.locks import Lock
from dedup_assets.storage.tables import write_pairs
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, write_shards
from dedup_assets_tests.assets.materialising import add_partitions, resources_of
from dedup_assets_tests.checks.examined import published, rewrite, with_value, without
from dedup_assets_tests.cli.commands import Call, call

__all__ = ["call"]

KEYS = ["s00", "s01", "s02"]
ALL = {f"{check.asset}: {check.name}" for check in CHECKS}


@pytest.fixture
def instance(space: Workspace) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        add_partitions(ephemeral, space, KEYS)
        yield ephemeral


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    """A finished curation of three shards."""
    curate(write_shards(tmp_path / "in", corpus("clustered", (30, 20, 25), seed=50)), tmp_path / "ws", threshold=0.9)
    return Workspace.open(tmp_path / "ws")


def run(
    instance: dg.DagsterInstance, space: Workspace, selection: dg.AssetSelection, tags: dict[str, str] | None = None
) -> dict[str, dg.AssetCheckEvaluation]:
    """Run what is selected of the assets and checks; evaluations by `asset: name`."""
    names = Names.of(space.root)
    definitions = dg.Definitions(
        assets=[asset.define(names) for asset in SHARD_ASSETS],
        asset_checks=[define_checks(names)],
        jobs=[dg.define_asset_job("selected", selection=selection, executor_def=dg.in_process_executor)],
        resources=resources_of(space),
    )
    result = definitions.resolve_job_def("selected").execute_in_process(instance=instance, tags=tags or {})
    assert result.success
    return {
        f"{found.asset_key.to_user_string()}: {found.check_name}": found
        for found in result.get_asset_check_evaluations()
    }


def spanning(keys: Sequence[str]) -> dict[str, str]:
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}


def test_a_run_over_a_range_evaluates_every_check_on_the_shards_of_the_range(
    instance: dg.DagsterInstance, space: Workspace
) -> None:
    found = run(instance, space, dg.AssetSelection.assets(*STAGES), spanning(KEYS[1:]))
    assert set(found) == ALL and all(evaluation.passed for evaluation in found.values())
    rows = found["deduplicated_dataset: rows_are_conserved"].metadata
    assert (rows["rows"].value, rows["scope"].value) == (45, "2 shards of this run")
    one = run(instance, space, dg.AssetSelection.assets("deduplicated_dataset"), spanning(KEYS[:1]))
    assert {name.partition(":")[0] for name in one} == {"deduplicated_dataset"}
    assert one["deduplicated_dataset: rows_are_conserved"].metadata["rows"].value == 30


def test_an_audit_without_partitions_evaluates_every_check_on_everything(
    instance: dg.DagsterInstance, space: Workspace
) -> None:
    found = run(instance, space, dg.AssetSelection.all_asset_checks())
    assert set(found) == ALL
    assert found["deduplicated_dataset: rows_are_conserved"].metadata["rows"].value == 75
    assert {evaluation.metadata["scope"].value for evaluation in found.values()} == {"whole corpus"}


def test_nothing_is_pruned_while_checks_look_at_it(
    instance: dg.DagsterInstance, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bool] = []

    def may_prune(_: object) -> Finding:
        with (space.root / "locks" / Lock.MAINTENANCE).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                looked.append(False)
            else:
                looked.append(True)
        return Finding(True, "")

    monkeypatch.setattr(health, "texts_fit_the_window", may_prune)
    run(instance, space, dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("embeddings"), "texts_fit_the_window")))
    assert looked == [False]
    may_prune(None)
    assert looked == [False, True]


def test_a_failing_check_fails_no_run_and_is_an_error_or_a_warning_with_advice(
    instance: dg.DagsterInstance, space: Workspace
) -> None:
    rewrite(published(space, "deduplicated", "s01"), without(0))
    done = space.ledger.completions("embeddings")["s00"]
    space.ledger.complete("embeddings", [("s00", done.input_version, {**done.stats, "texts_over_window": 29}, 0.0)], "")
    found = run(instance, space, dg.AssetSelection.all_asset_checks())
    rows, window = found["deduplicated_dataset: rows_are_conserved"], found["embeddings: texts_fit_the_window"]
    assert (rows.passed, rows.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert (window.passed, window.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert rows.metadata["offending_count"].value == len(rows.metadata["offending"].value) == 2
    assert rows.metadata["what_to_do"].value and window.metadata["what_to_do"].value


def test_at_most_ten_offenders_are_named_and_the_others_counted(instance: dg.DagsterInstance, space: Workspace) -> None:
    for a in space.ledger.live_admissions():
        write_pairs(space.pairs(a), iter([]))
    missed = run(instance, space, dg.AssetSelection.all_asset_checks())["pairwise_similarities: recall_is_one"]
    count, shown = missed.metadata["offending_count"].value, missed.metadata["offending"].value
    assert count == missed.metadata["missed_matches"].value > 10
    assert len(shown) == 11 and shown[-1] == f"and {count - 10} more"
    assert all(" and " in entry and "similarity 0.9" in entry for entry in shown[:10])


def test_every_check_says_in_a_sentence_what_it_means_and_none_is_blocking() -> None:
    graph = defs.resolve_asset_graph()
    assert {f"{key.asset_key.to_user_string()}: {key.name}" for key in graph.asset_check_keys} == ALL
    for key in graph.asset_check_keys:
        spec = graph.get(key)
        assert spec.description.endswith(".") and len(spec.description) > 60
        assert not spec.blocking


# -- the command -------------------------------------------------------------------------------------


def test_the_audit_prints_a_table_and_ends_with_status_one_when_a_check_fails(space: Workspace, call: Call) -> None:
    good = call("audit", "--workspace", space.root, columns=80)
    assert good.status == 0, good.err
    assert good.out.count("passed") == len(CHECKS) and f"{len(CHECKS)} checks, 0 failed, 0 warnings" in good.out
    assert max(map(len, good.out.splitlines())) <= 80
    rewrite(published(space, "duplicates", "s02"), without(0))
    bad = call("audit", "--workspace", space.root)
    assert bad.status == 1 and "FAILED" in bad.out and "What to do: Published files were changed" in bad.out
    assert "s02: the content of duplicates/s02.parquet is not what the manifest lists" in bad.out


def test_the_audit_as_json_holds_every_number_and_heeds_the_sample(space: Workspace, call: Call) -> None:
    answer = call("audit", "--sample", "7", "--json", "--workspace", space.root)
    found = answer.json()
    assert answer.status == 0 and found["passed"] and len(found["checks"]) == len(CHECKS)
    recall = next(check for check in found["checks"] if check["check"] == "recall_is_one")
    assert recall["sampled_records"] == 7 and recall["compared_with_texts"] == recall["stored_texts"] > 7


def test_a_failing_check_after_curating_is_named_and_ends_with_status_one(space: Workspace, call: Call) -> None:
    late = space.root.parent / "in" / "late.parquet"
    shutil.copyfile(late.parent / "s00.parquet", late)
    rewrite(late, lambda t: with_value(t.slice(0, 1), "id", 0, "copy"))  # a copy of the record that is lost below
    rewrite(published(space, "deduplicated", "s00"), without(0))
    done = call("curate", late, "--workspace", space.root)
    assert done.status == 1
    assert "rows in" in done.out and "76" in done.out, "what is published is told all the same"
    assert "duplicate_ids: removed_have_kept_keepers: 1 of 1 removed records checked; 1 without" in done.err
    assert "dedup-assets audit" in done.err
    answer = call("curate", late, "--json", "--workspace", space.root).json()
    assert answer["failed_checks"] == {}, "nothing was run"


def test_an_audit_before_anything_is_published_says_what_to_do(tmp_path: Path, call: Call) -> None:
    Workspace.create_or_open(tmp_path / "ws", {"embedding_column": "vector"})
    answer = call("audit", "--workspace", tmp_path / "ws")
    assert answer.status == 1 and "nothing was published yet" in answer.err and not answer.out
