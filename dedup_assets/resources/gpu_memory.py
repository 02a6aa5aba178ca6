"""One pool of GPU memory per worker, shared by torch, CuPy and cuML.

Each library has its own caching allocator, so one can run out of memory that another caches unused. CUDA's asynchronous
pool, through RMM, serves all three. It starts empty, so that two clusters or another program can share a GPU; unused
memory above `KEPT_SHARE` is returned to the GPU; and it is limited to `MOST_SHARE`, because NCCL and cuBLAS allocate
outside of any pool. For workers started by hand, the equivalent is `dask cuda worker ADDRESS --nthreads 2 --rmm-async
--rmm-release-threshold 0.1 --rmm-maximum-pool-size 0.85 --set-rmm-allocator-for-libs torch,cupy`, with two tasks at
once (`worker_device.GPU_TASKS`).

A single GPU is used in this process, with torch's own allocator.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

KEPT_SHARE = 0.1
"""Share of the GPU's memory that the pool keeps while unused; by default RMM keeps its maximum."""

MOST_SHARE = 0.85
"""Largest share of the GPU's memory for the pool: of 24 GB this leaves 3.6, of which NCCL and the libraries' code take
2."""


def pool_options() -> dict[str, Any]:
    """Options of `dask_cuda.LocalCUDACluster` for the shared pool; none where RMM is not installed.

    dask-cuda sets each worker up before its first task: the pool is created, then torch's and CuPy's allocators are
    switched to it, which torch allows only before its first allocation. cuML uses RMM's current resource anyway.
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
