"""A Dask cluster that somebody else runs: workers and scheduler killed or stopped, and workers that do not fit.

Nothing is waited for in silence, and nothing for ever.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dask as dask_module
import pytest
from distributed.security import Security

from dedup_assets.errors import ClusterError
from dedup_assets.resources import worker_watch
from dedup_assets.resources.dask_cluster import DaskCluster, is_open
from dedup_assets.settings import Settings
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, leftovers, write_shards
from dedup_assets_tests.cli.commands import Call, call
from dedup_assets_tests.end_to_end.test_dask_workers import dask, wait_until
from dedup_assets_tests.ports import free_port

__all__ = ["call"]  # a fixture

TIMEOUT = 4
"""Seconds of `worker_timeout`. A worker tells of itself every half second."""

OTHER_VERSION = """
import distributed.versions
known = distributed.versions._version_cached
if known.__module__ == "distributed.versions":
    def told(name, known=known):  # Dask runs a preloaded file twice
        return "0.0.1" if name == {name!r} else known(name)
    distributed.versions._version_cached = told
"""

ELSEWHERE = """
import pathlib
from dedup_assets.resources import worker_fit
worker_fit.Path = lambda *parts: pathlib.Path("/no/such/place", *[str(part).lstrip("/") for part in parts])
"""


@dataclass
class Cluster:
    """Processes of a cluster, and where they listen."""

    folder: Path
    running: ExitStack
    address: str = field(default_factory=lambda: f"tcp://127.0.0.1:{free_port()}")
    started: int = 0

    def process(self, *arguments: str) -> subprocess.Popen[bytes]:
        self.started += 1
        return self.running.enter_context(dask(*arguments, log=self.folder / f"dask-{self.started}.log"))

    def scheduler(self) -> subprocess.Popen[bytes]:
        port = self.address.rpartition(":")[2]
        protocol = self.address.partition("://")[0]
        options = ("--host", "127.0.0.1", "--port", port, "--protocol", protocol, "--no-dashboard")
        return self.process("scheduler", *options)

    def worker(self, preload: str = "") -> subprocess.Popen[bytes]:
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
        if preload:
            file = self.folder / f"preload_{self.started}.py"
            file.write_text(preload)
            options += ("--preload", str(file))
        return self.process("worker", self.address, *options)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as running:
        yield Cluster(tmp_path, running)


@contextmanager
def joined(cluster: Cluster, seconds: int = TIMEOUT) -> Iterator[DaskCluster]:
    """The resource, connected, with a workspace of its own."""
    workspace = cluster.folder / "ws"
    workspace.mkdir(exist_ok=True)
    resource = DaskCluster()
    resource.adopt(Settings(device="cpu", scheduler=cluster.address, worker_timeout=seconds), workspace)
    try:
        yield resource
    finally:
        started = time.monotonic()
        resource.close()
        assert time.monotonic() - started < 15
        assert leftovers(workspace) == []


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()


def stop(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGSTOP)


@pytest.mark.parametrize("end", [kill, stop])
def test_workers_are_lost_one_by_one(
    cluster: Cluster, end: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker_watch, "SAY_SECONDS", 1.0)
    cluster.scheduler()
    workers = {worker.pid: worker for worker in (cluster.worker(), cluster.worker())}
    with joined(cluster, 20) as resource:  # for both to come
        wait_until(lambda: len(resource.client().nthreads()) == 2, "two workers")
    capfd.readouterr()
    with joined(cluster) as resource:
        # One is lost: its work is done by the other.
        (first,) = (pid for _, pid in resource.map(os.getpid, [()]))
        end(workers.pop(first))
        assert sorted(result for _, result in resource.map(pow, [(2, n) for n in range(8)])) == [2**n for n in range(8)]
        # Then the other too.
        (last,) = workers.values()
        running = resource.map(time.sleep, [(0,), (60,)])
        assert next(running)[0] == 0
        end(last)
        started = time.monotonic()
        with pytest.raises(ClusterError, match=rf"Waited \d+ s for a Dask worker of {cluster.address}: none .*go on"):
            next(running)
        assert TIMEOUT - 1 <= time.monotonic() - started <= TIMEOUT + 30
    said = capfd.readouterr().err.splitlines()
    assert said and all(line.startswith(("Waiting for a Dask worker", "No sign of life from")) for line in said)


@pytest.mark.parametrize("end", [kill, stop])
def test_a_scheduler_is_lost(cluster: Cluster, end: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    scheduler = cluster.scheduler()
    cluster.worker()
    with joined(cluster, 20) as resource:
        resource.client()
    with joined(cluster) as resource:
        running = resource.map(time.sleep, [(0,), (60,)])
        assert next(running)[0] == 0
        end(scheduler)
        started = time.monotonic()
        with pytest.raises(ClusterError, match=rf"[Tt]he Dask scheduler at {cluster.address}.* is kept: run"):
            next(running)
        assert time.monotonic() - started <= TIMEOUT + 30
    assert capfd.readouterr().err == ""


def refused(cluster: Cluster, why: str, seconds: int = 20) -> None:
    """Joining the cluster is refused."""
    with joined(cluster, seconds) as resource, pytest.raises(ClusterError, match=why):
        resource.client()


def test_workers_that_do_not_fit_are_refused_before_they_work(cluster: Cluster) -> None:
    cluster.scheduler()
    refused(cluster, rf"Waited \d+ s for a Dask worker of {cluster.address}: none is there", TIMEOUT)
    # Some come before the run, one after it has begun.
    strangers = [cluster.worker(OTHER_VERSION.format(name=name)) for name in ("dedup-assets", "pyarrow")]
    refused(cluster, r"other versions .*(dedup-assets|pyarrow) 0\.0\.1 \(here \d")
    for stranger in strangers:
        stranger.kill()
    blind = cluster.worker(ELSEWHERE)
    refused(cluster, r"do not see the workspace's files: worker tcp.*No such file.*same path")
    blind.kill()
    fit = cluster.worker()
    with joined(cluster, 20) as resource:
        assert [result for _, result in resource.map(pow, [(2, 5)])] == [32]
        cluster.worker(OTHER_VERSION.format(name="torch"))
        wait_until(lambda: len(resource.client().nthreads()) == 2, "the worker that comes late")
        fit.kill()
        with pytest.raises(ClusterError, match=r"Dask worker tcp.* has other versions: torch 0\.0\.1 \(here"):
            list(resource.map(pow, [(2, n) for n in range(20)]))


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "tcp://",
        "tcp://127.0.0.1:no",
        "http://127.0.0.1:80",
        "tls://127.0.0.1:1",
        "tcp://no.such.host.:8786",
    ],
)
def test_an_address_of_no_scheduler_is_one_error(address: str, tmp_path: Path) -> None:
    resource = DaskCluster()
    resource.adopt(Settings(scheduler=address, worker_timeout=1), tmp_path)
    with pytest.raises(ClusterError, match=r"Dask scheduler.*`dask scheduler`.*--scheduler ''"):
        resource.client()
    resource.close()


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Keys of a cluster, named to Dask in the environment as the deployment does; the client's of this process."""
    made = Security.temporary()
    config, paths = {"distributed.comm.require-encryption": True}, {}
    for name in (
        "ca_file",
        "scheduler_cert",
        "scheduler_key",
        "worker_cert",
        "worker_key",
        "client_cert",
        "client_key",
    ):
        (tmp_path / name).write_text(getattr(made, f"tls_{name}"))
        setting = name.replace("_", "-") if name == "ca_file" else name.replace("_", ".")
        paths[f"distributed.comm.tls.{setting}"] = str(tmp_path / name)
    for name, value in {**paths, "distributed.comm.require-encryption": "true"}.items():
        monkeypatch.setenv("DASK_" + name.replace(".", "__").replace("-", "_").upper(), value)
    with dask_module.config.set({**config, **paths}):
        yield paths


