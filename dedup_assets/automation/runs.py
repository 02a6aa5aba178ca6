"""Running the jobs on the Dagster instance that lives inside a workspace.

The command line and the Python API come through here: the same assets that the UI shows and runs, in this
process, recorded in the instance that `dedup-assets ui` opens.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
import uuid
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import dagster as dg
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from sqlalchemy.exc import OperationalError

from dedup_assets.assets.stage import STAGES
from dedup_assets.automation.agreement import Differences, agree
from dedup_assets.automation.jobs import audit_recall, curate_new_shards, recurate_corpus, redecide
from dedup_assets.automation.scrubbing import scrub_history
from dedup_assets.automation.sensors import end_dead_runs
from dedup_assets.checks.asset_checks import CHECKS, STEP
from dedup_assets.errors import VERBOSE, DedupError, FailedShardsError, UnexpectedError, WorkspaceError, first_line
from dedup_assets.forks import require_own_threads
from dedup_assets.interrupts import interrupts_noted, raise_interrupt
from dedup_assets.names import Names
from dedup_assets.partitions import range_tags, register_partitions, spans
from dedup_assets.resources.sqlite_log import steady_sqlite
from dedup_assets.resources.workspace import serving
from dedup_assets.storage.changes import changed_content_error, has_changed, unfinished_shards
from dedup_assets.storage.freed_ids import readmit_freed
from dedup_assets.storage.generations import decidable, decisions_due
from dedup_assets.storage.liveness import holding_run
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
    # One run uses every core, and of runs that were started by hand the others wait.
    max_concurrent_runs: 1
run_monitoring:
  enabled: true
  # Importing torch from a cold disk belongs to the start.
  start_timeout_seconds: 300
  # Runs whose process was killed are ended by the sensor `arriving_shards`; this is for those it knows nothing of.
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


_running = threading.RLock()


@contextmanager
def one_run_at_a_time() -> Iterator[None]:
    """Let no other thread of this process run a job while the block lasts: a run of Dagster's begins by configuring
    the process's logging anew, which does not go together with what another one logs, and each uses every core. An
    interrupt that a run lost ends the block with it."""
    require_own_threads()
    with _running, interrupts_noted():
        raise_interrupt()
        yield
        raise_interrupt()


@dataclass(frozen=True)
class Checked:
    """What an asset check came to. One that failed as a warning costs nothing but time."""

    asset: str
    name: str
    passed: bool
    is_warning: bool
    summary: str
    metadata: dict[str, Any]

    @classmethod
    def of(cls, evaluation: dg.AssetCheckEvaluation) -> Checked:
        """From Dagster's event."""
        return cls(
            asset=evaluation.asset_key.to_user_string(),
            name=evaluation.check_name,
            passed=evaluation.passed,
            is_warning=evaluation.severity is dg.AssetCheckSeverity.WARN,
            summary=evaluation.description or "",
            metadata={name: value.value for name, value in evaluation.metadata.items()},
        )


@dataclass
class Outcome:
    """What a series of runs came to: shards that failed, with their reasons, the runs' ids, and the checks that
    were evaluated after them."""

    failures: dict[str, str] = field(default_factory=dict)
    run_ids: list[str] = field(default_factory=list)
    checks: list[Checked] = field(default_factory=list)


