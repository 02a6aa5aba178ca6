"""A corpus that grows: append = batch, nothing decided changes, and nothing but the cost depends on how."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.encoder.encoder import EncodedTexts, Encoder
from dedup_assets.encoder.probe import texts_to_try
from dedup_assets.errors import DedupError
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets import oracle
from dedup_assets_tests.assets.corpora import (
    assert_same_tree,
    corpus,
    curate,
    leftovers,
    results,
    tree,
    write_shards,
)


def pair_set(curation: da.Curation) -> set[tuple[Any, ...]]:
    """The stored matches, in no order."""
    columns = curation.pairs.to_arrow().to_pydict()
    return set(zip(columns["id_a"], columns["id_b"], columns["similarity"], strict=True))


def times(folder: Path) -> dict[str, int]:
    """When each file was last written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("keep", ["first", "hard", "random"])
def test_shard_by_shard_gives_the_bytes_of_all_at_once_and_touches_no_earlier_file(tmp_path: Path, keep: str) -> None:
    # The first shard is tiny: the codebook is outgrown and refitted under way.
    paths = write_shards(tmp_path / "in", corpus("clustered", (4, 40, 120, 30), seed=10))
    options = {"threshold": 0.9, "keep": keep}
    for count, path in enumerate(paths):
        before = times((tmp_path / "steps" / "output" / "current").resolve())
        content = results(tmp_path / "steps" / "output")
        steps = curate([path], tmp_path / "steps", **options)
        after = times((steps.output / "current").resolve())
        assert {name: after[name] for name in content} == {name: before[name] for name in content}
        assert_same_tree({name: results(steps.output)[name] for name in content}, content)
        assert len(results(steps.output)) == 3 * (count + 1)
    ledger = Workspace.open(tmp_path / "steps").ledger
    assert ledger.codebook().number >= 3, "no refit: the corpus proves less"

    whole = curate(paths, tmp_path / "whole", **options)
    assert_same_tree(tree(steps.output), tree(whole.output))
    assert pair_set(steps) == pair_set(whole)
    assert not leftovers(tmp_path)


def test_cells_seed_and_workers_change_the_cost_and_not_one_byte_of_the_result(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("boilerplate", (90, 60, 90), seed=11))
    plain = curate(paths, tmp_path / "plain", threshold=0.95, floor=0.8)
    cells = {Workspace.open(tmp_path / "plain").ledger.codebook().cells}
    for name, options in {
        "one cell": {"clusters": 1},
        "few cells": {"clusters": 3},
        "many cells": {"clusters": 40},
        "processes": {"workers": 2, "clusters": 7},
    }.items():
        other = curate(paths, tmp_path / name, threshold=0.95, floor=0.8, **options)
        assert_same_tree(tree(other.output), tree(plain.output))
        assert pair_set(other) == pair_set(plain)
        cells.add(Workspace.open(tmp_path / name).ledger.codebook().cells)
    assert {1, 3, 7, 40} <= cells
    # The seed is part of the decision settings (keep = random uses it), so the manifest names another one.
    seeded = curate(paths, tmp_path / "seed", threshold=0.95, floor=0.8, seed=99)
    assert_same_tree(results(seeded.output), results(plain.output))


def test_the_number_of_cells_may_change_from_call_to_call(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", (50, 50, 50), seed=12))
    whole = curate(paths, tmp_path / "whole", threshold=0.9)
    for path, clusters in zip(paths, (9, 2, 25), strict=True):
        steps = curate([path], tmp_path / "steps", threshold=0.9, clusters=clusters)
        assert Workspace.open(tmp_path / "steps").ledger.codebook().cells == clusters
    assert_same_tree(tree(steps.output), tree(whole.output))


def test_shards_are_judged_in_the_order_of_admission_not_of_their_names(tmp_path: Path) -> None:
    tables = corpus("clustered", (40, 40), seed=13)
    paths = write_shards(tmp_path / "in", tables)
    curate(paths[1:], tmp_path / "ws", threshold=0.9)
    result = curate(paths, tmp_path / "ws")
    assert [a.shard for a in Workspace.open(tmp_path / "ws").ledger.admissions()] == ["s01", "s00"]
    known = oracle.read_corpus(tmp_path / "ws", tables[::-1])
    wanted = oracle.sequential(known, 0.9)
    kept = set(result.kept.to_arrow(["id"]).column("id").to_pylist())
    assert kept == {name for name, decision in wanted.items() if decision.keeper is None}


def test_curating_twice_does_nothing(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (30, 30)))
    first = curate(paths, tmp_path / "ws", threshold=0.9)
    assert first.summary["run_ids"]
    published = ("output", "pairs", "cells", "raw", "decisions", "admitted", "lancedb", "codebooks")
    before = {name: times(tmp_path / "ws" / name) for name in published}
    for again in (curate(paths, tmp_path / "ws"), da.curate(workspace=tmp_path / "ws")):
        assert again.summary["run_ids"] == [] and again.failures == {}
        assert all(stage["rows"] == 0 for stage in again.summary["stages"].values())
        same = ("shards", "rows_in", "kept", "removed_exact", "removed_semantic", "quarantined", "threshold")
        assert all(again.summary[name] == first.summary[name] for name in same)
    assert {name: times(tmp_path / "ws" / name) for name in published} == before


