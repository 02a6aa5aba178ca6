"""Starts and ends the Dagster webserver and daemon of one workspace together."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from dagster._serdes import serialize_value

from dedup_assets.automation.instance import WorkspaceInstance, prepare_home, reference
from dedup_assets.errors import DedupError
from dedup_assets.named_code import FOLDER_VARIABLE
from dedup_assets.storage.publish import publish_text
from dedup_assets.storage.workspace import Workspace

LOCATIONS = """\
load_from:
  - python_module:
      module_name: dedup_assets.location
      location_name: dedup_assets
"""

START_SECONDS = 90
"""The webserver is ready in 4 s on a laptop; a loaded machine may take much longer."""


def serve(workspace: Workspace, host: str, port: int, say: Callable[[str], object]) -> None:
    """Run webserver and daemon until interrupted or one of them ends. Raises DedupError if they do not start."""
    _refuse_taken_port(host, port)
    home = prepare_home(workspace)
    with WorkspaceInstance(workspace) as dagster:
        dagster.register()
    locations = workspace.dagster_home / "workspace.yaml"
    publish_text(locations, LOCATIONS)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home.absolute()),
        "DEDUP_ASSETS_WORKSPACE": str(workspace.root),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        FOLDER_VARIABLE: str(Path.cwd()),
        # The servers and their children import nothing from the current folder.
        "PYTHONSAFEPATH": "1",
    }
    # The servers, and the processes that they start for runs, open this instance.
    instance = ("--instance-ref", serialize_value(reference(home.absolute())))
    commands = (
        ["-m", "dedup_assets.automation.guarded_webserver", host, str(port), str(locations), *instance],
        ["-m", "dagster._daemon", "run", "-w", str(locations), *instance],
    )
    if not _is_loopback(host):
        say(
            f"Warning: the UI has no login. Any client that reaches {host}:{port} can read the texts, start runs "
            "and take records down. Use 127.0.0.1 and a tunnel, or a network that only you reach."
        )
    processes: list[subprocess.Popen[bytes]] = []
    previous = signal.signal(signal.SIGTERM, _interrupt)
    own = tempfile.TemporaryDirectory(prefix="dedup-assets-ui-")  # Dagster reads `.env` and modules from its folder
    try:
        for command in commands:
            # A separate process group each: both start code servers, which must end with them.
            processes.append(
                subprocess.Popen([sys.executable, *command], env=environment, cwd=own.name, start_new_session=True)
            )
        _wait_until_ready(host, port, processes)
        say(f"Dagster UI of {workspace.root}: http://{host}:{port}  (Ctrl-C ends it)")
        while all(process.poll() is None for process in processes):
            time.sleep(0.3)
        raise DedupError("The Dagster webserver or daemon ended by itself; its last lines are above.")
    except KeyboardInterrupt:
        say("Ending the webserver and the daemon.")
    finally:
        signal.signal(signal.SIGTERM, previous)
        _end(processes)
        own.cleanup()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _refuse_taken_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as problem:
            raise DedupError(f"Cannot listen on {host}:{port}: {problem.strerror}. Choose another --port.") from problem


def _wait_until_ready(host: str, port: int, processes: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if any(process.poll() is not None for process in processes):
            raise DedupError("The Dagster webserver or daemon did not start; its last lines are above.")
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/server_info", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise DedupError(f"The Dagster webserver did not answer on {host}:{port} within {START_SECONDS} s.")


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask each process group to end, and kill those that do not."""
    for sent, patience in ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        for process in processes:
            try:
                os.killpg(process.pid, sent)
            except ProcessLookupError:
                continue
        until = time.monotonic() + patience
        while time.monotonic() < until and any(process.poll() is None for process in processes):
            time.sleep(0.1)
        if all(process.poll() is not None for process in processes) and sent != signal.SIGINT:
            return
