"""The Dagster instance of a workspace: opened for one process, with errors that say what to do.

It is inside the workspace unless DAGSTER_HOME names another.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dagster as dg
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from sqlalchemy.exc import OperationalError

from dedup_assets.automation.scrubbing import scrub_history
from dedup_assets.checks.asset_checks import CHECKS
from dedup_assets.checks.result import CheckResult
from dedup_assets.errors import DedupError, WorkspaceError, first_line
from dedup_assets.forks import require_own_threads
from dedup_assets.names import Names
from dedup_assets.partitions import register_partitions
from dedup_assets.resources.sqlite_storage import with_steady_storage
from dedup_assets.resources.workspace import serving
from dedup_assets.storage.locks import Lock
from dedup_assets.storage.publish import publish_text, storage_errors
from dedup_assets.storage.workspace import Workspace

INSTANCE_SETTINGS = """\
# Dagster instance of this workspace: SQLite beside it, nothing leaves the machine.
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  runs:
    # One run uses every core, so other runs wait.
    max_concurrent_runs: 1
run_monitoring:
  enabled: true
  # The start includes importing torch from a cold disk.
  start_timeout_seconds: 300
  # The sensor `arriving_shards` ends runs whose process was killed; this limit is for all other runs.
  max_runtime_seconds: 86400
"""

_HARMLESS = {
    *("telemetry", "nux", "concurrency", "run_monitoring", "run_retries", "retention", "run_queue"),
    *("sensors", "schedules", "backfills", "auto_materialize", "code_servers", "freshness"),
}
"""Settings of an instance that name no module, no database and no address."""

NO_CAPTURE: Any = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}
"""Runs in this process write no compute logs: Dagster would redirect the terminal to capture them and start four
helper processes, which answer Ctrl-C with tracebacks. Runs from the UI keep theirs."""


def reference(home: Path, overrides: Any = None) -> InstanceRef:
    """The reference by which processes open the instance in a folder."""
    return with_steady_storage(InstanceRef.from_dir(str(home), overrides=overrides))


class WorkspaceInstance:
    """The Dagster instance that belongs to a workspace; a context manager.

    It is the one in the workspace unless DAGSTER_HOME names another: a user who sets that runs Dagster as a service and
    expects the runs there.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._names = Names.of(workspace.root)

    def __enter__(self) -> Self:
        require_own_threads()
        # Dagster creates the tables of a new instance without a lock: only one process at a time.
        with self._workspace.lock(Lock.INSTANCE):
            home = prepare_home(self._workspace)
            with ExitStack() as opening, storage_errors(home), instance_errors(home), unusable_home(home):
                opening.enter_context(no_running_loop())
                opening.enter_context(serving(self._workspace.root))
                self._instance = dg.DagsterInstance.from_ref(reference(home, overrides=NO_CAPTURE))
                opening.callback(self._instance.dispose)
                self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def register(self) -> None:
        """Add a partition for each shard that has none."""
        with instance_errors(self._instance.root_directory):
            register_partitions(
                self._instance, self._names.partitions, [shard.key for shard in self._workspace.ledger.shards()]
            )

    def scrub(self) -> int:
        """Remove the texts of records from the history; returns how many events had some."""
        with instance_errors(self._instance.root_directory):
            return scrub_history(self._instance)

    def latest_checks(self) -> list[CheckResult]:
        """The last result of each check, in the order of their declaration; without those never evaluated."""
        ended = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
        storage = self._instance.event_log_storage
        with instance_errors(self._instance.root_directory):
            # A run that failed before its checks has recorded only their plan.
            found = [storage.get_asset_check_execution_history(check.key, limit=1, status=ended) for check in CHECKS]
        evaluations = [record.evaluation for records in found for record in records]
        return [CheckResult.of(evaluation) for evaluation in evaluations if evaluation is not None]


@contextmanager
def no_running_loop() -> Iterator[None]:
    """Hide the running event loop of this thread inside the block.

    A notebook runs its cells inside one, and so may a caller. That loop waits for this call anyway, but Python refuses
    the second loop that Dagster makes for each run: Dagster's final tasks would be dropped with a RuntimeWarning, and
    an async asset would fail.
    """
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(running)


@contextmanager
def instance_errors(home: Path | str) -> Iterator[None]:
    """Turn failures of the instance's database, such as a full disk, into errors that say what to do.

    The database may fail in the middle of a step or while Dagster records another failure, so the causes are searched
    too.
    """
    try:
        yield
    except DedupError:
        raise
    except Exception as problem:
        cause = next((c for c in causes(problem) if isinstance(c, OperationalError | sqlite3.OperationalError)), None)
        if cause is None:
            raise
        reason = cause.orig if isinstance(cause, OperationalError) else cause
        raise WorkspaceError(
            f"The Dagster instance in {home} cannot record the run: {reason}. Free space, correct the permissions "
            "or restore the connection, and run the same command again; what was finished is kept."
        ) from problem


@contextmanager
def unusable_home(home: Path | str) -> Iterator[None]:
    """Turn an unreadable dagster.yaml or an unreachable storage into a one-line error."""
    try:
        yield
    except (DedupError, OSError, OperationalError, sqlite3.OperationalError):
        raise
    except Exception as problem:
        said = " ".join(str(problem).split())[:300] or type(problem).__name__
        raise WorkspaceError(
            f"Dagster cannot be opened in {home}: {said}. Correct {Path(home) / 'dagster.yaml'}, or unset DAGSTER_HOME "
            "to use the instance of the workspace."
        ) from problem


def causes(problem: BaseException) -> Iterator[BaseException]:
    """An exception and its causes. Such chains can be cyclic."""
    seen: list[BaseException] = []
    cause: BaseException | None = problem
    while cause is not None and not any(cause is known for known in seen):
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def prepare_home(workspace: Workspace) -> Path:
    """The folder of the instance; the workspace's own is created on first use."""
    named = os.environ.get("DAGSTER_HOME")
    if named:
        if not Path(named).is_dir():
            what = "a file" if Path(named).exists() else "not there"
            raise WorkspaceError(
                f"DAGSTER_HOME names {named}, which is {what}. Make that folder, or unset DAGSTER_HOME: the runs are "
                f"then recorded in {workspace.dagster_home}."
            )
        return Path(named)
    home = workspace.dagster_home
    if not (home / "dagster.yaml").is_file():
        publish_text(home / "dagster.yaml", INSTANCE_SETTINGS)
    _refuse_loading(home)
    return home


def _refuse_loading(home: Path) -> None:
    """Raise WorkspaceError where the instance of a workspace, which may come from elsewhere, would load modules or
    connect to a database. An instance named by DAGSTER_HOME is trusted."""
    file = home / "dagster.yaml"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise WorkspaceError(f"{file} is not valid YAML: {first_line(problem)}. Correct it, or remove it.") from problem
    others = sorted(set(found) - _HARMLESS) if isinstance(found, dict) else ["something that is no mapping"]
    if others:
        raise WorkspaceError(
            f"{file} sets {', '.join(map(str, others))}, by which Dagster may load code or connect elsewhere, and a "
            f"workspace can come from anywhere. If it is yours, say so: DAGSTER_HOME={home}. Else remove the file."
        )


def recorded_checks(workspace: Workspace) -> list[CheckResult]:
    """The last result of each check of a workspace; empty if no run was ever recorded."""
    if not os.environ.get("DAGSTER_HOME") and not (workspace.dagster_home / "dagster.yaml").is_file():
        return []
    with WorkspaceInstance(workspace) as dagster:
        return dagster.latest_checks()
