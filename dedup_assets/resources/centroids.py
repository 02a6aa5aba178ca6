"""Centroids on GPUs: cuML's distributed k-means on the dask-cuda workers, cuML on one GPU, or torch on it.

All three fit unit centroids of a sample of unit rows. Centroids change only the cost of the join, never a decision. So
if one fails (two workers on one GPU, MIG, a small /dev/shm, memory), the next one fits, and finally torch on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from dedup_assets.compute.kmeans import fit_centroids, order_by_locality
from dedup_assets.compute.precision import unit_rows
from dedup_assets.compute.similarity import squared_norms
from dedup_assets.errors import DedupError, first_line
from dedup_assets.resources.worker_watch import say

if TYPE_CHECKING:
    from distributed import Client

MAX_ITERATIONS = 20
"""Iterations of cuML's k-means. Centroids of text embeddings hardly change after a few rounds: see `compute.kmeans`."""

ROWS_PER_CELL = 2
"""With fewer sampled rows per centroid torch fits: the seeding of k-means|| would have to repeat rows."""


def fit_on_gpus(client: Client, sample: np.ndarray, cells: int, seed: int) -> tuple[np.ndarray, str]:
    """Unit centroids (k, d) float32 fitted on the workers' GPUs, and the name of the method.

    A collective step hangs when one worker cannot take part, so every worker is probed first.

    Raises
    ------
    DedupError
        There is no worker, or one has no usable GPU.
    """
    reports = client.run(probe)
    if not reports:
        raise DedupError("No Dask worker is there to fit centroids on. Start one, or use --device cpu.")
    unfit = {worker: text for worker, text in reports.items() if text not in ("cuml", "torch")}
    if unfit:
        listed = "; ".join(f"{worker}: {text}" for worker, text in unfit.items())
        raise DedupError(f"Workers cannot fit centroids on a GPU: {listed}. Give them a GPU, or use --device cpu.")
    workers = sorted(reports)
    rows = _unit_sample(sample)
    able = len(rows) >= ROWS_PER_CELL * cells and all(text == "cuml" for text in reports.values())
    ways: list[tuple[str, Callable[[], np.ndarray]]] = []
    if able and len(workers) == 1:
        ways.append(("cuml on one GPU", lambda: _fitted_on_one(client, workers, rows, cells, seed)))
    # The client takes part in the collective step and needs a GPU itself.
    elif able and len(rows) >= len(workers) and probe() == "cuml":
        ways.append(("cuml", lambda: order_by_locality(_unit(_fit_on_all(client, workers, rows, cells, seed)))))
    ways.append(("torch", lambda: _fitted_by_torch(client, workers, sample, cells, seed)))
    ways.append(("torch on the CPU", lambda: fit_centroids(sample, cells, seed=seed, device="cpu")))
    failed: list[str] = []
    for name, fit in ways[:-1]:
        try:
            return fit(), name
        except Exception as problem:  # NCCL, RMM, CuPy and cuML raise anything, and centroids decide nothing
            failed.append(f"{name}: {first_line(problem)}")
            following = ways[len(failed)][0]
            say(
                f"Centroids could not be fitted by {failed[-1]}. They are fitted by {following}: the result is the same"
            )
    return ways[-1][1](), ways[-1][0]


def _fitted_on_one(client: Client, workers: list[str], rows: np.ndarray, cells: int, seed: int) -> np.ndarray:
    future = client.submit(_fit_on_one, rows, cells, seed, workers=workers, pure=False)
    return order_by_locality(_unit(future.result()))


def _fitted_by_torch(client: Client, workers: list[str], sample: np.ndarray, cells: int, seed: int) -> np.ndarray:
    future = client.submit(fit_centroids, sample, cells, seed=seed, device="cuda", workers=workers[:1], pure=False)
    return future.result()


