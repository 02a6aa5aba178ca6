"""Who fits the centroids, where, and what is cleaned up: control flow with stand-ins for GPUs and cuML."""

from __future__ import annotations

import importlib
import sys
import types
from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from dedup_assets.errors import DedupError
from dedup_assets.resources import centroids as module
from dedup_assets_tests.compute.vectors import make_vectors

SAMPLE = make_vectors("clustered", 200, 12, np.float16, 1)


class Client:
    """A Dask client whose workers are objects of this process."""

    def __init__(self, *reports: str) -> None:
        self.workers = {
            f"tcp://worker-{n}": SimpleNamespace(report=text, _raft_comm_state={}) for n, text in enumerate(reports)
        }
        self.calls: list[str] = []
        self.placed: list[str] = []
        self.cancelled: list[object] = []

    def run(self, function, *arguments):
        self.calls.append(function.__name__)
        if function is module.probe:
            return {name: worker.report for name, worker in self.workers.items()}
        return {name: function(*arguments, dask_worker=worker) for name, worker in self.workers.items()}

    def submit(self, function, *arguments, workers, pure, **options):
        assert pure is False
        self.calls.append(function.__name__)
        self.placed += workers
        if function is module.fit_centroids:
            assert options.pop("device") == "cuda"
        value = function(*arguments, **options)
        return SimpleNamespace(result=lambda: value)

    def cancel(self, futures):
        self.calls.append("cancel")
        self.cancelled += futures


class KMeans:
    """Takes what cuML's takes and returns the first rows."""

    made: ClassVar[list[KMeans]] = []
    broken = False

    def __init__(self, client=None, **options):
        self.client, self.options = client, options
        KMeans.made.append(self)

    def fit(self, rows):
        self.rows = np.concatenate(list(rows)) if self.client else rows
        if self.client:
            for worker in self.client.workers.values():
                nccl = SimpleNamespace(destroyed=0)
                nccl.destroy = lambda nccl=nccl: setattr(nccl, "destroyed", nccl.destroyed + 1)
                worker._raft_comm_state["new"] = {"nccl": nccl}
                worker.nccl = nccl
        if KMeans.broken:
            raise RuntimeError("NCCL error: unhandled system error")
        self.cluster_centers_ = 3 * self.rows[: self.options["n_clusters"]]
        return self


@pytest.fixture
def cuml(monkeypatch):
    """Modules that stand in for cuML, CuPy and dask.array."""
    modules = {
        name: types.ModuleType(name) for name in ("cuml", "cuml.cluster", "cuml.dask", "cuml.dask.cluster", "cupy")
    }
    modules["cuml.cluster"].KMeans = modules["cuml.dask.cluster"].KMeans = KMeans
    modules["cupy"].asarray, modules["cupy"].empty, modules["cupy"].zeros = np.asarray, np.empty, np.zeros
    arrays = types.ModuleType("dask.array")
    arrays.from_delayed = lambda future, shape, dtype, meta: future.result()
    arrays.concatenate = lambda parts: parts
    for name, fake in modules.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setitem(sys.modules, "dask.array", arrays)
    monkeypatch.setattr("dask.array", arrays, raising=False)
    monkeypatch.setattr(KMeans, "made", [])
    monkeypatch.setattr(KMeans, "broken", False)


def assert_unit(found: np.ndarray, cells: int) -> None:
    assert found.shape == (cells, 12) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("reports", [("cuml", "no driver"), ("torch finds no usable GPU",)])
def test_nothing_collective_starts_before_every_worker_is_fit(cuml, reports):
    client = Client(*reports)
    with pytest.raises(DedupError, match=rf"worker-{len(reports) - 1}: {reports[-1]}.*--device cpu"):
        module.fit_on_gpus(client, SAMPLE, 8, 0)
    assert client.calls == ["probe"] and not KMeans.made


def test_without_a_worker_the_error_says_so():
    with pytest.raises(DedupError, match="No Dask worker"):
        module.fit_on_gpus(Client(), SAMPLE, 8, 0)


