"""A watched folder and its workspace, surveyed as by the sensor, at times chosen by a test."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import dedup_assets as da
from dedup_assets.corpus.arrival import Memory, Survey, survey
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import make_table

INTERVAL = 30


class Watched:
    """A folder, a workspace that watches it, and the memory of the surveys."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.folder = root / "in"
        self.folder.mkdir()
        options = {"sources": [str(self.folder)], "watch_seconds": INTERVAL, "embedding_column": "vector"} | options
        self.space = Workspace.create_or_open(root / "ws", options)
        self.memory: Memory = {}
        self.now = time.time()

    def write(self, name: str, first: int, count: int = 6, age: float = 1000.0) -> Path:
        """A shard of dissimilar records, numbered from `first`, last modified `age` seconds ago."""
        numbers = range(first, first + count)
        vectors = [np.random.default_rng(n).normal(size=16) for n in numbers]
        path = self.folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(make_table([f"r{n}" for n in numbers], [f"text {n}" for n in numbers], vectors), path)
        self.age(path, age)
        return path

    def age(self, path: Path, seconds: float) -> None:
        os.utime(path, (self.now - seconds, self.now - seconds))

    def look(self, in_flight: Collection[str] = (), idle: bool = True, pass_seconds: float = INTERVAL) -> Survey:
        """Survey once, and let time pass."""
        found = survey(Workspace.open(self.space.root), self.memory, in_flight, idle=idle, now=self.now)
        self.memory = found.memory
        self.now += pass_seconds
        return found

    def curate(self) -> None:
        """Curate the files of the folder, as a run would."""
        da.curate(self.folder, workspace=self.space.root)


def due(found: Survey) -> list[str]:
    return [entry.file.key for entry in found.due]
