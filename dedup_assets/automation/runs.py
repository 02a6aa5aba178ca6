"""Runs the jobs on the Dagster instance of a workspace.

The command line and the Python API use it: it runs the assets that the UI shows, in this process, and records the runs
in the instance that `dedup-assets ui` opens.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import OperationalError

from dedup_assets.assets.stage import STAGES
from dedup_assets.automation.agreement import Differences, agree
from dedup_assets.automation.instance import WorkspaceInstance, causes, instance_errors
from dedup_assets.automation.jobs import audit_recall, curate_new_shards, recurate_corpus, redecide
from dedup_assets.automation.sensors import end_dead_runs
from dedup_assets.checks.asset_checks import STEP
from dedup_assets.checks.result import CheckResult
from dedup_assets.corpus.changes import changed_content_error, has_changed, unfinished_shards
from dedup_assets.corpus.freed_ids import readmit_freed
from dedup_assets.corpus.generations import decidable, decisions_due
from dedup_assets.errors import VERBOSE, DedupError, FailedShardsError, UnexpectedError, WorkspaceError, first_line
from dedup_assets.forks import require_own_threads
from dedup_assets.interrupts import interrupts_noted, raise_interrupt
from dedup_assets.partitions import range_tags, spans
from dedup_assets.storage.liveness import holding_run
from dedup_assets.storage.workspace import Workspace

_running = threading.RLock()


@contextmanager
def one_run_at_a_time() -> Iterator[None]:
    """Keep other threads of this process from running a job inside the block: a Dagster run reconfigures the logging of
    the process, which disturbs the logs of another run, and each run uses every core. An interrupt that a run lost is
    raised at the end of the block."""
    require_own_threads()
    with _running, interrupts_noted():
        raise_interrupt()
        yield
        raise_interrupt()


@dataclass
class Outcome:
    """The outcome of a series of runs: failed shards with reasons, ids of the runs, results of their checks."""

    failures: dict[str, str] = field(default_factory=dict)
    run_ids: list[str] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)


class EmbeddedDagster(WorkspaceInstance):
    """Runs of a workspace's jobs in this process, recorded in its instance; a context manager.

    `definitions` returns the definitions of the workspace in a folder. It is a parameter because the module with the
    definitions imports this one.
    """

    def __init__(self, workspace: Workspace, definitions: Callable[[Path], dg.Definitions]) -> None:
        super().__init__(workspace)
        self._definitions = definitions

    def curate(self, named: Sequence[str]) -> Outcome:
        """Finish every unfinished registered shard, and update all decisions.

        The files of named finished shards are checked: a changed file is read again, or refused if the settings say so.
        A failing shard fails its run; the others run again without it, which is cheap because finished work is
        recorded.
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
        """Bring Dagster's partitions, materialisations and observations in line with ledger and files; returns the
        differences."""
        with instance_errors(self._instance.root_directory):
            return self._agree(look_at_files=True)

    def _agree(self, look_at_files: bool = False) -> Differences:
        # Without a daemon, partitions of a run whose process was killed would be shown as in progress for ever.
        end_dead_runs(self._instance, self._workspace)
        return agree(self._workspace, self._instance, look_at_files)

    def _spans(self, wanted: Collection[str]) -> list[list[str]]:
        """The wanted shards as ranges of Dagster's partitions, in the order of registration."""
        order = [shard.key for shard in self._workspace.ledger.shards()]
        return list(spans(self._instance.get_dynamic_partitions(self._names.partitions), wanted, order))

    def _admit_freed(self, outcome: Outcome) -> None:
        """Admit again the shards with quarantined records whose ids are free now."""
        while freed := set(readmit_freed(self._workspace)).difference(outcome.failures):
            for span in self._spans(freed):
                self._run(curate_new_shards.name, span, outcome)

    def redecide(self, retracted: Sequence[str]) -> Outcome:
        """Decide and publish again after shards or records were retracted."""
        with instance_errors(self._instance.root_directory):
            self.register()
            outcome = Outcome()
            self._admit_freed(outcome)  # first, so that no decision without them is published
            for span in self._spans(decidable(self._workspace.ledger, retracted)):
                self._run(redecide.name, span, outcome)
            self._redecide(outcome)
            return outcome

    def audit(self, sample: int) -> Outcome:
        """Evaluate all checks on the whole corpus, with samples of the given size; 0 uses the default."""
        with one_run_at_a_time(), instance_errors(self._instance.root_directory):
            config = {**self._run_config(), "ops": {STEP: {"config": {"sample": sample}}}}
            result = self._job(audit_recall.name).execute_in_process(instance=self._instance, run_config=config)
            return Outcome(
                run_ids=[result.run_id],
                checks=[CheckResult.of(found) for found in result.get_asset_check_evaluations()],
            )

    def recurate(self) -> Outcome:
        """Decide everything again: new centroids, one order over all records."""
        with instance_errors(self._instance.root_directory):
            self.register()
            span = max(self._spans(self._workspace.ledger.completions(STAGES[-1])), key=len, default=[])
            if not span:
                raise WorkspaceError(
                    f"Nothing is curated yet in {self._workspace.root}, so there is nothing to decide again: "
                    "`dedup-assets curate SOURCE` comes first."
                )
            outcome = Outcome()
            # A run over some shards covers all.
            self._run(recurate_corpus.name, span, outcome)
            self._redecide(outcome)
            return outcome

    def _redecide(self, outcome: Outcome) -> None:
        """Decide and publish again the shards whose decisions or files are out of date after the previous runs."""
        for span in self._spans(decisions_due(self._workspace)):
            self._run(redecide.name, span, outcome)

    def _run(self, job_name: str, span: list[str], outcome: Outcome) -> None:
        """Run a job over a range of partitions; if some fail, run it again without them."""
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
            outcome.checks += map(CheckResult.of, result.get_asset_check_evaluations())
        except dg.DagsterExecutionInterruptedError as interrupt:
            raise KeyboardInterrupt from interrupt
        except FailedShardsError as problem:
            # Not the failures in the ledger: other processes add theirs there, and remove those they corrected.
            is_news = not outcome.failures.keys() >= problem.failures.keys()
            outcome.failures.update(problem.failures)
            outcome.run_ids.append(problem.run_id)
            rest = [key for key in span if key not in problem.failures]
            if is_news or len(rest) < len(span):  # a run without progress is not repeated
                for part in self._spans(rest):
                    self._run(job_name, part, outcome)
        except DedupError:
            raise
        except Exception as problem:
            if any(isinstance(cause, OperationalError | sqlite3.OperationalError) for cause in causes(problem)):
                raise  # `instance_errors` explains it
            raise UnexpectedError(
                f"{job_name} failed unexpectedly: {type(problem).__name__}: {first_line(problem)}. What was finished "
                "is kept. Run the same command again; with --verbose it shows the traceback, which the log of the run "
                "in the UI has too."
            ) from problem

    def _job(self, name: str) -> dg.JobDefinition:
        with warnings.catch_warnings():
            # A warning of Dagster's own, which treats an observable source as an asset.
            warnings.simplefilter("ignore", DeprecationWarning)
            return self._definitions(self._workspace.root).resolve_job_def(name)

    @contextmanager
    def _ended(self, run_id: str) -> Iterator[None]:
        """Ensure that a run ends with the block: Dagster plans the partitions of a run before it begins, and if the run
        never begins or its end is not recorded, shows them as in progress for ever."""
        with holding_run(self._workspace.root, run_id):
            try:
                yield
            except BaseException:
                with suppress(Exception):  # the interruption itself is reported
                    run = self._instance.get_run_by_id(run_id)
                    if run is not None and not run.is_finished:
                        self._instance.report_run_failed(
                            run, "It was broken off. Run it again: what was finished is kept."
                        )
                raise

    def _run_config(self) -> dict[str, object]:
        # The caller's options for this call. The output folder is stored in the workspace, and another process may have
        # changed it.
        options = {name: value for name, value in self._workspace.settings.layer("cost").items() if name != "output"}
        return {
            # The command line reports the outcome; Dagster's own log stays in the instance.
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


def changed_shards(workspace: Workspace, named: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Named shards that were read before and whose file has changed: the shards to read again, and the refused ones
    with their errors."""
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
