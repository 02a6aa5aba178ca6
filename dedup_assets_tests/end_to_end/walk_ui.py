"""Operations in Dagster's UI, and the work of Dagster's daemon, without their servers.

Queries go to the webserver's own GraphQL schema in this process, with the definitions of the package. Runs wait in the
queue until the daemon dequeues them, and then run in this process, so that a walk of many steps takes seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster_graphql.schema import create_schema

from dedup_assets.automation.instance import reference
from dedup_assets.automation.sensors import arriving_shards_sensor
from dedup_assets.names import Names
from dedup_assets.partitions import range_tags
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.liveness import has_died
from dedup_assets_tests.end_to_end.served import LAUNCH, LAUNCH_JOB

LOCATION = {"repositoryLocationName": "dedup_assets", "repositoryName": "__repository__"}

INSTANCE = """\
telemetry: {enabled: false}
nux: {enabled: false}
concurrency: {runs: {max_concurrent_runs: 1}}
compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}
run_launcher: {module: dagster._core.launcher.sync_in_memory_run_launcher, class: SyncInMemoryRunLauncher}
"""
"""The settings of a shared instance, like those of a workspace except for the launcher, which executes a run at
once."""

ADD = """
mutation Add($selector: RepositorySelector!, $set: String!, $key: String!) {
  addDynamicPartition(repositorySelector: $selector, partitionsDefName: $set, partitionKey: $key) {
    __typename ... on PythonError { message }
  }
}"""

DELETE = """
mutation Delete($selector: RepositorySelector!, $set: String!, $keys: [String!]!) {
  deleteDynamicPartitions(repositorySelector: $selector, partitionsDefName: $set, partitionKeys: $keys) {
    __typename ... on PythonError { message }
  }
}"""

WIPE = """
mutation Wipe($ranges: [PartitionsByAssetSelector!]!) {
  wipeAssets(assetPartitionRanges: $ranges) { __typename ... on PythonError { message } }
}"""

SET = """
query Set($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode { partitionDefinition { name } } }
}"""

PARTITIONS = """
query Partitions($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode {
    partitionKeys
    assetPartitionStatuses { ... on DefaultPartitionStatuses {
      materializedPartitions failedPartitions materializingPartitions
    } }
  } }
}"""

LATEST = """
query Latest($asset: AssetKeyInput!, $keys: [String!]) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode {
    latestMaterializationByPartition(partitions: $keys) {
      partition metadataEntries { label ... on TextMetadataEntry { text } }
    }
  } }
}"""


@dataclass
class Statuses:
    """The UI's view of one asset: its partitions in Dagster's order, and which are green, red or in progress."""

    partitions: list[str]
    green: set[str]
    red: set[str]
    under_way: set[str]


class Ui:
    """The webserver's GraphQL on an instance."""

    def __init__(self, context: WorkspaceProcessContext) -> None:
        self.context = context
        self.instance = context.instance
        self._schema = create_schema()

    def graphql(self, query: str, **variables: Any) -> Any:
        request = self.context.create_request_context()
        answer = asyncio.run(self._schema.execute_async(query, context_value=request, variable_values=variables))
        if answer.errors:
            raise AssertionError(f"{query.split('(')[0]}: {answer.errors}")
        return answer.data

    def partition_set(self) -> str:
        """The name of the set of partitions in Dagster."""
        return self.graphql(SET, asset={"path": [STAGES[0]]})["assetNodeOrError"]["partitionDefinition"]["name"]

    def add(self, key: str) -> str:
        return _said(self.graphql(ADD, selector=LOCATION, set=self.partition_set(), key=key)["addDynamicPartition"])

    def delete(self, *keys: str) -> str:
        return _said(
            self.graphql(DELETE, selector=LOCATION, set=self.partition_set(), keys=keys)["deleteDynamicPartitions"]
        )

    def wipe(self, asset: str) -> str:
        return _said(self.graphql(WIPE, ranges=[{"assetKey": {"path": [asset]}}])["wipeAssets"])

    def launch(self, job: str, span: Sequence[str], assets: Collection[str] = (), **tags: str) -> str:
        """Queue a run; returns its id, or why there is none. With `assets`: only these."""
        selector: dict[str, Any] = {**LOCATION, "jobName": job}
        if assets:
            selector["assetSelection"] = [{"path": [asset]} for asset in assets]
        said = [{"key": key, "value": value} for key, value in {**(range_tags(span) if span else {}), **tags}.items()]
        params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": said}}
        found = self.graphql(LAUNCH_JOB, params=params)["launchRun"]
        return found["run"]["runId"] if found["__typename"] == "LaunchRunSuccess" else _said(found)

    def backfill(self, assets: Collection[str], keys: Sequence[str]) -> str:
        params = {"assetSelection": [{"path": [asset]} for asset in assets], "partitionNames": list(keys)}
        return _said(self.graphql(LAUNCH, params=params)["launchPartitionBackfill"])

    def statuses(self, asset: str) -> Statuses:
        node = self.graphql(PARTITIONS, asset={"path": [asset]})["assetNodeOrError"]
        found = node["assetPartitionStatuses"]
        return Statuses(
            list(node["partitionKeys"]),
            set(found["materializedPartitions"]),
            set(found["failedPartitions"]),
            set(found["materializingPartitions"]),
        )

    def input_versions(self, asset: str, keys: Sequence[str]) -> dict[str, str]:
        """The input versions of the latest materialisation, by partition."""
        node = self.graphql(LATEST, asset={"path": [asset]}, keys=keys)["assetNodeOrError"]
        return {
            event["partition"]: entry["text"]
            for event in node["latestMaterializationByPartition"]
            if event
            for entry in event["metadataEntries"]
            if entry["label"] == "basis"
        }

    def planned(self, run_id: str, asset: str) -> set[str]:
        """The partitions of an asset planned for a run."""
        events = self.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
        found = [e.get_dagster_event().asset_materialization_planned_data for e in events]
        return {str(data.partition) for data in found if data.asset_key == dg.AssetKey(asset)}

    def runs(self, *statuses: dg.DagsterRunStatus) -> Sequence[dg.DagsterRun]:
        return self.instance.get_runs(dg.RunsFilter(statuses=list(statuses)))