def probe() -> str:
    """The library this process can fit with, `cuml` or `torch`, or why it cannot."""
    import torch

    if not torch.cuda.is_available():
        return "torch finds no usable GPU"
    try:
        if float(torch.ones(1, device="cuda") + 1) != 2:
            return "its GPU adds wrongly"
    except Exception as problem:
        return f"its GPU does not work: {problem}"
    try:
        # Also raises ImportError if a package of its extra `dask` is missing.
        import_module("cuml.dask.cluster")
        cupy = import_module("cupy")
    except ImportError:
        return "torch"
    try:
        cupy.zeros(1) + 1
    except Exception as problem:
        return f"CuPy cannot use its GPU: {problem}"
    return "cuml"


def _unit_sample(sample: np.ndarray) -> np.ndarray:
    """Non-zero rows at unit length, float32: Euclidean k-means then orders neighbours as the cosine does."""
    squares = squared_norms(sample)
    usable = squares > 0
    return unit_rows(sample[usable], squares[usable]).numpy()


def _unit(centroids: np.ndarray) -> np.ndarray:
    """Means scaled to unit length; a zero mean becomes the first axis."""
    norms = np.linalg.norm(centroids, axis=1, keepdims=True)
    usable = np.isfinite(norms) & (norms > 0)
    axis = np.eye(1, centroids.shape[1])
    return np.where(usable, centroids / np.where(usable, norms, 1), axis).astype(np.float32)


def _options(cells: int, seed: int) -> dict[str, Any]:
    # scalable-k-means++ keeps the seeding on the GPUs.
    return {"n_clusters": cells, "random_state": seed, "init": "scalable-k-means++", "max_iter": MAX_ITERATIONS}


def _fit_on_one(rows: np.ndarray, cells: int, seed: int) -> np.ndarray:
    """On a worker: cuML's k-means on its GPU."""
    import cupy
    import torch
    from cuml.cluster import KMeans

    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # without a shared pool, cuML cannot use torch's cached memory
    return _to_cpu(KMeans(**_options(cells, seed)).fit(cupy.asarray(rows)).cluster_centers_)


def _fit_on_all(client: Client, workers: list[str], rows: np.ndarray, cells: int, seed: int) -> np.ndarray:
    """One part of the rows on each worker, and cuML's collective fit over them."""
    import cupy
    import dask.array as da
    from cuml.dask.cluster import KMeans

    before = client.run(_sessions)
    parts = []
    try:
        # Placed by hand: left to the scheduler, two parts may land on one worker and none on another.
        for worker, part in zip(workers, np.array_split(rows, len(workers)), strict=True):
            there = client.submit(_to_gpu, part, workers=[worker], pure=False)
            parts.append((there, part.shape))
        sharded = da.concatenate(
            [
                da.from_delayed(there, shape, dtype=np.float32, meta=cupy.empty((0, 0), dtype=np.float32))
                for there, shape in parts
            ]
        )
        model = KMeans(client=client, **_options(cells, seed))
        model.fit(sharded)
        return _to_cpu(model.cluster_centers_)
    finally:
        # cuML destroys its communicator when a fit fails, but not when its set-up fails. An error of the clean-up,
        # which occurs if a worker died, must not hide the error of the fit.
        with contextlib.suppress(Exception):
            client.cancel([there for there, _ in parts])
        with contextlib.suppress(Exception):
            client.run(_destroy_sessions, sorted(set().union(*before.values())))


def _sessions(dask_worker: Any) -> list[str]:
    """Sessions of RAFT communicators on this worker."""
    return [str(name) for name in getattr(dask_worker, "_raft_comm_state", {})]


def _destroy_sessions(keep: list[str], dask_worker: Any) -> None:
    """Destroy this worker's RAFT communicators except those of the given sessions."""
    states = getattr(dask_worker, "_raft_comm_state", {})
    for name in [name for name in states if str(name) not in keep and name != "ucp"]:
        state = states.pop(name)
        if "nccl" in state:
            state["nccl"].destroy()


def _to_gpu(block: np.ndarray) -> Any:
    import cupy

    return cupy.asarray(block)


def _to_cpu(array: Any) -> np.ndarray:
    return np.asarray(array.get() if hasattr(array, "get") else array, dtype=np.float32)
