"""Dagster's SQLite files under `steady_sqlite`."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from dedup_assets.automation.sqlite_log import steady_sqlite


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
from dedup_assets.automation.sqlite_log import steady_sqlite
from dedup_assets_tests.assets.test_sqlite_log import add_rows
with steady_sqlite(pathlib.Path({str(tmp_path)!r})):
    add_rows(pathlib.Path({str(tmp_path / "a.db")!r}), 30)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run([sys.executable, "-c", program], cwd=root, env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert count(tmp_path / "a.db") == 30
