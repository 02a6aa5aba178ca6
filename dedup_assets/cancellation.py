"""Cancelled runs: Dagster's record of a cancellation, and an executor that checks it between steps.

Dagster records the cancellation of a run and then interrupts its process once. If the interrupt comes too early or too
late, or is lost, the record remains: it is checked between steps, at the end of the run, and when its process ends.
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
    """Raise KeyboardInterrupt if this process was interrupted or its run was cancelled."""
    raise_interrupt()
    if not _is_cancelled(instance, run_id):
        return
    run = instance.get_run_by_id(run_id)
    if run is not None and run.status is dg.DagsterRunStatus.STARTED:
        instance.report_run_canceling(run)  # cancelled while it started: the start overwrote that status
    raise KeyboardInterrupt


def _is_cancelled(instance: dg.DagsterInstance, run_id: str) -> bool:
    return bool(instance.get_records_for_run(run_id, of_type=_ASKED, limit=1).records)


class CancellableExecutor(InProcessExecutor):
    """Dagster's in-process executor, except that a cancelled run always ends as cancelled."""

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
    """Correct the status at the end of a run's process: a run cancelled between the last check and the record of its
    success would stay successful, or for ever in the state of being cancelled."""
    with dg.DagsterInstance.from_ref(reference) as instance:
        run = instance.get_run_by_id(run_id)
        if run is not None and run.status is not dg.DagsterRunStatus.CANCELED and _is_cancelled(instance, run_id):
            instance.report_run_canceled(run, "The run was cancelled when all of it was done.")


_dagsters: Any = dg.in_process_executor


def _create(context: dg.InitExecutorContext) -> CancellableExecutor:
    usual = _dagsters.executor_creation_fn(context)
    return CancellableExecutor(usual.retries, usual.step_dependency_config, usual.marker_to_close)


# Under Dagster's name and with its settings, because run configurations may contain them.
cancellable_executor = dg.ExecutorDefinition(
    name=_dagsters.name,
    config_schema=_dagsters.config_schema,
    executor_creation_fn=_create,
    description="Runs all steps in the process of the run. A run that is cancelled ends cancelled.",
)
