"""In memory and in a workspace the same is decided, and records in memory can be held against a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.errors import DedupError
from dedup_assets_tests.compute.vectors import make_vectors

SENTENCES = [
    "How do I reset my password?",
    "how can I reset my password",
    "How do I reset my password?",
    "The weather is lovely today.",
    "What a lovely day, the weather is great.",
    "  ",
    "Where is the nearest train station?",
    "Where can I find the closest train station?",
    "I forgot my password and need to reset it.",
    "Roses are red, violets are blue.",
    "Where is the nearest train station?",
    "  ",
    "zqxj wvkk",
]


def decided(workspace: Path) -> dict[int, tuple[int, float, str]]:
    """Removed rows of a workspace of one shard with keeper, similarity and kind."""
    removed = da.open_curation(workspace).removed.to_arrow().to_pylist()
    return {int(row["id"]): (int(row["keeper_id"]), row["similarity"], row["kind"]) for row in removed}


def in_memory(result: da.DeduplicationResult[Any]) -> dict[int, tuple[int, float, str]]:
    return {gone.index: (gone.keeper_index, gone.similarity, gone.kind) for gone in result.filtered}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    folder = tmp_path_factory.mktemp("sentences")
    table = pa.table({"id": range(len(SENTENCES)), "text": SENTENCES, "q": [n * 7 % 5 for n in range(len(SENTENCES))]})
    pq.write_table(table, folder / "a.parquet")
    da.curate(folder / "a.parquet", workspace=folder / "ws", threshold=0.8, floor=0.7, keep_empty=True, progress=False)
    return folder, table


def test_texts_are_decided_as_in_a_workspace_to_the_last_bit(sentences: tuple[Path, pa.Table]) -> None:
    folder, table = sentences
    result = da.deduplicate(table, threshold=0.8, progress=False)
    assert in_memory(result) == decided(folder / "ws")
    assert len(result.filtered) >= 5 and 0 < result.exact_ratio < result.duplicate_ratio
    stored = da.open_curation(folder / "ws").pairs.to_arrow().to_pylist()
    pairs = {frozenset((int(pair["id_a"]), int(pair["id_b"]))): pair["similarity"] for pair in stored}
    lower = result.rethreshold(0.7)
    assert {frozenset((p["a"], p["b"])): p["similarity"] for p in lower.pairs.to_pylist()} == pairs
    da.rethreshold(0.7, workspace=folder / "ws", progress=False)
    assert in_memory(lower) == decided(folder / "ws")
    da.rethreshold(0.8, workspace=folder / "ws", progress=False)


@pytest.mark.parametrize("keep", ["longest", "hard", "easy", "column:q", "column:q:asc"])
def test_every_order_keeps_the_records_that_a_workspace_keeps(tmp_path: Path, keep: str) -> None:
    vectors = make_vectors("clustered", 150, 16, np.float32, 3)
    texts = [f"text {n % 140}" + "x" * (n % 7) for n in range(150)]
    table = pa.table(
        {
            "id": range(150),
            "text": texts,
            "q": [None if n % 11 == 0 else n * 37 % 100 for n in range(150)],
            "v": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 16),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    da.curate(
        tmp_path / "a.parquet", workspace=tmp_path / "ws", threshold=0.9, keep=keep, embedding_column="v",
        vector_dtype="float32", progress=False,
    )  # fmt: skip
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    result = da.deduplicate(
        table, columns="text", vectors=unit.astype(np.float32), threshold=0.9, keep=keep, progress=False
    )
    wanted, found = decided(tmp_path / "ws"), in_memory(result)
    assert {row: (keeper, kind) for row, (keeper, _, kind) in found.items()} == {
        row: (keeper, kind) for row, (keeper, _, kind) in wanted.items()
    }
    assert len(found) > 50


def test_a_workspace_takes_what_it_keeps_out_of_records_in_memory(sentences: tuple[Path, pa.Table]) -> None:
    folder, _ = sentences
    texts = [SENTENCES[6], "Where's the nearest station for trains?", "A cake needs flour.", "A cake needs flour."]
    result = da.deduplicate(texts, against=folder / "ws", threshold=0.8, progress=False)
    assert result.selected == texts[2:], "duplicates among the records stay"
    exact, near = result.filtered
    assert (exact.kind, near.kind) == ("exact", "semantic") and exact.similarity == 1 and near.similarity >= 0.8
    assert exact.keeper == near.keeper == {"id": "6", "shard": "a"}
    # The same as with the kept texts themselves.
    kept = [row["text"] for row in da.open_curation(folder / "ws").kept]
    other = da.deduplicate(texts, against=kept, threshold=0.8, progress=False)
    assert [(gone.index, gone.similarity) for gone in other.filtered] == [(0, exact.similarity), (1, near.similarity)]
    assert result.explain(1).matches[0][1] == near.similarity
    assert result.rethreshold(0.99).selected == texts[1:]


def test_what_does_not_fit_a_workspace_is_refused(sentences: tuple[Path, pa.Table]) -> None:
    folder, table = sentences
    for options, message in (
        ({"model": "other"}, "Leave model out"),
        ({"vectors": np.ones((13, 384))}, "leave vectors out"),
        ({"columns": {"text": 1, "q": 1}}, "without weights"),
    ):
        with pytest.raises(DedupError, match=message):
            da.deduplicate(table, against=folder / "ws", progress=False, **options)  # type: ignore[arg-type]
