"""A curated workspace to tamper with, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, write_shards
from dedup_assets_tests.checks.examined import SIZES, THRESHOLD


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curation of three shards, one row of which is quarantined."""
    folder = tmp_path_factory.mktemp("curated")
    tables = corpus("clustered", SIZES, seed=40)
    tables[1] = pa.concat_tables([tables[1], tables[1].slice(3, 1)])  # an id that is taken
    curate(write_shards(folder / "in", tables), folder / "ws", threshold=THRESHOLD)
    return folder / "ws"


@pytest.fixture
def space(curated: Path, tmp_path: Path) -> Workspace:
    """A copy of the curation to tamper with."""
    shutil.copytree(curated, tmp_path / "ws", symlinks=True)
    return Workspace.open(tmp_path / "ws")