def test_a_scheduler_with_keys_is_joined_by_who_has_them(cluster: Cluster, keys: dict[str, str]) -> None:
    cluster.address = cluster.address.replace("tcp://", "tls://")
    cluster.scheduler()
    cluster.worker()
    with joined(cluster, 20) as resource:
        assert [result for _, result in resource.map(pow, [(2, 5)])] == [32]
    none = dict.fromkeys((*keys, "distributed.comm.require-encryption"), None)
    with dask_module.config.set(none):
        refused(cluster, r"(?s)TLS.*TLS__CA_FILE.*CLIENT__CERT.*CLIENT__KEY", TIMEOUT)
        cluster.address = cluster.address.replace("tls://", "tcp://")
        refused(cluster, "the Dask scheduler at tcp|No Dask scheduler that fits answers at tcp", TIMEOUT)


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("tcp://10.0.0.1:8786", True),
        ("scheduler:8786", True),
        ("ws://scheduler:8786", True),
        ("tcp://[2001:db8::1]:8786", True),
        ("tls://10.0.0.1:8786", False),
        ("tcp://127.0.0.1:8786", False),
        ("tcp://[::1]:8786", False),
        ("localhost:8786", False),
    ],
)
def test_a_scheduler_elsewhere_without_keys_is_warned_of(address: str, warned: bool) -> None:
    assert is_open(address) is warned


def test_a_command_without_workers_left_ends_with_one_line_and_keeps_what_is_finished(
    cluster: Cluster, call: Call
) -> None:
    paths = write_shards(cluster.folder / "in", corpus("clustered", (20, 20), seed=62))
    cluster.scheduler()
    patience = 4 * TIMEOUT  # it holds for the connection too, which takes seconds on a busy machine
    marker = cluster.folder / "working"
    worker = cluster.worker(
        "import pathlib, time\n"
        "from dedup_assets.resources import worker_tasks\n"
        f"worker_tasks.match_cells_of_shards = lambda *_: (pathlib.Path({str(marker)!r}).touch(), time.sleep(600))\n"
    )
    options = [
        "--embedding-column",
        "vector",
        "--scheduler",
        cluster.address,
        "--worker-timeout",
        str(patience),
        "--json",
    ]

    def kill_while_it_works() -> None:
        wait_until(marker.exists, "work")
        worker.kill()

    killer = threading.Thread(target=kill_while_it_works)
    killer.start()
    done = call("curate", *paths, "--workspace", cluster.folder / "ws", *options)
    killer.join()
    assert done.status == 1 and done.out == ""
    *waits, last = done.err.splitlines()
    assert last.startswith(f"Error: Waited {patience} s for a Dask worker of {cluster.address}")
    assert all(line.startswith("Waiting for a Dask worker of ") for line in waits) and len(waits) <= 2
    ledger = Workspace.open(cluster.folder / "ws").ledger
    assert set(ledger.completions("cluster_partitions")) == {"s00", "s01"}
    assert ledger.failures() == {}
