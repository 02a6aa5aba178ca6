"""The Dask workers of a run: one resource, three back-ends.

- an in-process cluster on the CPU (the default on a laptop),
- one worker per GPU with dask-cuda,
- a running scheduler by address; its workers see the same workspace path.

The cluster starts with the first piece of work, not with the run: runs that only look up what is
finished, and Dagster's habit of initialising resources more than once, cost nothing.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import PrivateAttr

from dedup_assets.errors import DedupError, WorkspaceError
from dedup_assets.resources.gpu_memory import pool_options
from dedup_assets.resources.memory import worker_memory
from dedup_assets.settings import Settings

if TYPE_CHECKING:
    from distributed import Client

RETRIES = 3
"""A task whose worker dies is computed again elsewhere this many times."""

LOOPBACK_HTTP: dict[str, Any] = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
"""Dask serves HTTP even without its dashboard, on all interfaces and port 8787 unless told otherwise."""

WINDOW_PER_THREAD = 3
"""Tasks in flight per worker thread: enough that none waits, few enough to bound what is in memory."""


class DaskCluster(dg.ConfigurableResource):
    """Dask workers for the parallel parts of the assets, as the workspace's settings ask for them.

    `scheduler` is the address of a running Dask scheduler where the settings name none.
    """

    scheduler: str = ""

    _settings: Settings = PrivateAttr(default_factory=Settings)
    _client: Any = PrivateAttr(default=None)
    _cluster: Any = PrivateAttr(default=None)
    _torch_threads: int | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["DaskCluster"]:
        """Dagster's life cycle: nothing at the start, everything closed at the end of the run."""
        try:
            yield self
        finally:
            self.close()

    def adopt(self, settings: Settings) -> None:
        """Take device, scheduler and number of workers from the settings of the run's workspace."""
        self._settings = settings

    @property
    def _address(self) -> str:
        return self._settings.scheduler or self.scheduler

    def resolved_device(self) -> str:
        """`cpu` or `cuda`, or `auto` where remote workers decide. Raises DedupError if CUDA is demanded and
        there is no GPU here."""
        wanted = self._settings.device
        if self._address:
            return wanted  # this machine may have no GPU and the workers one
        available = cuda_available()
        if wanted == "cuda" and not available:
            raise DedupError(
                "device = cuda, but torch finds no usable NVIDIA GPU on this machine. Use --device cpu (the "
                "decisions are the same), or install the GPU extra and a CUDA build of torch."
            )
        return "cuda" if available and wanted in ("auto", "cuda") else "cpu"

    def client(self) -> "Client":
        """The connected client; starts or joins the cluster on first use."""
        if self._client is None:
            self._client = self._start()
        return self._client

    def _start(self) -> "Client":
        import dask
        from distributed import Client, LocalCluster

        logging.getLogger("distributed").setLevel(logging.ERROR)
        # Tasks get arrays by value when small and by path when large; the size warning is no help here.
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "64MB"})
        if self._address:
            return self._join(Client)
        if self.resolved_device() == "cuda":
            return self._start_cuda(Client)
        workers = self._settings.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        import torch

        # Tasks run side by side, each on one core: products of cell size do not gain from more.
        self._torch_threads = torch.get_num_threads()
        threads = max(1, cores // max(1, workers))
        if workers > 1:
            self._cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=threads,
                memory_limit=worker_memory(self._settings, workers),
                dashboard_address=None,
                scheduler_kwargs=LOOPBACK_HTTP,
                host="127.0.0.1",
                preload=["dedup_assets.resources.worker_setup"],
            )
        else:
            torch.set_num_threads(1)
            self._cluster = LocalCluster(
                processes=False,
                n_workers=1,
                threads_per_worker=cores,
                dashboard_address=None,
                scheduler_kwargs=LOOPBACK_HTTP,
                worker_dashboard_address=LOOPBACK_HTTP["dashboard_address"],
            )
        return Client(self._cluster)

    def _start_cuda(self, client_type: "type[Client]") -> "Client":
        try:
            from dask_cuda import LocalCUDACluster
        except ImportError as problem:
            raise DedupError(
                "A GPU is there but dask-cuda is not installed: install the GPU extra "
                "(`pip install 'dedup-assets[gpu]'`), or use --device cpu."
            ) from problem
        self._cluster = LocalCUDACluster(
            n_workers=self._settings.workers or None,
            dashboard_address=None,
            scheduler_kwargs=LOOPBACK_HTTP,
            host="127.0.0.1",
            **pool_options(),
        )
        return client_type(self._cluster)

    def _join(self, client_type: "type[Client]") -> "Client":
        try:
            client = client_type(self._address, timeout=20)
            client.wait_for_workers(1, timeout=60)
        except (OSError, TimeoutError, ValueError) as problem:
            raise WorkspaceError(
                f"No Dask scheduler with a worker answers at {self._address}: {problem}. Start one with "
                "`dask scheduler` and `dask worker ADDRESS`, or compute on this machine with --scheduler '' (the "
                "first call's address stays in curation.toml)."
            ) from problem
        return client

    @contextmanager
    def all_cores(self) -> Iterator[None]:
        """Let one computation of this process use every core while no task runs."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._torch_threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def tasks_at_once(self) -> int:
        """How many tasks run at once on one machine and share its memory; starts the cluster."""
        threads = self.client().nthreads().values()
        return max(1, max(threads, default=1) if self._address else sum(threads))

    def lanes(self) -> tuple[int, int]:
        """How many large tasks to run at once, and the threads for each; starts the cluster.

        In this process one task may have all cores: what it holds is then held once, and it is as quick as
        several beside each other. Workers elsewhere take a task on every thread.
        """
        client = self.client()
        if self._cluster is not None and self._torch_threads is not None and self._settings.workers <= 1:
            return 1, sum(client.nthreads().values())
        return self.tasks_at_once(), 1

    @contextmanager
    def hearing(self, topic: str, hear: Callable[[Any], None]) -> Iterator[None]:
        """Call `hear`, on a thread of Dask's, with what tasks log under a topic while the block lasts."""
        client = self.client()
        client.subscribe_topic(topic, lambda event: hear(event[1]))
        try:
            yield
        finally:
            client.unsubscribe_topic(topic)

    def close(self) -> None:
        """Disconnect, and end the cluster if it is ours."""
        client, self._client = self._client, None
        cluster, self._cluster = self._cluster, None
        try:
            if client is not None:
                client.close()
        finally:
            if cluster is not None:
                cluster.close()
            if self._torch_threads is not None:
                import torch

                torch.set_num_threads(self._torch_threads)
                self._torch_threads = None

    def map(
        self, task: Callable[..., Any], batches: Iterable[tuple[Any, ...]], lanes: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Run `task(*arguments)` on the workers for each batch; yields (index, result) as they finish.

        Only a window of tasks is in flight, so neither arguments nor results pile up; a single one where there is
        one of the `lanes`. Results come in order of completion: callers put them in place by index.
        """
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        client = self.client()
        window = 1 if lanes == 1 else WINDOW_PER_THREAD * max(1, sum(client.nthreads().values()))
        remaining = enumerate(batches)
        index_of: dict[Any, int] = {}
        finished = as_completed()

        def submit_next() -> bool:
            try:
                index, arguments = next(remaining)
            except StopIteration:
                return False
            future = client.submit(task, *arguments, pure=False, retries=RETRIES)
            index_of[future.key] = index
            finished.add(future)
            return True

        in_flight = sum(submit_next() for _ in range(window))
        try:
            while in_flight:
                future = next(finished)
                in_flight -= 1
                try:
                    result = future.result()
                except KilledWorker as problem:
                    raise DedupError(
                        f"Dask workers died {RETRIES + 1} times on the same piece of work ({problem}). Most "
                        "often this is memory: give the workers more, or lower batch_size."
                    ) from problem
                index = index_of.pop(future.key)
                future.release()
                in_flight += submit_next()
                yield index, result
        finally:
            finished.clear()


_cuda: bool | None = None
_cuda_lock = threading.Lock()


def cuda_available() -> bool:
    """Whether torch can use a GPU here; asked once per process, without loading torch where it need not."""
    global _cuda
    with _cuda_lock:
        if _cuda is None:
            import torch

            _cuda = torch.cuda.is_available()
    return _cuda