def serve(workspace: Path, home: Path) -> None:
    """Make this process serve a workspace on an instance, like the processes of the webserver and the daemon."""
    os.environ.update(DAGSTER_HOME=str(home), DEDUP_ASSETS_WORKSPACE=str(workspace))
    for module in ("dedup_assets.definitions", "dedup_assets.location"):
        sys.modules.pop(module, None)  # they belong to the workspace named at their import


@contextmanager
def ui_of(home: Path) -> Iterator[Ui]:
    """The UI on the instance in a folder."""
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name="dedup_assets.location")
    origin = InProcessCodeLocationOrigin(target, location_name=LOCATION["repositoryLocationName"])
    with ExitStack() as stack:
        instance = stack.enter_context(dg.DagsterInstance.from_ref(reference(home)))
        context = WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin))
        yield Ui(stack.enter_context(context))


@dataclass
class Daemon:
    """Dagster's daemon: the sensor, the queue and the backfills, one iteration at a time."""

    ui: Ui
    workspace: Path
    cursor: str | None = None
    asked: set[str] = field(default_factory=set)

    def switch(self, on: bool) -> None:
        """Switch the daemon on or off."""

    def look(self) -> list[str]:
        """One iteration; returns the requests of the sensor."""
        self.end_lost()
        asked = self._tick()
        list(execute_backfill_iteration(self.ui.context, logging.getLogger("walk.backfills")))
        self._drain()
        return asked

    def end_lost(self) -> None:
        """The work of the daemon's run monitor after some minutes or a day: every started run has ended here. Runs
        known to the workspace as dead are left to it."""
        for run in self.ui.runs(
            dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING
        ):
            if not has_died(self.workspace, run.run_id):
                self.ui.instance.report_run_failed(run)

    def _tick(self) -> list[str]:
        resource = WorkspaceResource(path=str(self.workspace))
        names = Names.of(self.workspace)
        with dg.build_sensor_context(
            instance=self.ui.instance, cursor=self.cursor, resources={names.workspace: resource}
        ) as context:
            result = arriving_shards_sensor(names, 30).evaluate_tick(context)
        for request in result.dynamic_partitions_requests or ():
            self.ui.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        self.cursor = result.cursor or self.cursor
        asked = []
        for request in result.run_requests or ():
            if request.run_key not in self.asked:
                self.asked.add(request.run_key)
                self.ui.launch(request.job_name, (), **{**request.tags, "dagster/run_key": request.run_key})
                asked.append(request.run_key)
        return asked

    def _drain(self) -> None:
        queue = QueuedRunCoordinatorDaemon(interval_seconds=1)
        waiting = len(self.ui.runs(dg.DagsterRunStatus.QUEUED))
        while waiting:
            list(queue.run_iteration(self.ui.context))
            left = len(self.ui.runs(dg.DagsterRunStatus.QUEUED))
            if left == waiting:  # a started and unfinished run blocks the others
                return
            waiting = left


def _said(result: dict[str, Any]) -> str:
    return " ".join(str(result.get("message") or result["__typename"]).split())[:300]
