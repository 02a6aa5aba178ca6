"""Runs in this process: which shards they are over, what is repeated, and that each has an end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from dedup_assets.automation.runs import EmbeddedDagster, Outcome, changed_shards, one_run_at_a_time
from dedup_assets.errors import FailedShardsError, SettingsError, UnexpectedError, WorkspaceError
from dedup_assets.ingest.source_files import SourceFile, content_fingerprint
from dedup_assets.partitions import partitions_of
from dedup_assets.storage.workspace import Workspace

KEYS = ["a", "b", "c", "d"]


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    """Four shards that were read."""
    space = Workspace.create_or_open(tmp_path / "ws", {})
    for key in KEYS:
        (tmp_path / f"{key}.csv").write_text(f"id,text\n1,{key}\n")
    space.ledger.register([(key, str(tmp_path / f"{key}.csv"), "csv", None) for key in KEYS])
    content = {key: content_fingerprint(SourceFile(key, str(tmp_path / f"{key}.csv"), "csv", None)) for key in KEYS}
    space.ledger.complete("raw_shards", [(key, content[key], {}, 0.0) for key in KEYS], "run")
    return space


@pytest.fixture
def dagster(space: Workspace) -> Iterator[EmbeddedDagster]:
    def none(_: Path) -> dg.Definitions:
        raise AssertionError("no job is resolved")

    with EmbeddedDagster(space, none) as dagster:
        dagster.register()
        yield dagster


def job(dagster: EmbeddedDagster, monkeypatch: pytest.MonkeyPatch, act: Callable[[list[str]], None]) -> list[list[str]]:
    """Let every job be `act` on the shards of the run; returns the shards of each, as it runs."""
    runs: list[list[str]] = []

    def execute(tags: dict[str, str], run_id: str, **_: Any) -> Any:
        runs.append(partitions_of(tags, KEYS))
        act(runs[-1])
        return SimpleNamespace(run_id=run_id, get_asset_check_evaluations=list)

    monkeypatch.setattr(dagster, "_job", lambda name: SimpleNamespace(execute_in_process=execute))
    return runs


def test_shards_that_fail_fail_their_run_and_the_others_run_without_them(
    dagster: EmbeddedDagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(shards: list[str]) -> None:
        if "b" in shards:
            raise FailedShardsError("b failed", {"b": "broken"}, "failed-run")

    runs, outcome = job(dagster, monkeypatch, act), Outcome()
    dagster._run("curate", KEYS, outcome)
    assert runs == [KEYS, ["a"], ["c", "d"]] and outcome.failures == {"b": "broken"}
    assert outcome.run_ids[0] == "failed-run" and len(set(outcome.run_ids)) == 3


def test_a_run_that_makes_no_progress_is_not_repeated(
    dagster: EmbeddedDagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(shards: list[str]) -> None:
        raise FailedShardsError("x failed", {"x": "of another run"}, "run")

    runs, outcome = job(dagster, monkeypatch, act), Outcome()
    dagster._run("curate", ["a", "b"], outcome)
    assert runs == [["a", "b"], ["a", "b"]] and outcome.failures == {"x": "of another run"}


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (SettingsError("mine"), SettingsError, "^mine$"),
        (ZeroDivisionError("division"), UnexpectedError, "curate failed unexpectedly: ZeroDivisionError: division"),
        (dg.DagsterExecutionInterruptedError(), KeyboardInterrupt, None),
    ],
)
def test_what_ends_a_run_is_told_as_what_it_is(
    dagster: EmbeddedDagster,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    expected: type[BaseException],
    said: str | None,
) -> None:
    def act(shards: list[str]) -> None:
        raise raised

    runs = job(dagster, monkeypatch, act)
    with pytest.raises(expected, match=said):
        dagster._run("curate", ["a"], Outcome())
    assert runs == [["a"]]


def test_a_run_that_is_broken_off_has_failed_on_record(dagster: EmbeddedDagster) -> None:
    run = create_run_for_test(dagster._instance, status=dg.DagsterRunStatus.STARTED)
    with pytest.raises(KeyboardInterrupt), dagster._ended(run.run_id):
        raise KeyboardInterrupt
    found = dagster._instance.get_run_by_id(run.run_id)
    assert found is not None and found.status is dg.DagsterRunStatus.FAILURE
    done = create_run_for_test(dagster._instance, status=dg.DagsterRunStatus.SUCCESS)
    with pytest.raises(ZeroDivisionError), dagster._ended(done.run_id):
        raise ZeroDivisionError
    found = dagster._instance.get_run_by_id(done.run_id)
    assert found is not None and found.status is dg.DagsterRunStatus.SUCCESS


def test_ranges_follow_the_partitions_of_dagster(dagster: EmbeddedDagster) -> None:
    assert dagster._spans(["d", "a", "b"]) == [["a", "b"], ["d"]]
    assert dagster._spans([]) == []


def test_nothing_curated_is_nothing_to_recurate(dagster: EmbeddedDagster) -> None:
    with pytest.raises(WorkspaceError, match="`dedup-assets curate SOURCE` comes first"):
        dagster.recurate()


def test_options_of_the_caller_hold_for_its_run_and_where_to_publish_does_not(
    space: Workspace, dagster: EmbeddedDagster
) -> None:
    (resource,) = dagster._run_config()["resources"].values()  # type: ignore[attr-defined]
    assert resource["config"]["path"] == str(space.root)
    assert '"device"' in resource["config"]["options"] and '"output"' not in resource["config"]["options"]


@pytest.mark.parametrize("policy", ["replace", "refuse"])
def test_a_named_shard_is_read_again_where_its_content_changed(space: Workspace, tmp_path: Path, policy: str) -> None:
    space = space.with_options({"changed_shards": policy})
    (tmp_path / "b.csv").write_text("id,text\n1,other\n")
    (tmp_path / "c.csv").unlink()
    space.ledger.register([("new", str(tmp_path / "new.csv"), "csv", None)])
    changed, refused = changed_shards(space, ["a", "b", "c", "new"])
    assert changed == (["b"] if policy == "replace" else [])
    assert refused.keys() == ({"c"} if policy == "replace" else {"b", "c"})
    assert "cannot be read" in refused["c"]


def test_threads_run_one_after_the_other() -> None:
    inside = threading.Event()
    order: list[str] = []

    def second() -> None:
        inside.wait(10)
        with one_run_at_a_time():
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with one_run_at_a_time():
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
