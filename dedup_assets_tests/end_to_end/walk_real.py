"""The same as `walk_ui` with Dagster's own servers: webserver and daemon are processes, and so is every run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import dagster as dg

from dedup_assets.automation.instance import INSTANCE_SETTINGS
from dedup_assets.automation.serve import LOCATIONS
from dedup_assets_tests.end_to_end.served import Served
from dedup_assets_tests.end_to_end.walk_ui import Daemon, Ui, ui_of
from dedup_assets_tests.ports import free_port

SETTINGS = INSTANCE_SETTINGS
_SECONDS = 180
_ENDED = ("CANCELED", "FAILURE", "SUCCESS")

TERMINATE = """
mutation Terminate($id: String!) {
  terminateRun(runId: $id) { __typename ... on TerminateRunFailure { message } ... on PythonError { message } }
}"""


class RealUi(Ui):
    """The webserver, queried over HTTP."""

    def __init__(self, inside: Ui, served: Served) -> None:
        super().__init__(inside.context)
        self._served = served

    def graphql(self, query: str, **variables: Any) -> Any:
        try:
            return self._served.graphql(query, **variables)
        except HTTPError as problem:  # the status of a failed mutation; the answer has the reason
            return json.load(problem)["data"]

    def end(self, run_id: str, delay: float, deadly: bool, daemon_on: bool) -> str:
        """Terminate a run as the UI does, or kill its process, a while after it left the queue."""
        until = time.monotonic() + 30
        while daemon_on and self._status(run_id) == "QUEUED" and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(delay)
        if deadly:
            found = _processes_of(run_id)
            for pid in found:
                os.kill(pid, signal.SIGKILL)
            return f"{len(found)} processes killed"
        said = self.graphql(TERMINATE, id=run_id)["terminateRun"]
        until = time.monotonic() + _SECONDS
        while said["__typename"] == "TerminateRunSuccess" and self._status(run_id) not in (
            "CANCELED",
            "FAILURE",
            "SUCCESS",
        ):
            if time.monotonic() > until:
                raise AssertionError(f"run {run_id} was cancelled and is {self._status(run_id)} after {_SECONDS} s")
            time.sleep(0.5)
        return f"{said['__typename']}, {self._status(run_id)}"

    def _status(self, run_id: str) -> str:
        run = self.instance.get_run_by_id(run_id)
        return run.status.value if run else ""


class RealDaemon(Daemon):
    """The daemon as a process, which is on or off."""

    process: subprocess.Popen[bytes] | None = None

    def switch(self, on: bool) -> None:
        if on:
            home = Path(self.ui.instance.root_directory)
            self.process = _start(home, "dagster._daemon", "run", "-w", str(home / "workspace.yaml"))
        elif self.process is not None:
            _end(self.process)
            self.process = None

    def look(self) -> list[str]:
        time.sleep(1)
        return [f"{run.job_name} {run.status.value}" for run in self._open()]

    def end_lost(self) -> None:
        """Let the daemon finish, and stop it."""
        until = time.monotonic() + _SECONDS
        while self.process is not None and self._open() and time.monotonic() < until:
            time.sleep(1)
        self.switch(on=False)
        super().end_lost()

    def _open(self) -> list[dg.DagsterRun]:
        status = dg.DagsterRunStatus
        return [*self.ui.runs(status.QUEUED, status.STARTING, status.STARTED, status.CANCELING)]


@contextmanager
def real_ui(home: Path, workspace: Path) -> Iterator[tuple[RealUi, RealDaemon]]:
    """Webserver and daemon on the instance in a folder; the daemon is off."""
    (home / "workspace.yaml").write_text(LOCATIONS)
    port = free_port()
    with ui_of(home) as inside:
        locations = str(home / "workspace.yaml")
        webserver = _start(home, "dedup_assets.automation.guarded_webserver", "127.0.0.1", str(port), locations)
        served = Served(f"http://127.0.0.1:{port}", workspace, webserver, home / "servers.log")
        ui = RealUi(inside, served)
        daemon = RealDaemon(ui, workspace)
        try:
            served.wait_for(served.answers, 120)
            yield ui, daemon
        finally:
            daemon.switch(on=False)
            _end(webserver)


def _start(home: Path, *module: str) -> subprocess.Popen[bytes]:
    with (home / "servers.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *module], stdout=log, stderr=log, start_new_session=True, cwd=home
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and its children as a terminal does."""
    for sent, patience in ((signal.SIGINT, 20), (signal.SIGKILL, 20)):
        try:
            os.killpg(process.pid, sent)
            process.wait(timeout=patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _processes_of(run_id: str) -> list[int]:
    """Processes that were started for a run, by their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if run_id.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # the process has just ended
            continue
    return found
