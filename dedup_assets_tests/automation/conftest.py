"""A curated workspace that tests may change, made once for each module."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import dedup_assets as da
from dedup_assets_tests.automation.shards import write_shard


@pytest.fixture(scope="module")
def curated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with three shards, or the module's `SHARDS`, and their curation, and a copy of it."""
    folder = tmp_path_factory.mktemp("curated") / "now"
    for name in getattr(request.module, "SHARDS", ("s01", "s02", "s03")):
        write_shard(folder / "in", name, f"a text of {name}", f"another one of {name}")
    da.curate(folder / "in", workspace=folder / "ws", embedding_column="v", progress=False)
    return folder, Path(shutil.copytree(folder, folder.with_name("before"), symlinks=True))


@pytest.fixture
def ws(curated: tuple[Path, Path]) -> Path:
    """The shards, curated. The workspace keeps its path, because its names in Dagster depend on that."""
    folder, before = curated
    shutil.rmtree(folder)
    shutil.copytree(before, folder, symlinks=True)
    return folder / "ws"
