"""Dagster's SQLite storage with engines that are kept."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.test_utils import create_run_for_test

from dedup_assets.resources.sqlite_storage import (
    SteadyEventLogStorage,
    SteadyRunStorage,
    SteadySqliteStorage,
    with_steady_storage,
)

ROOT = Path(__file__).resolve().parents[2]


def steady(folder: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_ref(with_steady_storage(InstanceRef.from_dir(str(folder))))


def messages(instance: dg.DagsterInstance, run_id: str) -> set[str | None]:
    return {entry.dagster_event.message for entry in instance.all_logs(run_id) if entry.dagster_event}


def report(instance: dg.DagsterInstance, rows: int) -> str:
    run = create_run_for_test(instance)
    for row in range(rows):
        instance.report_engine_event(str(row), run)
    return run.run_id


def test_the_log_is_not_copied_back_at_every_close(tmp_path: Path) -> None:
    with steady(tmp_path) as instance:
        run_id = report(instance, 20)
        log = tmp_path / "history" / "runs" / f"{run_id}.db-wal"
        assert log.stat().st_size > 0
        assert instance.all_logs(run_id)
        assert log.stat().st_size > 0, "the connection is closed after a use"
    assert not list(tmp_path.rglob("*-wal")), "the last connection puts everything into the database"
    with dg.DagsterInstance.from_config(str(tmp_path)) as plain:
        assert messages(plain, run_id) >= {str(row) for row in range(20)}


def test_commits_are_flushed_with_the_log(tmp_path: Path) -> None:
    with steady(tmp_path) as instance:
        run_id = report(instance, 1)
        storage = instance.event_log_storage
        assert isinstance(storage, SteadyEventLogStorage) and isinstance(instance.run_storage, SteadyRunStorage)
        for connect in (instance.run_storage.connect, storage.index_connection, lambda: storage.run_connection(run_id)):
            with connect() as connection:
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_killed_process_loses_no_event(tmp_path: Path) -> None:
    program = f"""
import os, pathlib, signal
from dedup_assets_tests.resources.test_sqlite_storage import report, steady
with steady(pathlib.Path({str(tmp_path)!r})) as instance:
    print(report(instance, 30), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=dict(os.environ), check=False, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with dg.DagsterInstance.from_config(str(tmp_path)) as plain:
        assert messages(plain, killed.stdout.split()[-1]) >= {str(row) for row in range(30)}


def test_events_written_side_by_side_are_all_there(tmp_path: Path) -> None:
    with steady(tmp_path) as instance, dg.DagsterInstance.from_config(str(tmp_path)) as plain:
        run = create_run_for_test(instance)

        def write(thread: int) -> None:
            for number in range(10):
                (plain if thread == 0 else instance).report_engine_event(f"{thread}-{number}", run)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert messages(instance, run.run_id) >= {f"{a}-{b}" for a in range(4) for b in range(10)}


def test_a_long_history_takes_few_descriptors(tmp_path: Path) -> None:
    def open_files() -> int:
        return sum(str(tmp_path) in os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir())

    with steady(tmp_path) as instance:
        runs = [report(instance, 1) for _ in range(20)]
        assert all(messages(instance, run) >= {"0"} for run in runs)
        assert open_files() <= 3 * 10  # a database with its log and its index
        instance.event_log_storage.wipe()
        assert not instance.all_logs(runs[-1])
    assert open_files() == 0


def test_another_storage_stays_as_it_is(tmp_path: Path) -> None:
    own = {"module": SteadySqliteStorage.__module__, "class": "SteadySqliteStorage", "config": {"base_dir": "/own"}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"storage": {"custom": own}}))
    reference = InstanceRef.from_dir(str(tmp_path))
    assert with_steady_storage(reference) == reference
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"storage": {"sqlite": {"base_dir": str(tmp_path / "b")}}}))
    with steady(tmp_path) as instance:
        report(instance, 1)
        assert isinstance(instance.event_log_storage, SteadyEventLogStorage)
    assert (tmp_path / "b" / "history" / "runs.db").is_file()


def test_a_deployment_names_it_as_the_example_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = (ROOT / "dagster.yaml").read_text()
    (tmp_path / "dagster.yaml").write_text(re.sub(r"^# (?=storage:|  )", "", example, flags=re.MULTILINE))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        report(instance, 1)
        assert isinstance(instance.event_log_storage, SteadyEventLogStorage)
    assert (tmp_path / "history" / "runs.db").is_file()


def test_dagsters_own_classes_are_left_as_they_are(tmp_path: Path) -> None:
    for name in ("steady", "plain"):
        (tmp_path / name).mkdir()
    with steady(tmp_path / "steady") as instance:
        report(instance, 1)
        with dg.DagsterInstance.from_config(str(tmp_path / "plain")) as plain:
            run_id = report(plain, 2)
            assert not (tmp_path / "plain" / "history" / "runs" / f"{run_id}.db-wal").exists()
    connection = sqlite3.connect(tmp_path / "steady" / "history" / "runs.db")
    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    connection.close()
