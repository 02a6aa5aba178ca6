"""Every check passes on what a curation leaves, and fails when what it looks at is tampered with."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.checks import health, recall
from dedup_assets.checks.asset_checks import CHECKS, evaluated
from dedup_assets.checks.finding import Finding
from dedup_assets.checks.recall import BruteForce
from dedup_assets.checks.scope import Scope
from dedup_assets.errors import DedupError
from dedup_assets.storage.embeddings import EmbeddingTable
from dedup_assets.storage.output import published_generation
from dedup_assets.storage.shards import AdmittedShard, read_records
from dedup_assets.storage.tables import write_pairs
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, make_table, write_shards

THRESHOLD = 0.9
SIZES = (60, 40, 50)
SHARDS = ["s00", "s01", "s02"]

Findings = dict[str, Finding]


def examine(space: Workspace, shards: list[str] | None = None, sample: int = 0) -> Findings:
    """All checks by `asset: name`."""
    scope = Scope(Workspace.open(space.root), shards, sample)
    brute_force = BruteForce(scope)
    return {f"{check.asset}: {check.name}": evaluated(check, scope, brute_force) for check in CHECKS}


def failed(findings: Findings) -> set[str]:
    """Names of the checks that did not pass."""
    return {name for name, finding in findings.items() if not finding.passed}


@pytest.fixture(scope="module")
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


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a Parquet file in place. Published files may be hard links: the other name keeps its content."""
    table = change(pq.read_table(path))
    path.unlink()
    pq.write_table(table, path)


def published(space: Workspace, part: str, shard: str) -> Path:
    return space.output_generation(published_generation(space) or 0) / part / f"{shard}.parquet"


def decisions(space: Workspace, shard: str) -> Path:
    return space.decisions(published_generation(space) or 0, "records", shard)


def without(row: int) -> Callable[[pa.Table], pa.Table]:
    return lambda table: pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


def with_value(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    """The table with one value changed."""
    values = table.column(name).to_pylist()
    values[row] = value
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))


@pytest.mark.parametrize("shards", [None, ["s01"], ["s00", "s02"]])
def test_all_checks_pass_on_what_a_curation_left_and_say_what_they_looked_at(
    space: Workspace, shards: list[str] | None
) -> None:
    findings = examine(space, shards)
    assert failed(findings) == set()
    rows = {"s00": 60, "s01": 41, "s02": 50}
    wanted = sum(rows[shard] for shard in shards or SHARDS)
    counted = findings["deduplicated_dataset: rows_are_conserved"].numbers
    assert counted["rows"] == wanted == counted["kept"] + counted["removed"] + counted["quarantined"]
    measured = findings["pairwise_similarities: recall_is_one"].numbers
    assert measured["matches_by_brute_force"] > 0 and measured["missed_matches"] == 0
    assert measured["sampled_records"] == min(wanted - counted["quarantined"], 1000 if shards is None else 64)
    assert findings["duplicate_ids: removed_have_kept_keepers"].numbers["looked_at"] == min(
        counted["removed"], 1000 if shards is None else 64
    )


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


# -- rows, schema, ids -------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["deduplicated", "duplicates", "quarantine"])
def test_a_row_that_is_gone_from_a_published_file_is_missed(space: Workspace, part: str) -> None:
    rewrite(published(space, part, "s01"), without(0))
    findings = examine(space)
    assert "deduplicated_dataset: rows_are_conserved" in failed(findings)
    finding = findings["deduplicated_dataset: rows_are_conserved"]
    assert any(entry.startswith("s01: ") for entry in finding.offending)
    assert not any(entry.startswith(("s00: ", "s02: ")) for entry in finding.offending)
    assert finding.advice
    assert "deduplicated_dataset: rows_are_conserved" not in failed(examine(space, ["s00", "s02"]))


def test_one_changed_value_in_a_published_file_is_found_by_its_checksum(space: Workspace) -> None:
    rewrite(published(space, "deduplicated", "s00"), lambda t: with_value(t, "text", 0, "tampered"))
    finding = examine(space)["deduplicated_dataset: rows_are_conserved"]
    assert list(finding.offending) == ["s00: the content of deduplicated/s00.parquet is not what the manifest lists"]


