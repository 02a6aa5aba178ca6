"""A folder of tiny shards that records all their contents: a random walk changes it, and the verdict uses it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dedup_assets.ingest.source_files import SourceFile, content_fingerprint

OPTIONS = {"embedding_column": "v", "floor": 0.8, "threshold": 0.9}
"""Vectors come with the rows, so that no model is loaded."""

_CLUSTERS, _TEXTS, _DIMENSION = 8, 48, 6
_LONG_AGO = 1_700_000_000


@dataclass
class World:
    """The folder. Texts are drawn from a few, each with one vector, so that shards share equal and similar texts; a few
    ids are in many shards.

    Attributes
    ----------
    seen : mapping
        All contents of each shard's file, by content fingerprint.
    now : mapping
        The fingerprint of the current content, by shard.
    broken : set of str
        Shards whose file is currently unreadable.
    """

    folder: Path
    seed: int
    seen: dict[tuple[str, str], bytes] = field(default_factory=dict)
    now: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    _written: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        rng = np.random.default_rng([self.seed, 1])
        centres = rng.normal(size=(_CLUSTERS, _DIMENSION))
        vectors = centres[rng.integers(0, _CLUSTERS, _TEXTS)] + rng.normal(size=(_TEXTS, _DIMENSION)) * 0.25
        self._texts = [(f"text {n} " + "x" * (n % 5), v.round(3).tolist()) for n, v in enumerate(vectors)]

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.jsonl"

    def write(self, key: str, rng: np.random.Generator, broken: bool = False) -> None:
        """Write new content to a shard's file."""
        self._written += 1
        rows = []
        for n in range(int(rng.integers(3, 10))):
            text, vector = self._texts[int(rng.integers(0, _TEXTS))]
            shared = rng.random() < 0.1
            name = f"shared{int(rng.integers(0, 4))}" if shared else f"{key}.{self._written}.{n}"
            rows.append({"id": name, "text": text, "v": vector})
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if broken:
            content = b'{"id": "cut off", ' + str(self._written).encode()
        path = self.path(key)
        path.write_bytes(content)
        # An old and distinct modification time: settled files that differ are read.
        os.utime(path, (_LONG_AGO + self._written * 60,) * 2)
        fingerprint = content_fingerprint(SourceFile(key, str(path), "jsonl", None))
        self.now[key] = fingerprint
        self.broken.discard(key)
        if broken:
            self.broken.add(key)
        else:
            self.seen[key, fingerprint] = content

    def remove(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)
        self.now.pop(key, None)
        self.broken.discard(key)
