"""The Dask workers of a run: one resource, three back-ends.

- an in-process cluster on the CPU (the default on a laptop) or on the only GPU,
- one worker per GPU with dask-cuda, where there are several,
- a running scheduler by address; its workers see the same workspace path.

A small workspace is computed in the calling thread on a CPU without other workers: importing and starting Dask takes
longer than the work. Otherwise the cluster starts with the first task, not with the run: runs without work, and
resources that Dagster initialises more than once, cost nothing.
"""

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import PrivateAttr

from dedup_assets.errors import ClusterError, DedupError, reason
from dedup_assets.interrupts import raise_interrupt
from dedup_assets.later import torch
from dedup_assets.resources.gpu_memory import pool_options
from dedup_assets.resources.memory import worker_memory
from dedup_assets.resources.worker_device import (
    GPU_TASKS,
    Refused,
    WorkerRoom,
    cores_here,
    cuda_available,
    device_here,
    gpu_count,
    guarded,
    heard_here,
    room_here,
)
from dedup_assets.resources.worker_fit import (
    COMPUTING,
    WorkerRequirements,
    is_open,
    require_files,
    require_versions,
    requirements_for,
    run_if_fit,
    see_files,
)
from dedup_assets.resources.worker_processes import LOOPBACK_HTTP, NO_PAGES, WorkerProcesses
from dedup_assets.resources.worker_room import Lanes, agreed_device, answered, lanes_of
from dedup_assets.resources.worker_watch import CLOSE_SECONDS, BoundedWait, WorkerWatch, meanwhile, say
from dedup_assets.settings import Settings

if TYPE_CHECKING:
    from distributed import Client

RETRIES = 3
"""How often a task is repeated that fails or whose GPU breaks. Dask repeats a task whose worker dies equally often."""

CONNECT_SECONDS = 20
"""Seconds within which a running scheduler answers."""

FEW_RECORDS = 5_000
"""Number of records of a workspace up to which one process on the CPU works without Dask: starting Dask takes 1 to 2 s
of CPU time, in which that many records are joined several times."""

WINDOW_PER_THREAD = 3
"""Tasks in flight per worker thread: enough that no thread waits, few enough to bound memory."""