def test_a_published_file_that_is_gone_or_cut_short_is_a_finding_and_no_crash(space: Workspace) -> None:
    path = published(space, "deduplicated", "s02")
    path.write_bytes(path.read_bytes()[:100])
    findings = examine(space)
    assert {"deduplicated_dataset: rows_are_conserved", "deduplicated_dataset: schema_and_ids"} <= failed(findings)
    assert "Could not be evaluated" in findings["deduplicated_dataset: schema_and_ids"].summary
    path.unlink()
    finding = examine(space)["deduplicated_dataset: rows_are_conserved"]
    assert [entry for entry in finding.offending if "is missing" in entry]


def test_a_record_that_is_gone_from_what_was_read_is_missed(space: Workspace) -> None:
    a = space.ledger.live_admissions()[0]
    rewrite(space.raw(a.shard, a.fingerprint) / "records.parquet", without(5))
    finding = examine(space)["raw_shards: rows_are_conserved"]
    assert list(finding.offending) == ["s00: 60 rows were read, found 59 a record + 0 in quarantine"]


def test_a_row_that_is_a_record_and_in_quarantine_is_named(space: Workspace) -> None:
    a = space.ledger.live_admissions()[1]
    rewrite(space.raw(a.shard, a.fingerprint) / "quarantine.parquet", lambda t: with_value(t, "row", 0, 7))
    assert "s01: row 7 is found 2 times" in examine(space)["raw_shards: rows_are_conserved"].offending


def test_another_column_type_in_a_published_file_is_found(space: Workspace) -> None:
    def widened(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index("quality"), "quality", table["quality"].cast(pa.float64()))

    rewrite(published(space, "deduplicated", "s01"), widened)
    (entry,) = examine(space)["deduplicated_dataset: schema_and_ids"].offending
    assert entry.startswith("s01: columns are ") and "quality: double" in entry and "quality: int64" in entry


def test_an_id_that_is_published_twice_is_named_with_both_shards(space: Workspace) -> None:
    taken = pq.read_table(published(space, "deduplicated", "s00"))["id"][2].as_py()
    rewrite(published(space, "deduplicated", "s02"), lambda t: with_value(t, "id", 1, taken))
    assert list(examine(space)["deduplicated_dataset: schema_and_ids"].offending) == [
        f"s02: id {taken!r} is in s00 already"
    ]


# -- evidence ----------------------------------------------------------------------------------------


def semantic(space: Workspace, shard: str) -> tuple[int, dict[str, object]]:
    """A record of a shard that was removed by similarity, with its row in the published file."""
    rows = pq.read_table(published(space, "duplicates", shard)).to_pylist()
    return next((at, row) for at, row in enumerate(rows) if row["kind"] == "semantic")


def test_a_keeper_whose_decision_is_flipped_is_found(space: Workspace) -> None:
    _, row = semantic(space, "s02")
    shard = str(row["keeper_shard"])

    def flipped(table: pa.Table) -> pa.Table:
        return with_value(table, "kept", table["id"].to_pylist().index(row["keeper_id"]), False)

    rewrite(decisions(space, shard), flipped)
    finding = examine(space)["duplicate_ids: removed_have_kept_keepers"]
    assert any(
        f"{row['id']} (s02) names the keeper {row['keeper_id']} ({shard}), which is removed itself" == entry
        for entry in finding.offending
    )


def test_a_keeper_that_is_not_published_is_found(space: Workspace) -> None:
    _, row = semantic(space, "s02")
    shard, keeper = str(row["keeper_shard"]), row["keeper_id"]
    rewrite(published(space, "deduplicated", shard), lambda t: t.filter(pc.not_equal(t["id"], keeper)))
    finding = examine(space)["duplicate_ids: removed_have_kept_keepers"]
    assert f"{row['id']} (s02) names the keeper {keeper}, which is not in the published file of {shard}" in (
        finding.offending
    )


@pytest.mark.parametrize("stranger", ["nobody", "s99"])
def test_a_keeper_that_does_not_exist_is_found(space: Workspace, stranger: str) -> None:
    at, row = semantic(space, "s01")
    name = "keeper_id" if stranger == "nobody" else "keeper_shard"
    rewrite(published(space, "duplicates", "s01"), lambda t: with_value(t, name, at, stranger))
    (entry,) = examine(space)["duplicate_ids: removed_have_kept_keepers"].offending
    assert entry.startswith(f"{row['id']} (s01) names ") and stranger in entry


