"""Small corpora as Parquet shards, and the files of a curation. Vectors come with the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import dedup_assets as da

KINDS = ("random", "clustered", "boilerplate")


def make_table(ids: Sequence[Any], texts: Sequence[Any], vectors: Any, **columns: Any) -> pa.Table:
    """A shard; vectors as lists, so that rows can be null or of other lengths."""
    rows = [None if row is None else [float(x) for x in row] for row in vectors]
    given = {name: pa.array(values) for name, values in columns.items()}
    return pa.table({"id": pa.array(ids), "text": texts, "vector": pa.array(rows, pa.list_(pa.float32())), **given})


def corpus(kind: str, sizes: Sequence[int], *, seed: int = 0, dimension: int = 16) -> list[pa.Table]:
    """Shards `id, text, vector, quality`: every eighth record repeats a text of any shard before or its own.

    Vectors lie at random, around centres, or are near-copies of a few templates. Texts have many lengths,
    with ties; quality has ties and nulls.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    n = sum(sizes)
    vectors = rng.normal(size=(n, dimension))
    if kind == "clustered":
        centres = rng.normal(size=(max(1, n // 10), dimension))
        vectors = centres[rng.integers(0, len(centres), n)] + rng.uniform(0, 0.7, (n, 1)) * vectors
    elif kind == "boilerplate":
        centres = rng.normal(size=(3, dimension))
        vectors = centres[rng.integers(0, 3, n)] + rng.choice([0.0, 0.02, 0.1, 0.3], (n, 1)) * vectors
    elif kind == "random":
        vectors[:, dimension // 3 :] *= 0.2  # few directions dominate, so that some pairs are similar
    texts = [f"record {i} " + "x" * int(rng.integers(0, 9)) for i in range(n)]
    for i in range(8, n, 8):
        source = int(rng.integers(0, i))
        texts[i], vectors[i] = texts[source], vectors[source]
    quality = [None if rng.random() < 0.1 else int(q) for q in rng.integers(0, 5, n)]
    ends = np.cumsum(sizes)
    return [
        make_table(
            [f"r{i:04d}" for i in range(end - size, end)],
            texts[end - size : end],
            vectors[end - size : end],
            quality=pa.array(quality[end - size : end], pa.int64()),
        )
        for size, end in zip(sizes, ends, strict=True)
    ]


def write_shards(folder: Path, tables: Sequence[pa.Table]) -> list[Path]:
    """Write shards `s00.parquet`, `s01.parquet`, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"s{number:02d}.parquet" for number in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        pq.write_table(table, path)
    return paths


def curate(paths: Sequence[Path], workspace: Path, **options: Any) -> da.Curation:
    """Curate shards with vectors."""
    return da.curate(*paths, workspace=workspace, embedding_column="vector", **options)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def results(output: Path) -> dict[str, bytes]:
    """The published tables of the current generation."""
    current = tree((output / "current").resolve())
    return {name: data for name, data in current.items() if name.endswith(".parquet")}


def assert_same_tree(found: dict[str, bytes], wanted: dict[str, bytes]) -> None:
    """Byte for byte; the error names files, not bytes."""
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


def leftovers(folder: Path) -> list[str]:
    """Temporary names that should be gone."""
    return [str(path) for path in folder.rglob(".tmp-*")]


def kept_ids(curation: da.Curation) -> set[str]:
    """Ids of the kept records."""
    return set(curation.kept.to_arrow(["id"]).column("id").to_pylist())


def removals(curation: da.Curation) -> dict[str, tuple[str, float, str]]:
    """By id of each removed record: keeper, similarity, kind."""
    rows = curation.removed.to_arrow().to_pylist()
    return {row["id"]: (row["keeper_id"], row["similarity"], row["kind"]) for row in rows}
