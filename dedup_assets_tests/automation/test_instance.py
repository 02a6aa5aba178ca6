"""The Dagster instance of a workspace: where it lies, what is refused, and what its failures say."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from dedup_assets.automation.instance import (
    INSTANCE_SETTINGS,
    WorkspaceInstance,
    causes,
    instance_errors,
    no_running_loop,
    prepare_home,
    recorded_checks,
    unusable_home,
)
from dedup_assets.errors import SettingsError, WorkspaceError
from dedup_assets.names import Names
from dedup_assets.resources.sqlite_storage import SteadyEventLogStorage
from dedup_assets.storage.workspace import Workspace


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace.create_or_open(tmp_path / "ws", {})


def test_the_instance_lies_in_the_workspace_and_keeps_settings_that_load_nothing(space: Workspace) -> None:
    file = space.dagster_home / "dagster.yaml"
    assert prepare_home(space) == space.dagster_home and file.read_text() == INSTANCE_SETTINGS
    file.write_text("telemetry:\n  enabled: false\n")
    assert prepare_home(space) == space.dagster_home and file.read_text() == "telemetry:\n  enabled: false\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run_launcher: {module: evil, class: Launcher}", r"sets run_launcher, .* DAGSTER_HOME=.* remove the file"),
        ("storage: {postgres: {}}\nrun_storage: {}", "sets run_storage, storage,"),
        ("- a list", "something that is no mapping"),
        ("a: [1, 2", "is not valid YAML"),
    ],
)
def test_a_workspace_from_elsewhere_has_dagster_load_nothing(space: Workspace, text: str, said: str) -> None:
    prepare_home(space)
    (space.dagster_home / "dagster.yaml").write_text(text)
    with pytest.raises(WorkspaceError, match=said):
        prepare_home(space)


def test_whoever_names_an_instance_gets_that_one(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with pytest.raises(WorkspaceError, match="which is not there"):
        prepare_home(space)
    home.write_text("")
    with pytest.raises(WorkspaceError, match="which is a file"):
        prepare_home(space)
    home.unlink()
    home.mkdir()
    (home / "dagster.yaml").write_text("run_launcher: {module: dagster, class: DefaultRunLauncher}")
    assert prepare_home(space) == home and not space.dagster_home.exists()


def test_every_shard_is_a_partition_once(space: Workspace) -> None:
    space.ledger.register([("b", "file:///b", "csv", None), ("a", "file:///a", "csv", None)])
    with WorkspaceInstance(space) as dagster:
        assert isinstance(dagster._instance.event_log_storage, SteadyEventLogStorage)
        dagster.register()
        space.ledger.register([("c", "file:///c", "csv", None)])
        dagster.register()
        assert list(dagster._instance.get_dynamic_partitions(Names.of(space.root).partitions)) == ["b", "a", "c"]
        assert dagster.latest_checks() == []
    assert not list(space.dagster_home.rglob("*-wal")), "connections are left open"


def test_without_an_instance_no_check_is_on_record_and_none_is_made(space: Workspace) -> None:
    assert recorded_checks(space) == [] and not space.dagster_home.exists()


def test_a_failure_of_the_database_says_what_to_do_wherever_it_comes_from() -> None:
    for cause in (
        sqlite3.OperationalError("disk is full"),
        OperationalError("INSERT", {}, sqlite3.OperationalError("disk is full")),
    ):
        said = r"/home cannot record the run: disk is full\. Free space"
        with pytest.raises(WorkspaceError, match=said), instance_errors("/home"):
            try:
                raise cause
            except Exception as problem:
                raise RuntimeError("recording a failure failed") from problem
    for other in (RuntimeError("mine"), SettingsError("mine")):
        with pytest.raises(type(other), match=r"^mine$"), instance_errors("/home"):
            raise other


def test_settings_that_dagster_cannot_use_are_one_line() -> None:
    said = r"cannot be opened in /home: two lines\. Correct /home/dagster.yaml"
    with pytest.raises(WorkspaceError, match=said), unusable_home("/home"):
        raise ValueError("two\nlines")
    for other in (OSError("mine"), sqlite3.OperationalError("mine"), WorkspaceError("mine")):
        with pytest.raises(type(other), match=r"^mine$"), unusable_home("/home"):
            raise other


def test_causes_that_run_in_a_circle_come_once() -> None:
    first, second = ValueError("a"), KeyError("b")
    first.__cause__, second.__context__ = second, first
    assert list(causes(first)) == [first, second]


def test_a_loop_that_runs_is_hidden_and_comes_back() -> None:
    async def cell() -> None:
        running = asyncio.get_running_loop()
        with pytest.raises(ZeroDivisionError), no_running_loop():
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            raise ZeroDivisionError
        assert asyncio.get_running_loop() is running

    asyncio.run(cell())