def test_a_removal_for_a_record_that_is_not_alike_is_found(space: Workspace) -> None:
    at, row = semantic(space, "s01")
    kept = pq.read_table(published(space, "deduplicated", "s00"))["id"].to_pylist()
    table = published(space, "duplicates", "s01")
    unlike = []
    for candidate in kept[:5]:
        rewrite(table, lambda t, c=candidate: with_value(with_value(t, "keeper_id", at, c), "keeper_shard", at, "s00"))
        unlike += examine(space)["duplicate_ids: removed_have_kept_keepers"].offending
    assert unlike and all(entry.startswith(f"{row['id']} (s01) has similarity ") for entry in unlike)
    assert any("below the threshold 0.9" in entry for entry in unlike)


def test_a_similarity_that_the_vectors_do_not_have_is_found(space: Workspace) -> None:
    at, _ = semantic(space, "s01")
    rewrite(published(space, "duplicates", "s01"), lambda t: with_value(t, "similarity", at, 0.999999))
    (entry,) = examine(space)["duplicate_ids: removed_have_kept_keepers"].offending
    assert "0.999999 was published" in entry


def test_a_removal_as_a_copy_of_another_text_is_found(space: Workspace) -> None:
    at, _ = semantic(space, "s01")
    rewrite(published(space, "duplicates", "s01"), lambda t: with_value(t, "kind", at, "exact"))
    (entry,) = examine(space)["duplicate_ids: removed_have_kept_keepers"].offending
    assert entry.endswith("the texts differ")


def test_a_vector_that_is_gone_is_found(space: Workspace) -> None:
    _, row = semantic(space, "s01")
    a = space.ledger.live_admissions()[1]
    records = read_records(space.raw(a.shard, a.fingerprint))
    at = records.ids.to_pylist().index(row["id"])
    EmbeddingTable(space.lancedb, 16, "float16").remove(records.hashes[at : at + 1])
    findings = examine(space)
    assert any("no vector" in e for e in findings["duplicate_ids: removed_have_kept_keepers"].offending)
    assert f"{row['id']}: its text has no vector" in findings["pairwise_similarities: recall_is_one"].offending


# -- recall ------------------------------------------------------------------------------------------


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

    # Decided anew, from what is left of the pairs: the result is published, and does not pass for a good one.
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


# -- drift and freshness -----------------------------------------------------------------------------


def test_new_texts_with_many_more_ghosts_than_those_of_the_fit_are_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    centres = np.eye(32)[:8]
    near = centres[rng.integers(0, 8, 400)] + 0.02 * rng.normal(size=(400, 32))
    between = sum(centres[rng.integers(0, 8, 100)] for _ in range(4)) + 0.02 * rng.normal(size=(100, 32))
    tables = [
        make_table([f"{name}{i}" for i in range(len(part))], [f"{name} {i}" for i in range(len(part))], part)
        for name, part in (("n", near), ("b", between))
    ]
    paths = write_shards(tmp_path / "in", tables)
    for path in paths:
        curate([path], tmp_path / "ws", threshold=0.9, clusters=8)
    space = Workspace.open(tmp_path / "ws")
    finding = examine(space)["kmeans_centroids: codebook_fits"]
    assert not finding.passed and "ghosts each" in finding.offending[0] and "recurate" in finding.advice
    assert finding.numbers["ghosts_per_text_now"] > 2 * finding.numbers["ghosts_per_text_when_fitted"]
    assert "kmeans_centroids: codebook_fits" not in failed(examine(space, ["s00"]))


