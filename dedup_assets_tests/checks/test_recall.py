"""Measured recall: what brute force finds, what a sample is, and what is missed when matches are lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dedup_assets.checks import recall
from dedup_assets.checks.scope import Scope
from dedup_assets.compute.text import hash_texts
from dedup_assets.errors import DedupError
from dedup_assets.storage.embeddings import EmbeddingTable
from dedup_assets.storage.ledger import Admission
from dedup_assets.storage.shards import AdmittedShard, read_records, text_keys
from dedup_assets.storage.tables import write_pairs
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, make_table, write_shards
from dedup_assets_tests.checks.examined import THRESHOLD, decisions, examine, failed


def test_what_brute_force_counts_is_what_every_pair_gives(space: Workspace) -> None:
    measured = examine(space)["pairwise_similarities: recall_is_one"].numbers
    vectors: dict[bytes, np.ndarray] = {}
    kept_texts: set[bytes] = set()
    table = EmbeddingTable(space.lancedb, 16, "float16")
    for a in space.ledger.live_admissions():
        records = read_records(space.raw(a.shard, a.fingerprint))
        stored = table.vectors(a.shard, records.hashes)
        decided = pq.read_table(decisions(space, a.shard))
        kept_rows = set(decided.filter(decided["kept"])["row"].to_pylist())
        for row, text, vector in zip(records.rows.tolist(), records.hashes, stored, strict=True):
            vectors[text.tobytes()] = vector.astype(np.float64)
            if row in kept_rows:
                kept_texts.add(text.tobytes())
    texts = list(vectors)
    wide = np.stack([vectors[text] for text in texts])
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    match = wide @ wide.T >= THRESHOLD
    np.fill_diagonal(match, False)
    is_kept = np.array([text in kept_texts for text in texts])
    assert measured["matches_by_brute_force"] == int(match[:, is_kept].sum()) > 0


def test_a_pair_that_is_dropped_before_deciding_is_missed_and_both_kept_records_are_named(tmp_path: Path) -> None:
    vectors = np.eye(8)[:6]
    vectors[4] = [1, 0.2, 0, 0, 0, 0, 0, 0]
    tables = [
        make_table(["a0", "a1", "a2"], ["x0", "x1", "x2"], vectors[:3]),
        make_table(["b0", "b1", "b2"], ["y0", "y1", "y2"], vectors[3:]),
    ]
    paths = write_shards(tmp_path / "in", tables)
    curate(paths, tmp_path / "ws", threshold=0.95)
    space = Workspace.open(tmp_path / "ws")
    assert failed(examine(space)) == set()
    pairs = space.pairs(space.ledger.live_admissions()[1])
    assert pq.read_metadata(pairs).num_rows == 1
    write_pairs(pairs, iter([pq.read_table(pairs).slice(0, 0)]))
    missed = examine(space)["pairwise_similarities: recall_is_one"]
    # b1 was decided before the pair went, so only its record is missed.
    assert [entry.partition(",")[0] for entry in missed.offending] == ["b1 and a0"]

    # Decided again, from what is left of the pairs: the result is published, and does not pass for a good one.
    with pytest.raises(
        DedupError, match=r"published, but.*\n  duplicate_ids: kept_do_not_match: 2 .*\n.*dedup-assets audit"
    ):
        curate([], tmp_path / "ws", threshold=0.951)
    findings = examine(space)
    assert failed(findings) == {"pairwise_similarities: recall_is_one", "duplicate_ids: kept_do_not_match"}
    numbers = findings["pairwise_similarities: recall_is_one"].numbers
    assert (numbers["missed_matches"], numbers["measured_recall"]) == (2, 0.0)  # the pair is seen from either side
    for finding in findings.values():
        assert finding.passed or {entry.partition(",")[0] for entry in finding.offending} == {"a0 and b1", "b1 and a0"}
    # After a run the sample is of its shards, and what they are compared with is the corpus.
    assert failed(examine(space, ["s01"])) == failed(findings) == failed(examine(space, ["s00"]))


def test_a_file_of_matches_that_is_gone_is_missed(space: Workspace) -> None:
    space.pairs(space.ledger.live_admissions()[2]).unlink()
    finding = examine(space)["pairwise_similarities: recall_is_one"]
    assert not finding.passed and len(finding.offending) == finding.numbers["missed_matches"] > 0
    assert 0 < finding.numbers["measured_recall"] < 1


@pytest.mark.parametrize("dense_limit", [1, 0])
def test_matches_inside_dense_cells_count_as_found(tmp_path: Path, dense_limit: int) -> None:
    paths = write_shards(tmp_path / "in", corpus("boilerplate", (300, 200), seed=41))
    curate(paths, tmp_path / "ws", threshold=0.9, dense_limit=dense_limit)
    space = Workspace.open(tmp_path / "ws")
    listed = sum(pq.read_metadata(path).num_rows for path in (space.root / "pairs").iterdir())
    finding = examine(space)["pairwise_similarities: recall_is_one"]
    assert finding.passed and finding.numbers["matches_by_brute_force"] > 500
    if dense_limit:
        assert listed < finding.numbers["matches_by_brute_force"], "nothing is dense: the test proves less"
        for path in (space.root / "pairs").iterdir():  # the names of the dense cells go
            write_pairs(path, iter([pq.read_table(path).replace_schema_metadata()]))
        assert not examine(space)["pairwise_similarities: recall_is_one"].passed


@pytest.mark.parametrize(("most_texts", "most_shards"), [(40, 32), (1000, 2), (30, 2)])
def test_a_run_compares_its_sample_with_some_of_a_large_corpus_and_in_time_with_all_of_it(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, most_texts: int, most_shards: int
) -> None:
    monkeypatch.setattr(recall, "RUN_TEXTS", most_texts)
    monkeypatch.setattr(recall, "RUN_SHARDS", most_shards)
    whole, run = (examine(space, shards)["pairwise_similarities: recall_is_one"] for shards in (None, ["s01"]))
    assert whole.numbers["compared_with_texts"] == whole.numbers["stored_texts"] > 100
    assert 10 < run.numbers["compared_with_texts"] < min(2 * most_texts, 120) and run.passed
    table = EmbeddingTable(space.lancedb, 16, "float16")
    blocks = []
    for last in range(60):  # as if so many shards had come since
        scope = Scope(space, ["s01"])
        assert scope.published is not None
        a = scope.published.admissions["s02"]
        scope.published.admissions["s02"] = dataclasses.replace(a, number=a.number + last)
        found = list(recall._blocks(scope, table, scope.published))
        blocks.append({h.tobytes() for hashes, _, _ in found for h in hashes})
        shards = {shard for _, owners, _ in found for shard in owners.to_pylist()}
        assert "s01" in shards and len(shards) <= most_shards
    assert len(set().union(*blocks)) == whole.numbers["stored_texts"]


def test_the_sample_is_the_same_each_time_and_has_the_size_that_is_asked_for(space: Workspace) -> None:
    counts = {"a": 10, "b": 0, "c": 1000}
    drawn = [Scope(space, sample=30).choose(counts) for _ in range(2)]
    assert all((drawn[0][shard] == drawn[1][shard]).all() for shard in counts if shard in drawn[0])
    assert sum(map(len, drawn[0].values())) == 30 and "b" not in drawn[0]
    every = Scope(space, sample=5000).choose(counts)
    assert [every["a"].tolist(), every["c"].tolist()] == [list(range(10)), list(range(1000))]
    assert Scope(space, sample=7).choose({}) == {}


def test_copies_of_a_text_are_no_match_and_its_kept_record_stands_for_it(space: Workspace) -> None:
    a = space.ledger.live_admissions()[0]
    keys = AdmittedShard.read(space.admitted(a)).record_texts
    assert len(np.unique(keys)) < len(keys), "no copies: the test proves nothing"
    assert examine(space, ["s00"], sample=1000)["duplicate_ids: kept_do_not_match"].passed


@pytest.mark.parametrize("name", ["LiveTexts", "DecisionStore"])
def test_a_shard_that_is_admitted_while_kept_texts_are_looked_up_is_none_of_them(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = [a.shard for a in space.ledger.live_admissions()]
    new = hash_texts(["new with a shard that is admitted at this moment"])
    made = getattr(recall, name)

    def then_admitted(*arguments: Any) -> Any:
        found = made(*arguments)
        if [a.shard for a in space.ledger.live_admissions()] == before:
            a = Admission(9, "late", "content", 1, 1, 1)
            key = text_keys(a.number, np.zeros(1, np.int64))
            AdmittedShard(key, np.zeros(1, np.int64), new, hash_texts(["id"])).write(space.admitted(a))
            space.ledger.admit([a], [], "cluster_partitions", "run")
        return found

    monkeypatch.setattr(recall, name, then_admitted)
    assert recall._KeptTexts(space, 1)(new, ["late"]).tolist() == [-1]
    assert [a.shard for a in space.ledger.live_admissions()] == [*before, "late"]