def test_one_gpu_fits_alone(cuml):
    client = Client("cuml")
    found, fitted_with = module.fit_on_gpus(client, SAMPLE, 8, 5)
    assert_unit(found, 8)
    assert fitted_with == "cuml on one GPU" and client.placed == ["tcp://worker-0"]
    (model,) = KMeans.made
    assert model.client is None and model.options["n_clusters"] == 8 and model.options["random_state"] == 5
    np.testing.assert_allclose(np.linalg.norm(model.rows, axis=1), 1, atol=1e-5)


def test_several_gpus_fit_together_each_on_its_own_part(cuml, monkeypatch):
    monkeypatch.setattr(module, "probe", lambda: "cuml")
    client = Client("cuml", "cuml", "cuml")
    found, fitted_with = module.fit_on_gpus(client, SAMPLE, 8, 0)
    assert_unit(found, 8)
    assert fitted_with == "cuml"
    assert client.placed == ["tcp://worker-0", "tcp://worker-1", "tcp://worker-2"]
    (model,) = KMeans.made
    assert model.client is client and len(model.rows) == len(SAMPLE)
    assert len(client.cancelled) == 3


@pytest.fixture
def by_torch(monkeypatch):
    """torch fits on CPU tensors in the place of a GPU, or fails as told; gives the devices that were asked."""
    fit, asked = module.fit_centroids, []

    def fit_centroids(sample, cells, seed, device="cuda"):  # the client below leaves it out
        asked.append(device)
        if device in fit_centroids.broken:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return fit(sample, cells, seed, device="cpu")

    fit_centroids.broken, fit_centroids.asked = (), asked
    monkeypatch.setattr(module, "fit_centroids", fit_centroids)
    return fit_centroids


@pytest.mark.parametrize("reports", [("cuml",), ("cuml", "cuml")])
def test_where_cuml_fails_torch_fits_and_it_is_said_once(cuml, by_torch, reports, monkeypatch, capsys):
    monkeypatch.setattr(module, "probe", lambda: "cuml")
    monkeypatch.setattr(KMeans, "broken", True)
    found, fitted_with = module.fit_on_gpus(Client(*reports), SAMPLE, 8, 0)
    assert_unit(found, 8)
    assert fitted_with == "torch" and by_torch.asked == ["cuda"]
    said = capsys.readouterr().err
    assert said.count("NCCL error: unhandled system error") == said.count("\n") == 1


def test_where_the_gpu_fails_too_the_cpu_fits(cuml, by_torch, monkeypatch, capsys):
    monkeypatch.setattr(module, "probe", lambda: "cuml")
    monkeypatch.setattr(KMeans, "broken", True)
    by_torch.broken = ("cuda",)
    found, fitted_with = module.fit_on_gpus(Client("cuml"), SAMPLE, 8, 0)
    assert_unit(found, 8)
    assert fitted_with == "torch on the CPU" and by_torch.asked == ["cuda", "cpu"]
    assert "no kernel image" in capsys.readouterr().err


def test_after_a_failed_fit_nothing_is_left_behind(cuml, by_torch, monkeypatch):
    monkeypatch.setattr(module, "probe", lambda: "cuml")
    monkeypatch.setattr(KMeans, "broken", True)
    client = Client("cuml", "cuml")
    for worker in client.workers.values():
        worker._raft_comm_state["another's"] = {"nccl": None}
    module.fit_on_gpus(client, SAMPLE, 8, 0)
    assert len(client.cancelled) == 2
    for worker in client.workers.values():
        assert list(worker._raft_comm_state) == ["another's"] and worker.nccl.destroyed == 1


def test_cleaning_up_does_not_hide_why_the_fit_failed(cuml, by_torch, monkeypatch, capsys):
    monkeypatch.setattr(module, "probe", lambda: "cuml")
    monkeypatch.setattr(KMeans, "broken", True)

    class Dying(Client):
        def cancel(self, futures):
            raise OSError("connection lost")

    module.fit_on_gpus(Dying("cuml", "cuml"), SAMPLE, 8, 0)
    said = capsys.readouterr().err
    assert "NCCL error" in said and "connection lost" not in said


