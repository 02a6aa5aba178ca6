"""One pool for torch, CuPy and cuML: what the cluster is asked for, and what dask-cuda makes of it."""

from __future__ import annotations

import sys
import types

import pytest

from dedup_assets.errors import DedupError
from dedup_assets.resources import dask_cluster, gpu_memory
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.settings import Settings


@pytest.fixture
def installed(monkeypatch):
    """Which of RMM and CuPy are said to be installed."""
    names = {"rmm", "torch", "cupy"}
    monkeypatch.setattr(gpu_memory, "find_spec", lambda name: name if name in names else None)
    return names


def test_the_pool_serves_torch_and_cupy(installed):
    options = gpu_memory.pool_options()
    assert options["rmm_allocator_external_lib_list"] == ["torch", "cupy"] and 0 < options["rmm_pool_size"] < 1
    installed.discard("cupy")
    assert gpu_memory.pool_options()["rmm_allocator_external_lib_list"] == ["torch"]
    installed.discard("rmm")
    assert gpu_memory.pool_options() == {}


def test_the_cluster_is_started_with_the_pool(installed, monkeypatch):
    asked = {}
    monkeypatch.setattr(dask_cluster, "find_spec", lambda name: name)
    monkeypatch.setattr(DaskCluster, "_start_processes", lambda self, kind, **options: asked.update(options, kind=kind))
    cluster = DaskCluster()
    cluster.adopt(Settings(workers=3))
    cluster._start_cuda()
    assert asked == {"kind": "LocalCUDACluster", "n_workers": 3, **gpu_memory.pool_options()}


def test_without_dask_cuda_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with pytest.raises(DedupError, match=r"dedup-assets\[gpu\].*--device cpu"):
        DaskCluster()._start_cuda()


def test_dask_cuda_makes_the_pool_and_then_hands_it_to_torch_and_cupy(monkeypatch):
    plugins = pytest.importorskip("dask_cuda.plugins", reason="dask-cuda is not installed: pip install '.[gpu]'")
    calls = []
    modules = {
        name: types.ModuleType(name)
        for name in ("rmm", "rmm.allocators", "rmm.allocators.torch", "rmm.allocators.cupy", "torch", "cupy")
    }
    modules["rmm"].reinitialize = lambda **options: calls.append(("pool", options["pool_allocator"]))
    modules["rmm.allocators.torch"].rmm_torch_allocator = "for torch"
    modules["rmm.allocators.cupy"].rmm_cupy_allocator = "for cupy"
    memory = types.SimpleNamespace(change_current_allocator=lambda allocator: calls.append(("torch", allocator)))
    modules["torch"].cuda = types.SimpleNamespace(memory=memory)
    modules["cupy"].cuda = types.SimpleNamespace(set_allocator=lambda allocator: calls.append(("cupy", allocator)))
    for name, fake in modules.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(plugins, "parse_device_bytes", lambda size, alignment_size: size and 1 << 30)
    monkeypatch.setattr(plugins, "get_rmm_log_file_name", lambda *arguments: None)
    monkeypatch.setattr(gpu_memory, "find_spec", lambda name: name)
    options = gpu_memory.pool_options()
    plugins.RMMSetup(
        initial_pool_size=options["rmm_pool_size"],
        maximum_pool_size=None,
        managed_memory=False,
        async_alloc=False,
        release_threshold=None,
        log_directory=None,
        track_allocations=False,
        external_lib_list=options["rmm_allocator_external_lib_list"],
    ).setup()
    assert calls == [("pool", True), ("torch", "for torch"), ("cupy", "for cupy")]