class EmbeddedDagster:
    """The Dagster instance that belongs to a workspace; a context manager.

    It is the one in the workspace, unless DAGSTER_HOME names another: whoever sets that runs Dagster as a
    service and wants to see these runs there.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._names = Names.of(workspace.root)

    def __enter__(self) -> EmbeddedDagster:
        require_own_threads()
        # Dagster makes the tables of a new instance without a look at who else does: one process at a time.
        with self._workspace.lock("instance"):
            home = prepare_home(self._workspace)
            with ExitStack() as opening, storage_errors(home), instance_errors(home), unusable_home(home):
                opening.enter_context(no_running_loop())
                opening.enter_context(serving(self._workspace.root))
                opening.enter_context(steady_sqlite(home))
                self._instance = dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=NO_CAPTURE))
                opening.callback(self._instance.dispose)
                self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def register(self) -> None:
        """Add all shards that are no partitions."""
        with instance_errors(self._instance.root_directory):
            register_partitions(
                self._instance, self._names.partitions, [shard.key for shard in self._workspace.ledger.shards()]
            )

    def curate(self, named: Sequence[str]) -> Outcome:
        """Finish every registered shard that is not finished, and bring all decisions up to date.

        Named shards that are finished are checked: a file that changed since is read again, or refused as the
        settings say. A shard that fails fails its run; the others run again without it, which is cheap, because
        what was finished is on record.
        """
        with instance_errors(self._instance.root_directory):
            return self._curate(named)

    def _curate(self, named: Sequence[str]) -> Outcome:
        self.register()
        changed, refused = changed_shards(self._workspace, named)
        outcome = Outcome(failures=refused)
        readmit_freed(self._workspace)
        for span in self._spans([*changed, *unfinished_shards(self._workspace)]):
            self._run(curate_new_shards.name, span, outcome)
        self._admit_freed(outcome)
        self._redecide(outcome)
        self._agree()
        return outcome

    def sync(self) -> Differences:
        """Bring Dagster's partitions, materialisations and observations in line with ledger and files; returns what
        there was to do."""
        with instance_errors(self._instance.root_directory):
            return self._agree(look_at_files=True)

    def _agree(self, look_at_files: bool = False) -> Differences:
        # Partitions of a run whose process was killed would be shown as under way for ever where no daemon looks.
        end_dead_runs(self._instance, self._workspace)
        return agree(self._workspace, self._instance, look_at_files)

    def _spans(self, wanted: Collection[str]) -> list[list[str]]:
        """The wanted shards as ranges of Dagster's partitions, in the order in which they were registered."""
        order = [shard.key for shard in self._workspace.ledger.shards()]
        return list(spans(self._instance.get_dynamic_partitions(self._names.partitions), wanted, order))

    def _admit_freed(self, outcome: Outcome) -> None:
        """Bring the shards in again that hold records whose ids are free now."""
        while freed := set(readmit_freed(self._workspace)).difference(outcome.failures):
            for span in self._spans(freed):
                self._run(curate_new_shards.name, span, outcome)

    def redecide(self, retracted: Sequence[str]) -> Outcome:
        """Decide and publish anew after some shards, or records of theirs, were retracted."""
        with instance_errors(self._instance.root_directory):
            self.register()
            outcome = Outcome()
            self._admit_freed(outcome)  # first: what is decided without them would be published
            for span in self._spans(decidable(self._workspace.ledger, retracted)):
                self._run(redecide.name, span, outcome)
            self._redecide(outcome)
            return outcome

    def audit(self, sample: int) -> Outcome:
        """Evaluate all checks on the whole corpus, with samples of a size, or the usual one where it is 0."""
        with one_run_at_a_time(), instance_errors(self._instance.root_directory):
            config = {**self._run_config(), "ops": {STEP: {"config": {"sample": sample}}}}
            result = self._job(audit_recall.name).execute_in_process(instance=self._instance, run_config=config)
            return Outcome(
                run_ids=[result.run_id], checks=[Checked.of(found) for found in result.get_asset_check_evaluations()]
            )

    def recurate(self) -> Outcome:
        """Decide everything anew in one order over all records, under new centroids."""
        with instance_errors(self._instance.root_directory):
            self.register()
            span = max(self._spans(self._workspace.ledger.completions(STAGES[-1])), key=len, default=[])
            if not span:
                raise WorkspaceError(
                    f"Nothing is curated yet in {self._workspace.root}, so there is nothing to decide anew: "
                    "`dedup-assets curate SOURCE` comes first."
                )
            outcome = Outcome()
            # A run over some shards covers all.
            self._run(recurate_corpus.name, span, outcome)
            self._redecide(outcome)
            return outcome

    def scrub(self) -> int:
        """Take the texts of records out of the history; returns how many events had some."""
        with instance_errors(self._instance.root_directory):
            return scrub_history(self._instance)

    def latest_checks(self) -> list[Checked]:
        """The last result of each check, in the order of their declaration; without those never evaluated."""
        ended = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
        storage = self._instance.event_log_storage
        with instance_errors(self._instance.root_directory):
            # Of a run that failed before its checks, only their plan is on record.
            found = [storage.get_asset_check_execution_history(check.key, limit=1, status=ended) for check in CHECKS]
        evaluations = [record.evaluation for records in found for record in records]
        return [Checked.of(evaluation) for evaluation in evaluations if evaluation is not None]

    def _redecide(self, outcome: Outcome) -> None:
        """Bring the shards up to date whose decisions or files have to move, and that no run before came by."""
        for span in self._spans(decisions_due(self._workspace)):
            self._run(redecide.name, span, outcome)

    def _run(self, job_name: str, span: list[str], outcome: Outcome) -> None:
        """Run a job over neighbouring partitions; without the failed ones again if some failed."""
        try:
            run_id = str(uuid.uuid4())
            with one_run_at_a_time(), self._ended(run_id):
                result = self._job(job_name).execute_in_process(
                    instance=self._instance,
                    tags=range_tags(span),
                    run_config=self._run_config(),
                    run_id=run_id,
                )
            outcome.run_ids.append(result.run_id)
            outcome.checks += map(Checked.of, result.get_asset_check_evaluations())
        except dg.DagsterExecutionInterruptedError as interrupt:
            raise KeyboardInterrupt from interrupt
        except FailedShardsError as problem:
            # Not those in the ledger: other processes enter theirs there, and take out what they mended.
            is_news = not outcome.failures.keys() >= problem.failures.keys()
            outcome.failures.update(problem.failures)
            outcome.run_ids.append(problem.run_id)
            rest = [key for key in span if key not in problem.failures]
            if is_news or len(rest) < len(span):  # a run that made no progress is not repeated
                for part in self._spans(rest):
                    self._run(job_name, part, outcome)
        except DedupError:
            raise
        except Exception as problem:
            if any(isinstance(cause, OperationalError | sqlite3.OperationalError) for cause in _causes(problem)):
                raise  # `instance_errors` says what it means
            raise UnexpectedError(
                f"{job_name} failed unexpectedly: {type(problem).__name__}: {first_line(problem)}. What was finished "
                "is kept. Run the same command again; with --verbose it shows the traceback, which the log of the run "
                "in the UI has too."
            ) from problem

    def _job(self, name: str) -> dg.JobDefinition:
        from dedup_assets.definitions import definitions_for

        with warnings.catch_warnings():
            # Of Dagster's own making, where it takes an observable source for an asset.
            warnings.simplefilter("ignore", DeprecationWarning)
            return definitions_for(self._workspace.root).resolve_job_def(name)

    @contextmanager
    def _ended(self, run_id: str) -> Iterator[None]:
        """See to it that a run ends with the block, whatever ends that: Dagster plans the partitions of a run before it
        begins, and one that never begins, or whose end is not recorded, shows them as under way for ever."""
        with holding_run(self._workspace.root, run_id):
            try:
                yield
            except BaseException:
                with suppress(Exception):  # what broke the run off is told
                    run = self._instance.get_run_by_id(run_id)
                    if run is not None and not run.is_finished:
                        self._instance.report_run_failed(
                            run, "It was broken off. Run it again: what was finished is kept."
                        )
                raise

    def _run_config(self) -> dict[str, object]:
        # What the caller asked for this once. Where to publish is kept in the workspace, and another process may have
        # changed it since.
        options = {name: value for name, value in self._workspace.settings.layer("cost").items() if name != "output"}
        return {
            # The command line says what happened; Dagster's own log stays in the instance.
            "loggers": {"console": {"config": {"log_level": "ERROR" if os.environ.get(VERBOSE) else "CRITICAL"}}},
            "resources": {
                self._names.workspace: {
                    "config": {
                        "path": str(self._workspace.root),
                        "options": json.dumps(options, sort_keys=True),
                    }
                },
            },
        }


