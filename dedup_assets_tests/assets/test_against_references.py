"""Held against references alone, the corpus loses what stands in one of them, and nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import dedup_assets as da
from dedup_assets.compute.similarity import canonical_similarity
from dedup_assets.lookups.measures import removals_by_threshold
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets import oracle
from dedup_assets_tests.assets.corpora import assert_same_tree, corpus, tree, write_shards

THRESHOLD = 0.95


def expected(workspace: Path, shards: list[pa.Table], references: list[pa.Table]) -> dict[str, float | None]:
    """For each record of the corpus the similarity at which a reference removes it, None where it stays."""
    stored = oracle.stored_vectors(workspace)
    theirs = [text for table in references for text in table["text"].to_pylist()]
    vectors = np.stack([stored[oracle.text_hash(text)] for text in theirs])
    found: dict[str, float | None] = {}
    for table in shards:
        for name, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
            own = np.repeat(stored[oracle.text_hash(text)][None], len(vectors), axis=0)
            best = 1.0 if text in theirs else float(canonical_similarity(own, vectors).max())
            found[name] = best if best >= THRESHOLD else None
    return found


def assert_as_expected(result: da.Curation, wanted: dict[str, float | None]) -> None:
    assert sorted(result.kept["id"].to_pylist()) == sorted(name for name, s in wanted.items() if s is None)
    removed = {row["id"]: row for row in result.removed}
    assert {name: row["similarity"] for name, row in removed.items()} == {
        name: s for name, s in wanted.items() if s is not None
    }
    assert all(row["keeper_shard"].startswith("ref") for row in removed.values())
    assert [check.name for check in da.audit(workspace=result.workspace) if not check.passed] == []
    space = Workspace.open(result.workspace)
    generation = space.ledger.generation()
    assert generation is not None
    curve = removals_by_threshold(space, generation)
    at = int(np.flatnonzero(curve.thresholds == THRESHOLD)[0])
    assert curve.removed[at] == len(removed) and curve.identical == sum(s["kind"] == "exact" for s in removed.values())


@pytest.mark.parametrize(("kind", "dense_limit"), [("clustered", 0), ("boilerplate", 1)])
def test_only_references_remove_whatever_the_order_and_the_cells(kind: str, dense_limit: int, tmp_path: Path) -> None:
    tables = corpus(kind, (60, 70, 50, 40), seed=11)
    # A few texts of a reference stand in the corpus letter by letter.
    paths = write_shards(tmp_path / "in", tables)
    for path, name in zip(paths[2:], ("ref0", "ref1"), strict=True):
        path.rename(path.with_name(f"{name}.parquet"))
    late = [tmp_path / "in" / "ref0.parquet", tmp_path / "in" / "ref1.parquet"]
    options = {"embedding_column": "vector", "against": "references", "threshold": THRESHOLD, "floor": 0.8}
    options |= {"dense_limit": dense_limit, "clusters": 3, "progress": False}

    first = tmp_path / "first"
    da.curate(*late, workspace=first, role="reference", **options)
    for path in paths[:2]:
        result = da.curate(path, workspace=first, progress=False)
    wanted = expected(first, tables[:2], tables[2:])
    assert 0 < sum(s is not None for s in wanted.values()) < len(wanted)
    assert any(s == 1.0 for s in wanted.values())
    texts = [text for table in tables[:2] for text in table["text"].to_pylist()]
    assert len(set(texts)) < len(texts) and len(set(result.kept["text"].to_pylist())) < len(result.kept)
    assert_as_expected(result, wanted)

    # A reference that comes late, in another workspace, decides the same.
    last = tmp_path / "last"
    da.curate(*paths[:2], workspace=last, **options)
    assert da.open_curation(last).summary["removed_semantic"] == 0
    result = da.curate(*late, workspace=last, role="reference", progress=False)
    assert_as_expected(result, wanted)
    # And so does the order of a rebuild.
    assert_as_expected(da.recurate(workspace=last, progress=False), wanted)


def test_the_setting_may_change_and_back_and_the_default_leaves_generations_as_they_were(tmp_path: Path) -> None:
    tables = corpus("clustered", (60, 40), seed=12)
    paths = write_shards(tmp_path / "in", tables)
    ref = paths[1].rename(paths[1].with_name("ref.parquet"))
    options = {"threshold": THRESHOLD, "floor": 0.8, "embedding_column": "vector", "progress": False}
    da.curate(ref, workspace=tmp_path / "ws", role="reference", **options)
    whole = da.curate(paths[0], workspace=tmp_path / "ws", progress=False)
    before = tree(whole.published / "deduplicated")
    narrow = da.curate(workspace=tmp_path / "ws", against="references", progress=False)
    assert_as_expected(narrow, expected(tmp_path / "ws", tables[:1], tables[1:]))
    assert narrow.summary["kept"] > whole.summary["kept"]
    again = da.curate(workspace=tmp_path / "ws", against="everything", progress=False)
    assert_same_tree(tree(again.published / "deduplicated"), before)
    # What was decided before the setting came keeps its name.
    later = ("against", "guards")
    without = {name: value for name, value in da.Settings().layer("decisions").items() if name not in later}
    named = hashlib.blake2b(json.dumps(without, sort_keys=True).encode(), digest_size=16).hexdigest()
    assert da.Settings().fingerprint("decisions") == named
    assert da.Settings(against="references").fingerprint("decisions") != named
