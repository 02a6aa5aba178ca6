"""Cancelled runs: Dagster's record of a cancellation, and an executor that looks at it between steps.

Dagster notes on the record that a run is to be cancelled, and then interrupts its process, once. Where the interrupt
comes too early, too late or to nobody, the record still tells: it is looked at between steps, at the end of the run,
and when its process ends.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.util import Finalize
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEvent
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.instance.ref import InstanceRef

from dedup_assets.interrupts import interrupts_noted, raise_interrupt

_ASKED = {dg.DagsterEventType.RUN_CANCELING, dg.DagsterEventType.RUN_CANCELED}


def raise_if_cancelled(instance: dg.DagsterInstance, run_id: str) -> None:
    """Raise KeyboardInterrupt if this process was interrupted, or somebody cancelled its run."""
    raise_interrupt()
    if not _is_cancelled(instance, run_id):
        return
    run = instance.get_run_by_id(run_id)
    if run is not None and run.status is dg.DagsterRunStatus.STARTED:
        instance.report_run_canceling(run)  # it was cancelled while it started, which is recorded over that
    raise KeyboardInterrupt


def _is_cancelled(instance: dg.DagsterInstance, run_id: str) -> bool:
    return bool(instance.get_records_for_run(run_id, of_type=_ASKED, limit=1).records)


class CancellableExecutor(InProcessExecutor):
    """Dagster's executor for runs in one process, of which no cancelled run ends as if it was not."""

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """All steps in this process."""
        instance, run_id = plan_context.instance, plan_context.run_id
        with interrupts_noted():
            raise_if_cancelled(instance, run_id)
            yield from super().execute(plan_context, execution_plan)
            if multiprocessing.parent_process() is not None:  # this process is the run's own
                Finalize(None, _settle, (instance.get_ref(), run_id), exitpriority=0)
            raise_if_cancelled(instance, run_id)


def _settle(reference: InstanceRef, run_id: str) -> None:
    """At the end of a run's process: cancelled in the moment between the last look and the record of its success, it
    is on record as successful, or as being cancelled for ever."""
    with dg.DagsterInstance.from_ref(reference) as instance:
        run = instance.get_run_by_id(run_id)
        if run is not None and run.status is not dg.DagsterRunStatus.CANCELED and _is_cancelled(instance, run_id):
            instance.report_run_canceled(run, "The run was cancelled when all of it was done.")


_dagsters: Any = dg.in_process_executor


def _create(context: dg.InitExecutorContext) -> CancellableExecutor:
    usual = _dagsters.executor_creation_fn(context)
    return CancellableExecutor(usual.retries, usual.step_dependency_config, usual.marker_to_close)


# Under Dagster's name and with its settings, which configurations of runs may hold.
cancellable_executor = dg.ExecutorDefinition(
    name=_dagsters.name,
    config_schema=_dagsters.config_schema,
    executor_creation_fn=_create,
    description="Runs all steps in the process of the run. A run that is cancelled ends cancelled.",
)
