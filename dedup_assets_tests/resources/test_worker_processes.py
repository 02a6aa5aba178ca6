"""Worker processes of this machine: killed, stopped, not starting, and none of them with the caller's script."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from distributed.comm import connect
from distributed.security import Security

from dedup_assets.errors import ClusterError, DedupError
from dedup_assets.resources import dask_cluster, worker_processes
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.worker_processes import WorkerProcesses
from dedup_assets.settings import Settings

SCRIPT_OF_WORKER = "[vars(module).get('__file__') for module in [__import__('sys').modules['__main__']]][0]"


@contextmanager
def local(seconds: int) -> Iterator[DaskCluster]:
    """Two worker processes."""
    cluster = DaskCluster()
    cluster.adopt(Settings(device="cpu", workers=2, worker_timeout=seconds))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with local(60) as cluster:  # both workers may have to restart on a busy machine
        yield cluster


def processes(cluster: DaskCluster) -> list[psutil.Process]:
    """The helper and all that it started."""
    helper = psutil.Process(cluster._cluster._process.pid)
    return [helper, *helper.children(recursive=True)]


def results(cluster: DaskCluster, task: object, *arguments: object) -> list[object]:
    return [result for _, result in cluster.map(task, [arguments])]


def ended(known: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(known, timeout=20)
    return not alive


def test_workers_do_not_have_the_callers_script_nor_have_those_that_replace_them(
    cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/no/such/script.py", raising=False)
    (first,) = results(cluster, os.getpid)
    assert first != os.getpid() and results(cluster, eval, SCRIPT_OF_WORKER) == [None]
    os.kill(int(str(first)), signal.SIGKILL)
    seen = {pid for _, pid in cluster.map(os.getpid, [()] * 20)}
    assert first not in seen
    assert {script for _, script in cluster.map(eval, [(SCRIPT_OF_WORKER,)] * 20)} == {None}


def test_a_worker_that_hangs_counts_as_lost_and_its_work_is_done() -> None:
    with local(5) as cluster:
        (pid,) = results(cluster, os.getpid)
        started = time.monotonic()
        os.kill(int(str(pid)), signal.SIGSTOP)
        found = sorted(result for _, result in cluster.map(pow, [(2, n) for n in range(12)]))
        assert found == [2**n for n in range(12)] and time.monotonic() - started < 5 + 30


def page(port: int, path: str) -> int:
    """Status of a page that somebody without keys asks for; 0 where nobody answers in HTTP."""
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).status
    except urllib.error.HTTPError as answer:
        return answer.code
    except OSError:
        return 0


async def ask(port: int, protocol: str, security: Security) -> object:
    """Ask a Dask process, without the keys of its cluster, who it is."""
    arguments = security.get_connection_args("client")
    comm = await connect(f"{protocol}://127.0.0.1:{port}", timeout=2, **arguments)
    try:
        await comm.write({"op": "identity", "reply": True})
        return await comm.read()
    finally:
        comm.abort()


def test_who_has_no_keys_of_the_run_is_not_listened_to(cluster: DaskCluster) -> None:
    results(cluster, pow, 2, 5)
    opened = [found for process in processes(cluster) for found in process.net_connections("tcp")]
    ports = {found.laddr.port for found in opened if found.status == psutil.CONN_LISTEN}
    served = {port for port in ports if page(port, "/")}
    pages = ("/", "/health", "/metrics", "/json/identity.json", "/info/main/workers.html")
    assert {page(port, path) for port in served for path in pages} == {404}
    assert len(ports - served) >= 5  # scheduler, two workers, and the two that watch them
    for port in ports - served:
        for protocol, security in (("tcp", Security()), ("tls", Security.temporary())):
            with pytest.raises(OSError):
                asyncio.run(asyncio.wait_for(ask(port, protocol, security), 5))
    private = Path(cluster._cluster._folder.name)
    keys = list(private.glob("tls_*"))
    assert len(keys) == 7 and all(path.stat().st_mode & 0o077 == 0 for path in (private, *keys))


def test_work_that_kills_every_worker_is_given_up(cluster: DaskCluster) -> None:
    with pytest.raises(DedupError, match="died 4 times on the same piece of work"):
        results(cluster, os._exit, 1)
    assert results(cluster, pow, 2, 5) == [32]


def test_a_scheduler_that_dies_is_one_error_and_nothing_is_left(
    cluster: DaskCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    known = processes(cluster)
    started = time.monotonic()
    running = cluster.map(time.sleep, [(0,), (60,)])
    assert next(running)[0] == 0
    known[0].kill()
    with pytest.raises(ClusterError, match=r"The Dask scheduler at .* is gone.*run the same command again"):
        next(running)
    cluster.close()
    assert time.monotonic() - started < 30 and ended(known)
    assert capfd.readouterr().err == ""


def test_workers_that_cannot_start_are_an_error_that_says_why() -> None:
    options = {"n_workers": 1, "preload": ["no_such_module"], "host": "127.0.0.1", "dashboard_address": None}
    with pytest.raises(ClusterError, match=r"do not start: .*last words.*--workers"):
        WorkerProcesses("LocalCluster", options, waits=lambda: None)


def test_workers_that_do_not_come_in_time_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = DaskCluster()
    cluster.adopt(Settings(device="cpu", workers=2, worker_timeout=1))
    monkeypatch.setattr(worker_processes, "_HELPER", "import time; time.sleep(60)  # {module}")
    with pytest.raises(ClusterError, match="Waited 1 s for the local Dask workers to start"):
        cluster.client()


FAKE_DASK_CUDA = """
from distributed import LocalCluster

class LocalCUDACluster(LocalCluster):
    def __init__(self, rmm_async=False, rmm_allocator_external_lib_list=None, **options):
        super().__init__(**options)
"""


def test_workers_on_gpus_are_started_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dask_cuda.py").write_text(FAKE_DASK_CUDA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(dask_cluster, "cuda_available", lambda: True)
    monkeypatch.setattr(dask_cluster, "gpu_count", lambda: 2)
    cluster = DaskCluster()
    cluster.adopt(Settings(device="cuda", workers=2))
    try:
        assert results(cluster, eval, SCRIPT_OF_WORKER) == [None]
        known = processes(cluster)
    finally:
        cluster.close()
    assert ended(known)


LEFT = """
import os, sys
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.settings import Settings

cluster = DaskCluster()
cluster.adopt(Settings(device="cpu", workers=2))
cluster.client()
if os.fork() == 0:  # holds what its parent held open
    import time
    time.sleep(60)
print(cluster._cluster._process.pid, cluster._cluster._folder.name, flush=True)
sys.stdin.read()
"""


def test_workers_end_with_the_process_that_started_them_however_it_ends() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LEFT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        pid, folder = process.stdout.readline().decode().split()
        helper = psutil.Process(int(pid))
        known = [helper, *helper.children(recursive=True)]
        forked = psutil.Process(process.pid).children()
        process.kill()
        try:
            assert len(known) > 2 and ended(known)
        finally:
            for child in forked:
                if child.pid != int(pid):
                    child.kill()
    assert not Path(folder).exists()
