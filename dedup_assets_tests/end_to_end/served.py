"""The real `dedup-assets ui` on a workspace: webserver and daemon, queried over GraphQL, stopped at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedup_assets.automation.instance import INSTANCE_SETTINGS
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.cli.commands import SCRIPT
from dedup_assets_tests.ports import free_port

LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""

STATUS = """
query Status($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } ... on PythonError { message } }
}"""

LAUNCH_JOB = """
mutation LaunchJob($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}"""

RUN = """
query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } ... on PythonError { message } } }"""


@dataclass
class Served:
    """A running `dedup-assets ui`."""

    address: str
    workspace: Path
    process: subprocess.Popen[bytes]
    log: Path

    def graphql(self, query: str, **variables: Any) -> Any:
        """The data of the answer to a query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def backfill(self, assets: tuple[str, ...], partitions: list[str]) -> str:
        """Launch a backfill as the UI does; returns its id."""
        params = {"assetSelection": [{"path": [asset]} for asset in assets], "partitionNames": partitions}
        launched = self.graphql(LAUNCH, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return launched["backfillId"]

    def backfill_status(self, backfill: str) -> str:
        return self.graphql(STATUS, id=backfill)["partitionBackfillOrError"]["status"]

    def launch(self, job: str, first: str, last: str) -> str:
        """Launch a job over a range of partitions as the UI does; returns the run's id."""
        selector = {"repositoryLocationName": "dedup_assets", "repositoryName": "__repository__", "jobName": job}
        tags = [
            {"key": "dagster/asset_partition_range_start", "value": first},
            {"key": "dagster/asset_partition_range_end", "value": last},
        ]
        params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}
        launched = self.graphql(LAUNCH_JOB, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def run_status(self, run: str) -> str:
        return self.graphql(RUN, id=run)["runOrError"]["status"]

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until a condition holds; on failure the log of the server is shown."""
        until = time.monotonic() + seconds
        while not condition():
            said = self.log.read_text(errors="replace")[-4000:]
            assert self.process.poll() is None, f"the ui ended\n{said}"
            assert time.monotonic() < until, f"not within {seconds} s\n{said}"
            time.sleep(0.5)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/server_info", timeout=5):
                return True
        except OSError:
            return False


def shorten_queue(workspace: Path) -> None:
    """Let the daemon look into the queue of runs every second instead of every five."""
    settings = Workspace.open(workspace).dagster_home / "dagster.yaml"
    settings.write_text(f"{INSTANCE_SETTINGS}run_queue:\n  dequeue_interval_seconds: 1\n")


@contextmanager
def served_ui(workspace: Path, folder: Path, *arguments: str, cwd: Path | None = None) -> Iterator[Served]:
    """Run `dedup-assets ui` on a free port, with its log in `folder`; with `cwd`, run the installed program there."""
    port = free_port()
    log = folder / "ui.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(SCRIPT if cwd is None else [str(Path(sys.executable).with_name("dedup-assets"))]),
                "ui",
                "--workspace",
                str(workspace),
                "--port",
                str(port),
                *arguments,
            ],
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=cwd,
        )
        ui = Served(f"http://127.0.0.1:{port}", workspace, process, log)
        try:
            ui.wait_for(ui.answers, 120)
            yield ui
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)
