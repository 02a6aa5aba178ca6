"""One pool of GPU memory per worker, shared by torch, CuPy and cuML.

Each library has an allocator of its own that keeps what it once took: beside each other they run out of memory
that another one holds unused. RMM's pool serves all three. On workers started by hand the same is
`dask cuda worker ADDRESS --rmm-pool-size 0.5 --set-rmm-allocator-for-libs torch,cupy`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

POOL_SHARE = 0.5
"""Of the GPU's memory, taken at the start; the pool grows beyond it on demand."""


def pool_options() -> dict[str, Any]:
    """Options of `dask_cuda.LocalCUDACluster` for the shared pool; none where RMM is not installed.

    dask-cuda sets each worker up before its first task: `rmm.reinitialize` makes the pool, then torch's and
    CuPy's allocators are changed to it, which torch allows only before it has allocated anything. cuML takes
    RMM's current resource by itself.
    """
    if find_spec("rmm") is None:
        return {}
    served = [name for name in ("torch", "cupy") if find_spec(name) is not None]
    return {"rmm_pool_size": POOL_SHARE, "rmm_allocator_external_lib_list": served}
