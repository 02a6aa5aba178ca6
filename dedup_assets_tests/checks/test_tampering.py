"""Every check passes on what a curation leaves, and fails when what it looks at is tampered with."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.storage.embeddings import EmbeddingTable
from dedup_assets.storage.shards import read_records
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, write_shards
from dedup_assets_tests.checks.examined import (
    SHARDS,
    decisions,
    examine,
    failed,
    published,
    rewrite,
    semantic,
    with_value,
    without,
)


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
    rewrite(space.raw(a.shard, a.fingerprint).records, without(5))
    finding = examine(space)["raw_shards: rows_are_conserved"]
    assert list(finding.offending) == ["s00: 60 rows were read, found 59 a record + 0 in quarantine"]


def test_a_row_that_is_a_record_and_in_quarantine_is_named(space: Workspace) -> None:
    a = space.ledger.live_admissions()[1]
    rewrite(space.raw(a.shard, a.fingerprint).quarantine, lambda t: with_value(t, "row", 0, 7))
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
