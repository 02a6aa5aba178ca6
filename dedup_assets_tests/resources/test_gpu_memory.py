"""One pool for torch, CuPy and cuML: what the cluster is asked for, and what dask-cuda makes of it."""

from __future__ import annotations

import sys
import types

import pytest

from dedup_assets.errors import DedupError
from dedup_assets.resources import dask_cluster, gpu_memory
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.memory import LIBRARIES
from dedup_assets.settings import Settings


@pytest.fixture
def installed(monkeypatch):
    """Which of RMM and CuPy are said to be installed."""
    names = {"rmm", "torch", "cupy"}
    monkeypatch.setattr(gpu_memory, "find_spec", lambda name: name if name in names else None)
    return names


def test_the_pool_serves_torch_and_cupy(installed):
    options = gpu_memory.pool_options()
    assert options["rmm_allocator_external_lib_list"] == ["torch", "cupy"]
    installed.discard("cupy")
    assert gpu_memory.pool_options()["rmm_allocator_external_lib_list"] == ["torch"]
    installed.discard("rmm")
    assert gpu_memory.pool_options() == {}


def test_the_pool_takes_nothing_at_the_start_gives_back_and_has_an_end(installed):
    options = gpu_memory.pool_options()
    assert options["rmm_async"] is True and "rmm_pool_size" not in options
    assert 0 < options["rmm_release_threshold"] < 0.5 and options["rmm_maximum_pool_size"] < 0.9


@pytest.mark.parametrize(("workers", "started"), [(0, 4), (3, 3), (16, 4)])
def test_the_cluster_has_a_worker_for_each_gpu_at_most(installed, workers, started, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(dask_cluster, "find_spec", lambda name: name)
    monkeypatch.setattr(dask_cluster, "gpu_count", lambda: 4)
    monkeypatch.setattr(DaskCluster, "_start_processes", lambda self, kind, **options: asked.update(options, kind=kind))
    cluster = DaskCluster()
    cluster.adopt(Settings(workers=workers, memory_limit="8GB"))
    cluster._start_cuda()
    limit = 8 * 10**9 // started + LIBRARIES
    options = {"kind": "LocalCUDACluster", "n_workers": started, "memory_limit": limit, "threads_per_worker": 2}
    assert asked == options | gpu_memory.pool_options()
    assert ("workers = 16, but a GPU takes one, and 4 are there: 4 start" in capsys.readouterr().err) == (workers == 16)


def test_without_dask_cuda_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(dask_cluster, "gpu_count", lambda: 2)
    monkeypatch.setattr(dask_cluster, "find_spec", lambda name: None)
    with pytest.raises(DedupError, match=r"2 GPUs.*dedup-assets\[gpu\].*--workers 1.*--device cpu"):
        DaskCluster()._start_cuda()


def test_dask_cuda_makes_the_pool_and_then_hands_it_to_torch_and_cupy(monkeypatch):
    plugins = pytest.importorskip("dask_cuda.plugins", reason="dask-cuda is not installed: pip install '.[gpu]'")
    calls = []
    modules = {
        name: types.ModuleType(name)
        for name in ("rmm", "rmm.allocators", "rmm.allocators.torch", "rmm.allocators.cupy", "torch", "cupy")
    }
    made = types.SimpleNamespace(
        CudaAsyncMemoryResource=lambda initial_pool_size, release_threshold: ("asynchronous", release_threshold),
        LimitingResourceAdaptor=lambda pool, allocation_limit: (*pool, allocation_limit),
        set_current_device_resource=lambda resource: calls.append(("pool", resource)),
    )
    modules["rmm"].mr = made
    modules["rmm.allocators.torch"].rmm_torch_allocator = "for torch"
    modules["rmm.allocators.cupy"].rmm_cupy_allocator = "for cupy"
    memory = types.SimpleNamespace(change_current_allocator=lambda allocator: calls.append(("torch", allocator)))
    modules["torch"].cuda = types.SimpleNamespace(memory=memory)
    modules["cupy"].cuda = types.SimpleNamespace(set_allocator=lambda allocator: calls.append(("cupy", allocator)))
    for name, fake in modules.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(plugins, "parse_device_bytes", lambda size, alignment_size: size and int(size * 1000))
    monkeypatch.setattr(plugins, "get_rmm_log_file_name", lambda *arguments: None)
    monkeypatch.setattr(gpu_memory, "find_spec", lambda name: name)
    options = gpu_memory.pool_options()
    plugins.RMMSetup(
        initial_pool_size=options.get("rmm_pool_size"),
        maximum_pool_size=options["rmm_maximum_pool_size"],
        managed_memory=False,
        async_alloc=options["rmm_async"],
        release_threshold=options["rmm_release_threshold"],
        log_directory=None,
        track_allocations=False,
        external_lib_list=options["rmm_allocator_external_lib_list"],
    ).setup()
    assert calls == [("pool", ("asynchronous", 100, 850)), ("torch", "for torch"), ("cupy", "for cupy")]