@contextmanager
def no_running_loop() -> Iterator[None]:
    """Hide the event loop that runs in this thread while the block lasts.

    A notebook runs its cells inside one, and so may a caller. It waits for this call anyway; but a second loop, which
    Dagster makes for each run, is refused beside it: what Dagster gives that one to do at its end would be dropped with
    a RuntimeWarning, and an async asset would fail.
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

    The database may fail in the middle of a step or while Dagster records another failure, so it is looked
    for among the causes too.
    """
    try:
        yield
    except DedupError:
        raise
    except Exception as problem:
        cause = next((c for c in _causes(problem) if isinstance(c, OperationalError | sqlite3.OperationalError)), None)
        if cause is None:
            raise
        reason = cause.orig if isinstance(cause, OperationalError) else cause
        raise WorkspaceError(
            f"The Dagster instance in {home} cannot record the run: {reason}. Free space, correct the permissions "
            "or restore the connection, and run the same command again; what was finished is kept."
        ) from problem


@contextmanager
def unusable_home(home: Path | str) -> Iterator[None]:
    """Turn a dagster.yaml that Dagster cannot read, or a storage that it cannot reach, into one line."""
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


def _causes(problem: BaseException) -> Iterator[BaseException]:
    """An exception and those that led to it. Such chains can run in circles."""
    seen: list[BaseException] = []
    cause: BaseException | None = problem
    while cause is not None and not any(cause is known for known in seen):
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def prepare_home(workspace: Workspace) -> Path:
    """The folder of the instance; the workspace's own is made ready on first use."""
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
    connect to a database. Whoever names it by DAGSTER_HOME means it."""
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


def recorded_checks(workspace: Workspace) -> list[Checked]:
    """The last result of each check of a workspace; none where no run was ever recorded."""
    if not os.environ.get("DAGSTER_HOME") and not (workspace.dagster_home / "dagster.yaml").is_file():
        return []
    with EmbeddedDagster(workspace) as dagster:
        return dagster.latest_checks()


def changed_shards(workspace: Workspace, named: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Named shards that were read before and whose file has other content now: those to be read again, and those
    that are refused, each with the error."""
    registered = {shard.key: shard for shard in workspace.ledger.shards()}
    done = workspace.ledger.completions("raw_shards")
    changed: list[str] = []
    refused: dict[str, str] = {}
    for key in named:
        try:
            if key not in done:
                continue
            if not has_changed(registered[key], done[key]):
                workspace.ledger.recover(STAGES[0], [key])
                continue
            if workspace.settings.changed_shards == "refuse":
                raise changed_content_error(registered[key])
            changed.append(key)
        except DedupError as problem:
            refused[key] = str(problem)
    return changed, refused
