"""Preload of Dask worker processes: one core per task, because tasks run in parallel.

`dask worker ADDRESS --preload dedup_assets.resources.worker_setup`
"""

from __future__ import annotations


def dask_setup(worker: object) -> None:
    """Called by Dask when the worker starts."""
    import torch

    torch.set_num_threads(1)