def test_a_small_corpus_starts_neither_cuml_nor_a_gpu(monkeypatch):
    kmeans_centroids = importlib.import_module("dedup_assets.assets.kmeans_centroids")  # not the asset of that name

    class Cluster:
        def resolved_device(self):
            return "cuda"

        def all_cores(self):
            return nullcontext()

        def watching(self, work):
            raise AssertionError("a GPU was asked")

    rows = make_vectors("clustered", 100, 12, np.float16, 1)
    table = SimpleNamespace(sample=lambda count, seed: rows[:count])
    monkeypatch.setattr(kmeans_centroids, "open_table", lambda workspace: table)
    workspace = SimpleNamespace(settings=SimpleNamespace(seed=0))
    found, facts = kmeans_centroids._fitted(workspace, Cluster(), 100, 1)
    assert_unit(found, 1)
    assert facts == {"sample": 48, "fitted_with": "torch"}


@pytest.mark.parametrize("reports", [("torch",), ("cuml", "torch")])
def test_without_cuml_everywhere_torch_fits_on_one_gpu(reports, monkeypatch):
    fit = module.fit_centroids
    fitted = []

    def fit_centroids(sample, cells, seed, device="cuda"):
        fitted.append(cells)
        return fit(sample, cells, seed, device="cpu:0")

    monkeypatch.setattr(module, "fit_centroids", fit_centroids)
    client = Client(*reports)
    found, fitted_with = module.fit_on_gpus(client, SAMPLE, 8, 0)
    assert_unit(found, 8)
    assert fitted_with == "torch" and fitted == [8] and client.placed == ["tcp://worker-0"]


@pytest.mark.parametrize("here", ["torch", "torch finds no usable GPU"])
def test_a_client_without_cuml_leaves_the_fit_to_torch(cuml, here, monkeypatch):
    monkeypatch.setattr(module, "probe", lambda: here)
    monkeypatch.setattr(module, "fit_centroids", lambda sample, cells, seed, device="": np.eye(cells, 12))
    client = Client("cuml", "cuml")
    assert module.fit_on_gpus(client, SAMPLE, 4, 0)[1] == "torch"


def test_few_rows_and_zero_rows_do_not_reach_cuml(cuml, monkeypatch):
    monkeypatch.setattr(module, "fit_centroids", lambda sample, cells, seed, device="": np.eye(cells, 12))
    sample = SAMPLE[:18].copy()
    sample[:4] = 0
    assert module.fit_on_gpus(Client("cuml"), sample, 8, 0)[1] == "torch"
    assert module.fit_on_gpus(Client("cuml"), sample, 7, 0)[1] == "cuml on one GPU"
    assert len(KMeans.made[0].rows) == 14


def test_a_mean_without_direction_is_replaced():
    found = module._unit(np.array([[0.0, 0, 0], [0, 2, 0], [np.nan, 1, 0]]))
    assert found.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_a_probe_says_what_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert module.probe() == "torch finds no usable GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda n, device: np.float64(n))
    monkeypatch.setitem(sys.modules, "cuml.dask.cluster", None)  # what a missing module looks like
    assert module.probe() == "torch"

    def broken(n, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch, "ones", broken)
    assert module.probe().startswith("its GPU does not work: CUDA error: no kernel image")


def test_a_probe_needs_cuml_and_a_cupy_that_works(cuml, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda n, device: np.float64(n))
    assert module.probe() == "cuml"

    def insufficient(n):
        raise RuntimeError("cudaErrorInsufficientDriver")

    monkeypatch.setattr(sys.modules["cupy"], "zeros", insufficient)
    assert module.probe() == "CuPy cannot use its GPU: cudaErrorInsufficientDriver"
