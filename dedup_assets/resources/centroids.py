"""Centroids on GPUs: cuML's distributed k-means on the dask-cuda workers, or torch on one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dedup_assets.compute.kmeans import fit_centroids
from dedup_assets.errors import DedupError

if TYPE_CHECKING:
    from distributed import Client


def fit_on_gpus(client: Client, sample: np.ndarray, cells: int, seed: int) -> tuple[np.ndarray, str]:
    """Unit centroids (k, d) float32 fitted on the workers' GPUs, and what fitted them.

    A collective step hangs when one worker cannot take part, so every worker is asked first.
    """
    reports = client.run(_probe)
    unfit = {worker: text for worker, text in reports.items() if text not in ("cuml", "torch")}
    if unfit:
        listed = "; ".join(f"{worker}: {text}" for worker, text in unfit.items())
        raise DedupError(f"Workers cannot fit centroids on a GPU: {listed}. Give them a GPU, or use --device cpu.")
    if len(sample) >= 2 * cells and all(text == "cuml" for text in reports.values()):
        return _fit_with_cuml(client, sample, cells, seed), "cuml"
    centroids = client.submit(fit_centroids, sample, cells, seed=seed, device="cuda", pure=False).result()
    return centroids, "torch"


def _probe() -> str:
    """What this worker can fit with: `cuml`, `torch`, or why it cannot."""
    import torch

    if not torch.cuda.is_available():
        return "torch finds no usable GPU"
    try:
        import cuml.dask  # noqa: F401
    except ImportError:
        return "torch"
    return "cuml"


def _fit_with_cuml(client: Client, sample: np.ndarray, cells: int, seed: int) -> np.ndarray:
    import dask.array as da
    from cuml.dask.cluster import KMeans

    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    rows = -(-len(sample) // workers)
    sharded = da.from_array(sample.astype(np.float32), chunks=(rows, sample.shape[1])).map_blocks(_to_gpu)
    sharded = client.persist(sharded)
    try:
        # Euclidean k-means of unit vectors orders neighbours as cosine does; the means are put back on
        # the sphere below. scalable-k-means++ keeps the seeding on the GPUs.
        model = KMeans(client=client, n_clusters=cells, random_state=seed, init="scalable-k-means++", max_iter=20)
        model.fit(sharded)
        centroids = np.asarray(_to_cpu(model.cluster_centers_), dtype=np.float32)
    finally:
        client.cancel(sharded)
    norms = np.linalg.norm(centroids, axis=1, keepdims=True)
    return (centroids / np.where(norms > 0, norms, 1)).astype(np.float32)


def _to_gpu(block: np.ndarray) -> Any:
    import cupy

    return cupy.asarray(block)


def _to_cpu(array: Any) -> np.ndarray:
    return array.get() if hasattr(array, "get") else np.asarray(array)
