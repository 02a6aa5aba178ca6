"""The packages of the GPU extra: absent from a CPU install, importable without a GPU where they are there."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
CUDA = re.compile(r"cuda|nvidia|cupy|rmm|cuml|cudf|raft|-cu1\d\b|triton|nccl", re.IGNORECASE)
needs_cuml = pytest.mark.skipif(find_spec("cuml") is None, reason="cuML is not installed: pip install '.[gpu]'")


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found[0].lower().replace("_", "-")


def required(names: list[str]) -> set[str]:
    """Names of everything installed that these need; torch's own needs are those of its build, and left out."""
    seen: set[str] = set()
    waiting = [name_of(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name == "torch":
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for another platform or Python
        waiting += [name_of(need) for need in needs if "extra ==" not in need]
    return seen


def test_what_a_cpu_install_needs_has_no_cuda_package():
    names = required([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["minilm"]])
    assert {"dagster", "lancedb", "numba", "torch"} <= names
    assert [name for name in sorted(names) if CUDA.search(name)] == []


def test_a_cpu_build_of_torch_brings_no_cuda_package():
    import torch

    if torch.version.cuda:
        pytest.skip(f"this torch is a build for CUDA {torch.version.cuda}")
    needs = [name_of(need) for need in distribution("torch").requires or [] if "extra ==" not in need]
    # Builds for CPUs from some sources name triton or CUDA packages behind a marker that is false here.
    installed = [name for name in needs if CUDA.search(name) and find_distribution(name)]
    assert installed == []


def find_distribution(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def test_the_gpu_extra_asks_for_one_release_of_rapids_with_its_dask_parts():
    extra = [need for need in PROJECT["optional-dependencies"]["gpu"] if name_of(need) != "torch"]
    assert {re.search(r"==(\S+)", need)[1] for need in extra} == {"26.10.*"}  # type: ignore[index]
    assert any(need.startswith("cuml-cu13[dask]") for need in extra), "without it `import cuml.dask` fails"


def test_every_torch_that_is_allowed_has_streams_that_do_not_race():
    from dedup_assets.compute.device.join import RACE_FREE

    (torch,) = (need for need in PROJECT["dependencies"] if name_of(need) == "torch")
    assert tuple(map(int, torch.removeprefix("torch>=").split("."))) >= RACE_FREE


@needs_cuml
def test_cuml_imports_and_its_estimators_can_be_made_without_a_gpu():
    import cuml
    from cuml.cluster import KMeans as OneGpu
    from cuml.dask.cluster import KMeans
    from distributed import Client

    from dedup_assets.resources.centroids import _options

    assert cuml.__version__.startswith("26.")
    assert OneGpu(**_options(7, 3)).n_clusters == 7
    with Client(processes=False, n_workers=1, dashboard_address=None) as client:
        assert KMeans(client=client, **_options(7, 3)).kwargs["n_clusters"] == 7
