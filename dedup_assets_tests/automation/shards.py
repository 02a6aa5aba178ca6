"""Small shards with vectors for the tests of Dagster."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def write_shard(folder: Path, name: str, *texts: str) -> Path:
    """A shard of some texts, each with a random vector that depends on the text alone."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    rng = [np.random.default_rng(list(text.encode())) for text in texts]
    rows = [
        {"id": f"{name}{i}", "text": text, "v": rng[i].normal(size=64).round(3).tolist()}
        for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
