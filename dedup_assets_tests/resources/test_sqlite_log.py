"""Dagster's SQLite files under `steady_sqlite`."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from dedup_assets.resources.sqlite_log import MAKERS, steady_sqlite


def add_rows(path: Path, rows: int) -> None:
    """One connection a row, as Dagster does."""
    for row in range(rows):
        with create_engine(f"sqlite:///{path}", poolclass=NullPool).connect() as connection:
            connection.execute(text("PRAGMA journal_mode = WAL"))
            connection.execute(text("CREATE TABLE IF NOT EXISTS log (row INTEGER)"))
            connection.execute(text("INSERT INTO log VALUES (:row)"), {"row": row})
            connection.commit()


def count(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM log").fetchone()[0]
    finally:
        connection.close()


def test_the_log_is_not_copied_back_at_every_close(tmp_path: Path) -> None:
    with steady_sqlite(tmp_path):
        add_rows(tmp_path / "a.db", 20)
        assert (tmp_path / "a.db-wal").stat().st_size > 0
    assert not (tmp_path / "a.db-wal").exists(), "the last connection puts everything into the database"
    assert count(tmp_path / "a.db") == 20


def test_files_elsewhere_are_left_alone(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    with steady_sqlite(inside):
        add_rows(outside / "a.db", 2)
        assert not (outside / "a.db-wal").exists()


def test_nothing_is_listened_to_afterwards(tmp_path: Path) -> None:
    heard = []
    with pytest.raises(RuntimeError), steady_sqlite(tmp_path):
        raise RuntimeError("a run that fails")
    event.listen(Engine, "connect", lambda *_: heard.append(1), once=True)
    add_rows(tmp_path / "a.db", 1)
    assert heard
    assert not (tmp_path / "a.db-wal").exists()


def test_a_killed_process_loses_no_event(tmp_path: Path) -> None:
    program = f"""
import os, pathlib, signal
from dedup_assets.resources.sqlite_log import steady_sqlite
from dedup_assets_tests.resources.test_sqlite_log import add_rows
with steady_sqlite(pathlib.Path({str(tmp_path)!r})):
    add_rows(pathlib.Path({str(tmp_path / "a.db")!r}), 30)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run([sys.executable, "-c", program], cwd=root, env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert count(tmp_path / "a.db") == 30


def test_a_file_has_one_engine_while_the_block_lasts_and_dagster_its_own_after(tmp_path: Path) -> None:
    before = sqlite_event_log.create_engine
    with steady_sqlite(tmp_path):
        address = f"sqlite:///{tmp_path / 'a.db'}"
        one, other = (sqlite_event_log.create_engine(address, poolclass=NullPool) for _ in range(2))
        assert one is other
        assert one is not sqlite_event_log.create_engine(f"sqlite:///{tmp_path / 'b.db'}", poolclass=NullPool)
        with one.connect() as connection:
            connection.execute(text("CREATE TABLE log (row INTEGER)"))
            connection.commit()
        one.dispose()
        assert one.pool.checkedin() == 1, "the connection is closed after every use"  # type: ignore[attr-defined]
    assert one.pool.checkedin() == 0, "connections are left open"  # type: ignore[attr-defined]
    assert sqlite_event_log.create_engine is before


def test_events_written_side_by_side_are_all_there(tmp_path: Path) -> None:
    with steady_sqlite(tmp_path), dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run = create_run_for_test(instance)

        def report(thread: int) -> None:
            for number in range(10):
                instance.report_engine_event(f"{thread}-{number}", run)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(report, range(4)))
        told = {entry.dagster_event.message for entry in instance.all_logs(run.run_id) if entry.dagster_event}
    assert told >= {f"{thread}-{number}" for thread in range(4) for number in range(10)}


def test_blocks_that_overlap_in_threads_leave_nothing_behind(tmp_path: Path) -> None:
    before = [module.create_engine for module in MAKERS]

    def work(number: int) -> int:
        folder = tmp_path / str(number % 2)
        folder.mkdir(exist_ok=True)
        for _ in range(5):
            with steady_sqlite(folder):
                engine = sqlite_event_log.create_engine(f"sqlite:///{folder / f'{number}.db'}", poolclass=NullPool)
                assert sqlite_event_log.create_engine(str(engine.url)) is engine
                add_rows(folder / f"{number}.db", 4)
        return count(folder / f"{number}.db")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [20] * 4
    assert [module.create_engine for module in MAKERS] == before
    assert not list(tmp_path.rglob("*-wal"))
