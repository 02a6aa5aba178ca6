"""A Dask cluster of worker processes on this machine, started by a process without a script.

Dask spawns workers by Python's multiprocessing, which imports the caller's script again in each of them, and in
replacements of dead ones: a script without a `__main__` guard would run again there and wait for the locks of its
parent. So scheduler and workers are the children of a process that runs only `serve`. It has its own session, so Ctrl-C
in a terminal reaches only its parent, and it ends with its parent.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedup_assets.errors import ClusterError, reason

END_SECONDS = 10
"""Seconds in which a cluster may end by itself; idle workers need less than one."""

if TYPE_CHECKING:
    from distributed.security import Security

NO_PAGES: dict[str, Any] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
"""Dask serves HTTP on a separate port without a key, and some of its pages change the cluster."""

LOOPBACK_HTTP: dict[str, Any] = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
"""Dask serves HTTP even without its dashboard, on all interfaces and port 8787 unless told otherwise."""

_HELPER = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {module} import serve; serve()"


class WorkerProcesses:
    """Scheduler and workers as processes of this machine. `address` is the scheduler's.

    They listen on the loopback interface, where every user of the machine can connect, and run code they receive. So
    they use TLS with keys made for this run, which `security` holds for the client.

    Parameters
    ----------
    kind
        `LocalCluster` of distributed or `LocalCUDACluster` of dask-cuda.
    options
        Its arguments, as JSON values.
    waits
        Called several times a second until the workers are there; may raise.

    Raises
    ------
    ClusterError
        The cluster does not start; says why.
    """

    def __init__(self, kind: str, options: Mapping[str, Any], waits: Callable[[], None]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dedup-assets-", ignore_cleanup_errors=True)
        self._log = Path(self._folder.name, "workers.log")
        self.address = ""
        self.security = _new_keys()
        paths = json.dumps([os.path.abspath(path) for path in sys.path])  # noqa: PTH100  # "" is the current folder
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [os.fsdecode(get_executable() or sys.executable), "-c", _HELPER.format(module=__name__), paths],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            order = {"kind": kind, "options": options, "folder": self._folder.name, "tls": self._write_keys()}
            self.address = self._started(order, waits)
        except BaseException:
            self.close()
            raise

    def _write_keys(self) -> dict[str, str]:
        """Write the keys to files that only this user can read; returns the arguments of `Security` that name them."""
        keys = {name: getattr(self.security, name) for name in self.security.__slots__ if _is_key(name)}
        for name, content in keys.items():
            Path(self._folder.name, name).touch(0o600)
            Path(self._folder.name, name).write_text(content)
        return {name: str(Path(self._folder.name, name)) for name in keys}

    def _started(self, order: Mapping[str, Any], waits: Callable[[], None]) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # the answer says more
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        while not select.select([self._process.stdout], [], [], 0.2)[0]:
            waits()
        try:
            answer = json.loads(self._process.stdout.readline())
        except ValueError:
            answer = {"problem": f"it ended with status {self._process.wait()}"}
        if "address" not in answer:
            raise ClusterError(
                f"The local Dask workers do not start: {answer['problem']}.{self._last_error_line()} Fewer --workers "
                "need less memory; without the option the work is done in this process."
            )
        return str(answer["address"])

    def _last_error_line(self) -> str:
        """The last line of scheduler and workers on standard error."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f" Their last words: {last.rstrip('.')}." if last else ""

    def close(self) -> None:
        """End scheduler and workers, including those that do not answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            if self.address:  # otherwise the process is not listening yet
                self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process.stdout.close()
            self._folder.cleanup()


def _new_keys() -> Security:
    from distributed.security import Security  # imported here, because it takes half a second

    return Security.temporary()


def _is_key(name: str) -> bool:
    return name == "tls_ca_file" or name.endswith(("_cert", "_key"))


def serve() -> None:
    """Runs in the started process: start the requested cluster, report its address, and end it when standard input
    ends."""
    parent = os.getppid()
    order = json.loads(sys.stdin.readline())
    answers = os.dup(1)
    os.dup2(2, 1)  # output of libraries is not the answer
    try:
        cluster = _cluster(order["kind"], order["options"], order["tls"], order["folder"])
    except Exception as problem:
        os.write(answers, json.dumps({"problem": f"{reason(problem)} ({type(problem).__name__})"}).encode() + b"\n")
        return
    os.write(answers, json.dumps({"address": cluster.scheduler_address}).encode() + b"\n")
    # A fork of the parent may keep the other end of the pipe open after the parent's death.
    while os.getppid() == parent and not select.select([0], [], [], 1.0)[0]:
        pass
    try:
        cluster.close(timeout=END_SECONDS / 2)
    finally:
        if os.getppid() != parent:  # nothing else cleans up
            shutil.rmtree(order["folder"], ignore_errors=True)
            os.killpg(0, signal.SIGKILL)


def _cluster(kind: str, options: Mapping[str, Any], tls: Mapping[str, str], folder: str) -> Any:
    import dask
    from distributed.security import Security

    dask.config.set({"temporary-directory": folder, **NO_PAGES})
    if kind == "LocalCUDACluster":
        from dask_cuda import LocalCUDACluster as Cluster
    else:
        from distributed import LocalCluster as Cluster
    return Cluster(**options, security=Security(require_encryption=True, **tls))
