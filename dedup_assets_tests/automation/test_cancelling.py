"""A run that was cancelled on Dagster's record ends cancelled, whatever became of the interrupt."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent

from dedup_assets import cancellation as cancelling
from dedup_assets.cancellation import cancellable_executor, raise_if_cancelled

STARTED, CANCELED = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELED


@dg.op(config_schema={"when": str})
def interrupted(context: dg.OpExecutionContext) -> None:
    """Is cancelled at its start, by the record alone, or by an interrupt that nobody heeds too."""
    if context.op_config["when"] in ("recorded", "signalled"):
        context.instance.report_run_canceling(context.run)
    if context.op_config["when"] in ("signalled", "terminated"):
        handler = signal.signal(signal.SIGINT, lambda *_: None)
        os.kill(os.getpid(), signal.SIGINT)
        signal.signal(signal.SIGINT, handler)


@dg.job(executor_def=cancellable_executor)
def interrupted_job() -> None:
    interrupted()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def executed(instance: dg.DagsterInstance, when: str) -> dg.DagsterRun:
    config = {"ops": {"interrupted": {"config": {"when": when}}}}
    with dg.execute_job(dg.reconstructable(interrupted_job), instance, config) as result:
        return next(iter(instance.get_runs(dg.RunsFilter(run_ids=[result.run_id]))))


@pytest.mark.parametrize(
    ("when", "status"),
    [
        ("never", dg.DagsterRunStatus.SUCCESS),
        ("recorded", CANCELED),
        ("signalled", CANCELED),
        ("terminated", dg.DagsterRunStatus.FAILURE),  # by somebody who told Dagster nothing
    ],
)
def test_a_run_whose_last_step_hears_of_nothing_ends_cancelled(
    instance: dg.DagsterInstance, when: str, status: dg.DagsterRunStatus
) -> None:
    assert executed(instance, when).status is status


@pytest.mark.parametrize("told", ["report_run_canceling", "report_run_canceled"])
def test_a_run_that_was_cancelled_while_it_started_does_not_start(
    instance: dg.DagsterInstance, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = DagsterEvent.job_start

    def job_start(context: object) -> DagsterEvent:
        (run,) = instance.get_runs()
        getattr(instance, told)(run)
        return start(context)  # type: ignore[arg-type]

    monkeypatch.setattr(DagsterEvent, "job_start", staticmethod(job_start))
    run = executed(instance, "never")
    assert run.status is CANCELED
    assert not instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_START).records


def cancelled_too_late(home: str) -> None:
    """The process of a run that is cancelled after its last look at the record."""
    look = raise_if_cancelled

    def late(instance: dg.DagsterInstance, run_id: str) -> None:
        look(instance, run_id)
        if instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_SUCCESS).records:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            instance.report_run_canceling(run)

    cancelling.raise_if_cancelled = late
    with dg.DagsterInstance.from_config(home) as instance:
        assert executed(instance, "never").status is dg.DagsterRunStatus.SUCCESS


def test_a_run_that_was_cancelled_in_its_last_moment_ends_cancelled(instance: dg.DagsterInstance) -> None:
    home = Path(instance.root_directory)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    process = multiprocessing.get_context("spawn").Process(target=cancelled_too_late, args=(str(home),))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    (run,) = instance.get_runs()
    assert run.status is CANCELED


def test_a_run_that_ended_well_is_left_alone(instance: dg.DagsterInstance) -> None:
    run = executed(instance, "never")
    cancelling._settle(instance.get_ref(), run.run_id)
    assert instance.get_run_by_id(run.run_id) == run