def test_uneven_cells_are_a_warning_where_there_are_texts_enough(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    uneven = np.array([2_000, *[10] * 19])
    monkeypatch.setattr(health, "_home_counts", lambda *_: uneven)
    finding = health.codebook_fits(Scope(space))
    assert "cells are uneven" in finding.offending[0]
    assert finding.numbers["largest_cell_over_mean"] == pytest.approx(2000 / 109.5, abs=1e-3)
    monkeypatch.setattr(health, "_home_counts", lambda *_: uneven // 10)
    assert health.codebook_fits(Scope(space)).passed


def test_many_texts_longer_than_the_window_are_a_warning(space: Workspace) -> None:
    done = space.ledger.completions("embeddings")["s01"]
    space.ledger.complete("embeddings", [("s01", done.basis, {**done.facts, "texts_over_window": 30}, 0.0)], "")
    findings = examine(space)
    assert failed(findings) == {"embeddings: texts_fit_the_window"}
    assert findings["embeddings: texts_fit_the_window"].numbers["texts_over_window"] == 30
    assert failed(examine(space, ["s00"])) == set()


def test_a_shard_that_waits_for_days_or_failed_is_a_warning(space: Workspace, tmp_path: Path) -> None:
    extra = write_shards(tmp_path / "more", [make_table(["z"], ["z"], [np.ones(16)])])[0].rename(
        tmp_path / "late.parquet"
    )
    space.ledger.register([("late", str(extra), "parquet", None)])
    now = datetime.now(UTC)
    fresh, stale = (health.nothing_waits(Scope(space), now + timedelta(hours=hours)) for hours in (1, 30))
    assert fresh.passed and fresh.numbers["not_curated"] == 1
    assert not stale.passed and stale.offending[0].startswith("late: registered ")
    assert 29 < float(stale.numbers["oldest_waits_hours"]) <= 31
    space.ledger.fail("late", "raw_shards", "the file is cut short", "")
    assert list(health.nothing_waits(Scope(space), now).offending) == [
        "late: failed in raw_shards: the file is cut short"
    ]


def test_a_re_curation_that_did_not_come_is_a_warning_where_one_is_scheduled(space: Workspace) -> None:
    scheduled = space.with_options({"recurate_cron": "0 3 * * 0"})
    now = datetime.now(UTC)
    assert health.nothing_waits(Scope(scheduled), now + timedelta(days=10)).passed
    late = health.nothing_waits(Scope(scheduled), now + timedelta(days=20))
    assert late.numbers["last_recuration"] == "never" and "'0 3 * * 0' is overdue" in late.offending[0]
    assert health.nothing_waits(Scope(space), now + timedelta(days=20)).passed


def test_before_anything_is_published_every_check_passes(tmp_path: Path) -> None:
    space = Workspace.create_or_open(tmp_path / "ws", {"embedding_column": "vector"})
    assert failed(examine(space)) == failed(examine(space, [])) == set()


def test_an_output_that_another_workspace_published_is_named(space: Workspace) -> None:
    manifest = space.output_current.resolve() / "manifest.json"
    content = json.loads(manifest.read_text())
    content["shards"][1]["fingerprint"] = "0" * 32
    manifest.write_text(json.dumps(content))
    finding = examine(space)["deduplicated_dataset: rows_are_conserved"]
    assert not finding.passed and "another workspace published there" in finding.summary


def test_copies_of_a_text_are_no_match_and_its_kept_record_stands_for_it(space: Workspace) -> None:
    a = space.ledger.live_admissions()[0]
    keys = AdmittedShard.read(space.admitted(a)).record_texts
    assert len(np.unique(keys)) < len(keys), "no copies: the test proves nothing"
    assert examine(space, ["s00"], sample=1000)["duplicate_ids: kept_do_not_match"].passed


# -- no false alarms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "rebuild"},
        {"keeper_rule": "semdedup"},
        {"keep": "hard", "vector_dtype": "float32"},
        {"keep": "column:quality", "clusters": 7, "dense_limit": 1},
    ],
    ids=str,
)
def test_all_checks_pass_under_every_rule_and_through_all_that_can_happen_to_a_corpus(
    tmp_path: Path, options: dict[str, object]
) -> None:
    tables = corpus("boilerplate", (40, 30, 50, 30, 20), seed=42)
    paths = write_shards(tmp_path / "in", tables)
    root = tmp_path / "ws"
    curate(paths[:3], root, threshold=0.9, **options)  # raises if a check fails
    curate(paths[3:4], root, role="reference")
    pq.write_table(tables[1].slice(5), paths[1])
    curate(paths[1:2], root)
    da.retract("s00:3", "s02", workspace=root)
    da.rethreshold(0.93, workspace=root)
    curate(paths[4:], root)
    space = Workspace.open(root)
    findings = examine(space)
    assert failed(findings) == set()
    assert findings["deduplicated_dataset: rows_are_conserved"].numbers["reference"] == 30
    assert findings["pairwise_similarities: recall_is_one"].numbers["matches_by_brute_force"] > 0
    assert findings["duplicate_ids: removed_have_kept_keepers"].numbers["looked_at"] > 10