# -- with a model ------------------------------------------------------------------------------------


WORDS = ("river", "stone", "paper", "cloud", "engine", "garden", "winter", "signal")


def sentences(count: int) -> list[str]:
    """Short sentences, most of them near-copies of another, every seventh a copy."""
    texts = [
        f"The {a} stands near the {b}{'.' if n % 2 else '!'}"
        for n, (a, b) in enumerate(itertools.islice(itertools.permutations(WORDS, 2), count))
    ]
    for i in range(7, count, 7):
        texts[i] = texts[i - 5]
    return texts


def text_shards(folder: Path, texts: Sequence[str], sizes: Sequence[int]) -> list[Path]:
    """Shards with texts and no vectors."""
    ends = np.cumsum(sizes)
    tables = [
        pa.table({"id": [f"t{i}" for i in range(end - size, end)], "text": texts[end - size : end]})
        for size, end in zip(sizes, ends, strict=True)
    ]
    return write_shards(folder, tables)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text of a corpus that is given to an encoder: not those by which a model is tried out."""
    seen: list[str] = []
    encode = Encoder.encode

    def watched(encoder: Encoder, texts: Sequence[str]) -> EncodedTexts:
        tried = set(texts_to_try(encoder.max_length))
        seen.extend(text for text in texts if text not in tried)
        return encode(encoder, texts)

    monkeypatch.setattr(Encoder, "encode", watched)
    return seen


def test_batches_of_the_encoder_change_no_vector_and_no_text_is_embedded_twice(
    tmp_path: Path, encoded: list[str]
) -> None:
    texts = sentences(56)
    paths = text_shards(tmp_path / "in", texts, (5, 30, 21))
    for path in paths:
        steps = da.curate(path, workspace=tmp_path / "steps", threshold=0.9, batch_size=1)
    assert sorted(encoded) == sorted(set(texts))
    encoded.clear()

    whole = da.curate(*paths, workspace=tmp_path / "whole", threshold=0.9, batch_size=16)
    assert sorted(encoded) == sorted(set(texts))
    encoded.clear()

    stored = [oracle.stored_vectors(tmp_path / name) for name in ("steps", "whole")]
    assert stored[0].keys() == stored[1].keys() == {oracle.text_hash(text) for text in texts}
    assert all((stored[0][name] == stored[1][name]).all() for name in stored[0])
    assert_same_tree(tree(steps.output), tree(whole.output))
    assert whole.summary["removed_exact"] > 0 and whole.summary["removed_semantic"] > 0

    # The same texts under new ids, in another order: nothing is left to embed.
    again = pa.table({"id": [f"u{i}" for i in range(len(texts))], "text": texts[::-1]})
    pq.write_table(again, tmp_path / "in" / "s03.parquet")
    result = da.curate(tmp_path / "in" / "s03.parquet", workspace=tmp_path / "whole")
    assert encoded == []
    assert lancedb.connect(tmp_path / "whole" / "lancedb").open_table("embeddings").count_rows() == len(set(texts))
    assert result.summary["kept"] == whole.summary["kept"]


def test_a_text_is_embedded_once_even_if_a_shard_of_the_run_failed(tmp_path: Path, encoded: list[str]) -> None:
    texts = sentences(14)
    good = text_shards(tmp_path / "in", texts, (14,))
    bad = tmp_path / "in" / "s01.parquet"
    bad.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DedupError, match=r"s01\.parquet"):
        da.curate(*good, bad, workspace=tmp_path / "ws", threshold=0.9)
    pq.write_table(pa.table({"id": ["x", "y"], "text": [texts[0], "A sentence of its own."]}), bad)
    result = da.curate(*good, bad, workspace=tmp_path / "ws")
    assert sorted(encoded) == sorted({*texts, "A sentence of its own."})
    assert result.failures == {} and result.summary["shards"] == 2


def test_neither_a_re_curation_nor_the_return_of_a_shard_embeds_anything(tmp_path: Path, encoded: list[str]) -> None:
    texts = sentences(24)
    paths = text_shards(tmp_path / "in", texts, (10, 14))
    da.curate(*paths, workspace=tmp_path / "ws", threshold=0.9)
    assert sorted(encoded) == sorted(set(texts))
    encoded.clear()
    da.recurate(workspace=tmp_path / "ws")
    ledger = Workspace.open(tmp_path / "ws").ledger
    assert (ledger.codebook().number, ledger.generation().number, ledger.generation().rebuilt) == (2, 2, 2)
    da.retract("s00", workspace=tmp_path / "ws", reason="vanished")
    result = da.curate(paths[0], workspace=tmp_path / "ws")
    assert encoded == [] and result.summary["rows_in"] == 24
