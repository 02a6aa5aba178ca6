"""One pool of GPU memory per worker, shared by torch, CuPy and cuML.

Each library has an allocator of its own that keeps what it once took: beside each other they run out of memory
that another one holds unused. CUDA's asynchronous pool, through RMM, serves all three. It takes nothing at the start,
so that two clusters, or somebody else's program, may share a GPU; what is unused beyond `KEPT_SHARE` goes back to
the GPU; and it ends at `MOST_SHARE`, because NCCL and cuBLAS take theirs beside any pool. On workers started by hand
the same is `dask cuda worker ADDRESS --nthreads 2 --rmm-async --rmm-release-threshold 0.1 --rmm-maximum-pool-size 0.85
--set-rmm-allocator-for-libs torch,cupy`, with two tasks at once (`worker_device.GPU_TASKS`).

A single GPU is used in this process, with torch's own allocator.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

KEPT_SHARE = 0.1
"""Of the GPU's memory, kept in the pool while unused: RMM by itself keeps all it ever had."""

MOST_SHARE = 0.85
"""Of the GPU's memory, for the pool at most: of 24 GB the rest is 3.6, and NCCL with the libraries' code takes 2."""


def pool_options() -> dict[str, Any]:
    """Options of `dask_cuda.LocalCUDACluster` for the shared pool; none where RMM is not installed.

    dask-cuda sets each worker up before its first task: the pool is made, then torch's and CuPy's allocators are
    changed to it, which torch allows only before it has allocated anything. cuML takes RMM's current resource by
    itself.
    """
    if find_spec("rmm") is None:
        return {}
    served = [name for name in ("torch", "cupy") if find_spec(name) is not None]
    return {
        "rmm_async": True,
        "rmm_release_threshold": KEPT_SHARE,
        "rmm_maximum_pool_size": MOST_SHARE,
        "rmm_allocator_external_lib_list": served,
    }
