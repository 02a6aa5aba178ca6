"""The parts of the run on a GPU that need more than torch: RMM, one dask-cuda worker per GPU, the assets end to end.

Knows the settings and the command's own API; each part imports what it needs when it runs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("RMM", "dask-cuda", "seven assets")


def parts(device: str, small: bool) -> list[tuple[str, float, Callable[[], Any], tuple[str, ...]]]:
    """Name, seconds expected, work and packages of each part."""
    on_gpu = device.startswith("cuda")
    whole = ("dagster", "dask", "lancedb", "pyarrow", "transformers", "click")
    found: list[tuple[str, float, Callable[[], Any], tuple[str, ...]]] = []
    if on_gpu:
        found += [
            ("RMM's pool under torch", 15, pool, ("rmm",)),
            ("dask-cuda, one worker per GPU", 60, workers, ("dask_cuda", "rmm", "dagster")),
        ]
    wanted = "cuda" if on_gpu else "cpu"
    return [*found, ("seven assets on real text", 90, lambda: assets(wanted, 60 if small else 20_000), whole)]


def pool() -> str:
    """torch on RMM's asynchronous pool with a maximum, in a process of its own: what fails there is recognised."""
    import subprocess
    import sys

    code = (
        "import rmm, torch\n"
        "from rmm.allocators.torch import rmm_torch_allocator\n"
        "pool = rmm.mr.CudaAsyncMemoryResource(release_threshold=1 << 28)\n"
        "rmm.mr.set_current_device_resource(rmm.mr.LimitingResourceAdaptor(pool, allocation_limit=1 << 30))\n"
        "torch.cuda.memory.change_current_allocator(rmm_torch_allocator)\n"
        "from dedup_assets.compute.device.memory import free_bytes, is_out_of_memory, release\n"
        "assert free_bytes('cuda') > 0\n"
        "try:\n"
        "    torch.empty(1 << 32, dtype=torch.uint8, device='cuda')\n"
        "except Exception as error:\n"
        "    assert is_out_of_memory(error), error\n"
        "    print(type(error).__name__, str(error).splitlines()[0])\n"
        "release('cuda')\n"
        "assert float(torch.ones(1, device='cuda') + 1) == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.strip()


def workers() -> dict[str, Any]:
    """Workers as a run with several GPUs starts them, also where there is one; what they say of themselves."""
    from dedup_assets.resources.dask_cluster import DaskCluster
    from dedup_assets.resources.gpu_memory import pool_options
    from dedup_assets.resources.worker_device import gpu_count
    from dedup_assets.settings import Settings

    cluster = DaskCluster()
    cluster.adopt(Settings(device="cuda"))
    started = time.perf_counter()
    try:
        cluster._start_processes("LocalCUDACluster", n_workers=gpu_count(), **pool_options())
        seconds = time.perf_counter() - started
        return {"seconds_to_start": round(seconds, 1), "rooms": [str(room) for room in cluster.rooms()]}
    finally:
        cluster.close()


def assets(device: str, texts: int) -> dict[str, Any]:
    """The seven assets on docstrings of this machine, in one call; texts per second and what became of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import dedup_assets as da
    from dedup_assets.demo import gather_docstrings

    with tempfile.TemporaryDirectory(prefix="dedup-assets-gpu-") as folder:
        found = [str(record["text"]) for record in gather_docstrings(texts)]
        pq.write_table(pa.table({"id": range(len(found)), "text": found}), Path(folder, "shard.parquet"))
        started = time.perf_counter()
        curation = da.curate(Path(folder, "shard.parquet"), workspace=Path(folder, "ws"), device=device)
        seconds = time.perf_counter() - started
        summary = {name: value for name, value in curation.summary.items() if isinstance(value, int | float | str)}
        return {"texts": len(found), "texts_per_s": round(len(found) / seconds, 1), **summary}