class DaskCluster(dg.ConfigurableResource):
    """Dask workers for the parallel parts of the assets, according to the workspace's settings.

    `scheduler` is the address of a running Dask scheduler, used if the settings name none.
    """

    scheduler: str = ""

    _settings: Settings = PrivateAttr(default_factory=Settings)
    _client: Any = PrivateAttr(default=None)
    _cluster: Any = PrivateAttr(default=None)
    _watch: Any = PrivateAttr(default=None)
    _workspace: Path | None = PrivateAttr(default=None)
    _terms: WorkerRequirements | None = PrivateAttr(default=None)
    _joined: ExitStack = PrivateAttr(default_factory=ExitStack)
    _torch_threads: int | None = PrivateAttr(default=None)
    _in_process: bool = PrivateAttr(default=False)
    _few: bool = PrivateAttr(default=False)
    _device: str = PrivateAttr(default="cpu")  # of the workers of a running scheduler

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["DaskCluster"]:
        """Dagster's life cycle: nothing starts here; everything is closed at the end of the run."""
        try:
            yield self
        finally:
            self.close()

    def adopt(self, settings: Settings, workspace: Path | None = None, records: int | None = None) -> None:
        """Take device, scheduler and number of workers from the settings of the run's workspace, whose files the
        workers must see. `records` is the number of records of the workspace, if it is known."""
        self._settings, self._workspace = settings, workspace
        self._few = records is not None and records <= FEW_RECORDS

    def needs_workers(self) -> None:
        """Compute the rest of this stage on workers even for few records, because it takes long."""
        self._few = False

    @property
    def _by_itself(self) -> bool:
        """Whether tasks run in the calling thread, without Dask."""
        if not self._few or self._client is not None or self._address or self._settings.workers > 1:
            return False
        return self.resolved_device() == "cpu"

    @property
    def _address(self) -> str:
        return self._settings.scheduler or self.scheduler

    def resolved_device(self) -> str:
        """`cpu` or `cuda`; the workers of a running scheduler are joined and queried. Raises DedupError if CUDA is
        required and there is no GPU."""
        wanted = self._settings.device
        if self._address:
            if wanted != "cpu":
                self.client()
            return self._device
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
            try:
                self._start()
            except BaseException:
                self.close()
                raise
        return self._client

    def _start(self) -> None:
        import dask
        from distributed.versions import VersionMismatchWarning

        # The errors raised here say the same.
        for name in ("distributed", "distributed.client"):  # Dask sets the level of the second itself
            logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", category=VersionMismatchWarning)
        # Tasks get small arrays by value and large ones by path, so the size warning does not apply.
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "64MB"})
        if self._address:
            self._join()
            return
        if self.resolved_device() == "cuda":
            self._start_cuda()
            return
        workers = self._settings.workers
        cores = cores_here()
        # Tasks run in parallel, each on one core: products of cell size do not gain from more.
        self._torch_threads = torch.get_num_threads()
        if workers > 1:
            memory = worker_memory(self._settings, workers)
            self._start_processes(
                "LocalCluster",
                n_workers=workers,
                threads_per_worker=max(1, cores // workers),
                memory_limit=memory,
                preload=["dedup_assets.resources.worker_setup"],
            )
        else:
            torch.set_num_threads(1)
            self._start_here(cores)

    def _start_here(self, threads: int) -> None:
        """One worker in this process."""
        import dask
        from distributed import LocalCluster

        with dask.config.set(NO_PAGES):
            self._cluster = LocalCluster(
                processes=False,  # so there are no sockets except for HTTP
                n_workers=1,
                threads_per_worker=threads,
                dashboard_address=None,
                scheduler_kwargs=LOOPBACK_HTTP,
                worker_dashboard_address=LOOPBACK_HTTP["dashboard_address"],
            )
        self._in_process = True
        self._connect(self._cluster)

    def _start_cuda(self) -> None:
        gpus = max(1, gpu_count())
        workers = min(self._settings.workers or gpus, gpus)
        if self._settings.workers > gpus:
            say(f"workers = {self._settings.workers}, but a GPU takes one, and {gpus} are there: {workers} start")
        if workers == 1:
            self._start_here(GPU_TASKS)  # a separate process would only take more GPU memory
            return
        if find_spec("dask_cuda") is None:
            raise DedupError(
                f"{workers} GPUs are there but dask-cuda is not installed: install the GPU extra (`pip install "
                "'dedup-assets[gpu]'`), use one GPU with --workers 1, or use --device cpu."
            )
        memory = worker_memory(self._settings, workers)
        options = {"memory_limit": memory, "threads_per_worker": GPU_TASKS, **pool_options()}
        self._start_processes("LocalCUDACluster", n_workers=workers, **options)

    def _start_processes(self, kind: str, **options: Any) -> None:
        """Start worker processes of this machine and connect to them."""
        seconds = self._settings.worker_timeout
        patience = BoundedWait(seconds)
        self._cluster = WorkerProcesses(
            kind,
            {
                **options,
                "host": "127.0.0.1",
                "dashboard_address": None,
                # Workers that hang are restarted.
                "scheduler_kwargs": {**LOOPBACK_HTTP, "worker_ttl": f"{seconds}s"},
            },
            waits=lambda: patience.wait("the local Dask workers to start", "The machine is too busy or out of memory."),
        )
        self._connect(self._cluster.address, security=self._cluster.security)

    def _join(self) -> None:
        """Connect to the scheduler of the settings once it has workers and all of them fit."""
        seconds = self._settings.worker_timeout
        remedy = (
            "Start one with `dask scheduler` and `dask worker ADDRESS`, or compute on this machine with --scheduler '' "
            "(the first call's address stays in curation.toml)."
        )
        if is_open(self._address):
            say(
                f"Warning: the Dask scheduler at {self._address} asks for no key, and nothing is encrypted: any "
                "client that reaches it can run code there. Use tls://, as deploy/README.md says."
            )
        if self._address.startswith("tls://"):
            remedy = (
                "For tls:// Dask's own settings name the files of its keys: DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
                f"..TLS__CLIENT__CERT and ..TLS__CLIENT__KEY. {remedy}"
            )
        patience, given_up = BoundedWait(seconds), threading.Event()
        try:
            meanwhile(
                lambda: self._connect(self._address, given_up.is_set, timeout=min(CONNECT_SECONDS, seconds)),
                lambda: patience.wait(f"the Dask scheduler at {self._address}", remedy),
            )
        except (OSError, ValueError, TypeError, ImportError) as problem:
            raise ClusterError(
                f"No Dask scheduler that fits answers at {self._address}: {reason(problem)}. {remedy}"
            ) from problem
        finally:
            if self._client is None:
                given_up.set()
        self._terms = None
        if self._workspace is not None:
            self._terms = self._joined.enter_context(requirements_for(self._workspace))
        while not self._fit(self._client):
            self._watch.look()
            time.sleep(0.1)

    def _fit(self, client: Any) -> bool:
        """Whether there are workers; determines their device. Raises ClusterError if one of them does not fit."""
        watching, terms = self._watch.watching, self._terms
        if not watching(client.nthreads):
            return False
        answers: dict[str, Any] | None = None
        if terms is not None:
            require_versions(watching(lambda: client.get_versions(packages=COMPUTING)), terms)
            answers = self._watch.answers(see_files, terms.folder, terms.content)
            require_files(answers, terms)
        if self._settings.device != "cpu":
            answers = self._watch.answers(device_here)
            self._device = agreed_device(self._settings.device, answers)
            self._terms = terms and replace(terms, device=self._device)
        return answers != {}

    def _connect(self, cluster: Any, unwanted: Callable[[], bool] = lambda: False, **options: Any) -> None:
        from dedup_assets.resources.dask_client import OwnedClient

        client: Any = OwnedClient(cluster, **options)
        if unwanted():  # its caller no longer waits
            client.end()
            return
        self._client = client
        # Leftover tasks on the loop do not matter at its end: errors have reached their callers.
        loop = client.loop.asyncio_loop
        loop.call_soon_threadsafe(loop.set_exception_handler, lambda loop, context: None)
        address = client.scheduler.address
        restarted = self._cluster is not None
        self._watch = WorkerWatch(client, address, self._settings.worker_timeout, restarted=restarted)

    def watching(self, work: Callable[["Client"], Any]) -> Any:
        """The result of a call with the client. Raises ClusterError if the workers are lost meanwhile."""
        client = self.client()
        return self._watch.watching(lambda: work(client))

    @contextmanager
    def all_cores(self) -> Iterator[None]:
        """Let one computation in this process use every core while no task runs."""
        if self._torch_threads is None:  # no task has limited the threads
            yield
            return
        before = torch.get_num_threads()
        torch.set_num_threads(self._torch_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def rooms(self) -> list[WorkerRoom]:
        """The resources that the workers report; starts the cluster."""
        device = self.resolved_device()
        if self._by_itself:
            return [room_here(device)]
        self.client()
        if self._in_process:
            return [replace(room_here(device), threads=1 if device == "cpu" else GPU_TASKS)]
        return answered(self._watch.answers(room_here, device))

    def lanes(self, rooms: Sequence[WorkerRoom]) -> Lanes:
        """How many large tasks to run at once on workers with these resources, and the threads of each. In this process
        one task uses all cores: it is as fast as several tasks, and its data is in memory once."""
        lanes = lanes_of(rooms)
        return replace(lanes, threads=cores_here()) if self._in_process else lanes

    @contextmanager
    def subscribed(self, topic: str, hear: Callable[[Any], None]) -> Iterator[None]:
        """Inside the block, call `hear` with the events that tasks log under a topic: on a thread of Dask, or without
        Dask on the thread of the task."""
        if self._by_itself:
            heard_here[topic] = hear
            try:
                yield
            finally:
                del heard_here[topic]
            return
        client = self.client()
        with self._watch.connection_errors():
            client.subscribe_topic(topic, lambda event: hear(event[1]))
        try:
            yield
        finally:
            if client.status == "running":
                client.unsubscribe_topic(topic)

    def close(self) -> None:
        """Disconnect, and close the cluster if it was started here."""
        client, self._client = self._client, None
        cluster, self._cluster = self._cluster, None
        self._watch = self._terms = None
        self._in_process, self._device = False, "cpu"
        try:
            if client is not None:
                client.end()
        finally:
            self._joined.close()
            if cluster is not None:
                for worker in getattr(cluster, "workers", {}).values():  # those in this process
                    # Dask itself waits half a minute for running tasks.
                    cluster.sync(worker.close, timeout=CLOSE_SECONDS)
                cluster.close()
            if self._torch_threads is not None:
                torch.set_num_threads(self._torch_threads)
                self._torch_threads = None

    def map(
        self, task: Callable[..., Any], batches: Iterable[tuple[Any, ...]], lanes: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Run `task(*arguments)` on the workers for each batch; yields (index, result) as they finish.

        Only a window of tasks is in flight, so neither arguments nor results accumulate; with one of the `lanes`, a
        single task. Results come in order of completion; callers place them by index.
        """
        if self._by_itself:
            yield from _in_this_thread(task, batches)
            return
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        client = self.client()
        watch = self._watch
        threads = sum(watch.watching(client.nthreads).values())
        window = 1 if lanes == 1 else WINDOW_PER_THREAD * max(1, threads)
        remaining = enumerate(batches)
        at_work: dict[Any, tuple[int, tuple[Any, ...], int]] = {}  # by key: index, arguments, broken GPUs met
        finished = as_completed()
        call: tuple[Any, ...] = (guarded, self.resolved_device(), task)
        if self._terms is not None:
            call = (run_if_fit, self._terms, *call)

        def submit(index: int, arguments: tuple[Any, ...], broken: int = 0) -> None:
            with watch.connection_errors():
                future = client.submit(*call, *arguments, pure=False, retries=RETRIES)
            at_work[future.key] = index, arguments, broken
            finished.add(future)

        def submit_next() -> bool:
            for index, arguments in remaining:
                submit(index, arguments)
                return True
            return False

        in_flight = sum(submit_next() for _ in range(window))
        try:
            while in_flight:
                watch.wait_for_one(finished)
                future = next(finished)
                try:
                    result = watch.watching(future.result)
                except KilledWorker as problem:
                    raise DedupError(
                        f"Dask workers died {RETRIES + 1} times on the same piece of work ({problem}). Most "
                        "often this is memory: give the workers more, or lower batch_size."
                    ) from problem
                index, arguments, broken = at_work.pop(future.key)
                future.release()
                if isinstance(result, Refused):
                    watch.restart_worker(result, most=0 if self._in_process else RETRIES, before=broken)
                    submit(index, arguments, broken + 1)
                    continue
                in_flight += submit_next() - 1
                yield index, result
        finally:
            finished.clear()


def _in_this_thread(task: Callable[..., Any], batches: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """The results of `DaskCluster.map` without Dask; a failing task is repeated as often as Dask would repeat it."""
    for index, arguments in enumerate(batches):
        for left in reversed(range(RETRIES + 1)):
            raise_interrupt()
            try:
                result = task(*arguments)
                break
            except Exception:
                if not left:
                    raise
        yield index, result
