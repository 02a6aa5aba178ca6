"""What is published is opened by the libraries that people read Parquet with, and files without a row too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets_tests.assets.corpora import make_table, write_shards

VECTORS = [[1.0, 0.0], [0.0, 1.0]]

READ_BY_DATASETS = """
import json, sys
import datasets
counts = {}
for part, files in json.load(sys.stdin).items():
    counts[part] = datasets.load_dataset("parquet", data_files=files, split="train").num_rows
json.dump(counts, sys.stdout)
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The files of an output in which one shard kept nothing, by their folder."""
    folder = tmp_path_factory.mktemp("published")
    shards = [
        make_table(["a", "b"], ["one text", "another text"], VECTORS, quality=[1, 2]),
        make_table(["c", "d"], ["one text", "another text"], VECTORS, quality=[3, 4]),  # copies: nothing is kept
        make_table(["e", "f"], ["a third", None], [[0.6, 0.8], [0.6, 0.8]], quality=[5, 6]),
    ]
    result = da.curate(*write_shards(folder / "in", shards), workspace=folder / "ws", embedding_column="vector")
    assert result.summary["kept"] == 3 and result.summary["removed_exact"] == 2
    found: dict[str, list[Path]] = {}
    for path in sorted(Path(result.output).rglob("*.parquet")):
        found.setdefault(path.parent.name, []).append(path)
    # Matches are the workspace's own, but people look at them too.
    found["pairs"] = sorted((folder / "ws" / "pairs").rglob("*.parquet"))
    return found


def rows(path: Path) -> int:
    return pq.read_metadata(path).num_rows


def test_some_files_are_empty_and_none_has_a_row_group_without_rows(published: dict[str, list[Path]]) -> None:
    assert {"deduplicated", "duplicates", "quarantine", "pairs"} <= set(published)
    for part in ("deduplicated", "duplicates", "quarantine"):
        assert any(rows(path) == 0 for path in published[part])
    for path in (path for files in published.values() for path in files):
        metadata = pq.read_metadata(path)
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        assert sum(groups) == metadata.num_rows and 0 not in groups


def test_pandas_polars_and_duckdb_read_them(published: dict[str, list[Path]]) -> None:
    for files in published.values():
        for path in files:
            assert len(pd.read_parquet(path)) == pl.read_parquet(path).height == rows(path)
            assert duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall() == [(rows(path),)]
        total = sum(map(rows, files))
        assert len(pd.concat(map(pd.read_parquet, files))) == total
        assert pl.read_parquet([str(path) for path in files]).height == total
        assert duckdb.sql(f"SELECT count(*) FROM read_parquet({[str(p) for p in files]})").fetchall() == [(total,)]


def test_hugging_face_datasets_read_them(published: dict[str, list[Path]], tmp_path: Path) -> None:
    # It has no dataset without a row: an empty file is read among others, as a folder is.
    given = {part: [str(path) for path in files] for part, files in published.items() if sum(map(rows, files))}
    assert any(rows(Path(path)) == 0 for path in given["deduplicated"])
    done = subprocess.run(
        [sys.executable, "-c", READ_BY_DATASETS],
        input=json.dumps(given),
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {part: sum(map(rows, published[part])) for part in given}


def test_ids_of_whole_numbers_keep_their_type_and_join_with_the_input(tmp_path: Path) -> None:
    texts = ["one", "two", "one"]
    numbers = make_table([10, 20, 30], texts, [*VECTORS, VECTORS[0]])
    more = make_table([40, 50], ["two", "five"], [VECTORS[1], [0.6, 0.8]])
    paths = write_shards(tmp_path / "in", [numbers, more])
    result = da.curate(*paths, workspace=tmp_path / "ws", embedding_column="vector")
    removed = result.removed.to_pandas()
    assert removed["id"].tolist() == [30, 40] and removed["keeper_id"].tolist() == [10, 20]
    whole = pd.concat(map(pd.read_parquet, paths))
    assert whole.merge(removed, on="id")["text"].tolist() == ["one", "two"]
    assert pl.concat(map(pl.read_parquet, paths)).join(pl.DataFrame(result.removed), on="id").height == 2
    assert all(check.passed for check in da.audit(workspace=tmp_path / "ws"))
    # A shard whose ids are text: there, and where a keeper is of it, ids are text.
    words = make_table(["a", "b"], ["five", "six"], [[0.6, 0.8], [-1.0, 0.0]])
    last = make_table([60, 70], ["six", "one"], [[-1.0, 0.0], VECTORS[0]])
    paths += write_shards(tmp_path / "more", [words, last])
    moved = [path.rename(path.with_name(f"m{path.name}")) for path in paths[2:]]
    result = da.curate(*moved, workspace=tmp_path / "ws")
    folder = Path(result.output) / "current" / "duplicates"
    kinds = [
        [str(pq.read_schema(folder / f"{name}.parquet").field(part).type) for part in ("id", "keeper_id")]
        for name in ("s00", "ms00", "ms01")
    ]
    assert kinds == [["int64", "int64"], ["string", "int64"], ["int64", "string"]]
    assert result.removed["id"].to_pylist() == ["a", "60", "70", "30", "40"]
    assert all(check.passed for check in da.audit(workspace=tmp_path / "ws"))
