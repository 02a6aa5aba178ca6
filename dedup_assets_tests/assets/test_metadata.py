"""Promises of what the UI shows of a materialisation: the basis, the columns, the pictures, the numbers."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.assets import metadata as report
from dedup_assets.assets.metadata import RunMetadata
from dedup_assets.corpus.retraction import retract_shards
from dedup_assets.lookups.corpus import Corpus
from dedup_assets.storage.ledger import STAGES, Completion, Ledger
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, make_table, write_shards

KEYS = ["s00", "s01", "s02"]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three shards, the last with rows that cannot be records."""
    folder = tmp_path_factory.mktemp("metadata")
    tables = corpus("boilerplate", [30, 25, 20])
    broken = make_table(["x", "x", "y"], ["a", "b", None], np.eye(3, 16), quality=[1, 2, 3])
    tables[2] = broken.cast(tables[2].schema)
    curate(write_shards(folder / "in", tables), folder / "ws", threshold=0.9)
    return Workspace.open(folder / "ws")


def of(space: Workspace, stage: str, keys: list[str] = KEYS) -> dict[str, dict[str, Any]]:
    return dict(RunMetadata(space, stage, keys))


def picture(value: dg.MarkdownMetadataValue) -> str:
    """The SVG of a picture in a Markdown entry."""
    words, _, image = value.md_str.partition("\n\n")
    found = re.fullmatch(r"!\[(.*)\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", image)
    assert found and found[1] == words and not set(words) & set("[]()<>")
    return base64.b64decode(found[2]).decode()


def test_every_stage_reports_what_dagster_can_store(space: Workspace) -> None:
    for stage in STAGES:
        found = of(space, stage)
        assert list(found) == KEYS
        for metadata in found.values():
            dg.AssetMaterialization(stage, metadata=metadata)  # raises for a value that Dagster cannot store
            assert metadata["seconds"] >= 0 and metadata["settings_fingerprint"] == space.settings.fingerprint()
            assert metadata["dagster/partition_row_count"] == metadata["rows"]
            assert isinstance(metadata["computed_in_run"], dg.DagsterRunMetadataValue)


def test_quarantined_rows_are_numbers_by_reason(space: Workspace) -> None:
    for stage in ("raw_shards", "deduplicated_dataset"):
        found = of(space, stage)
        reasons = {name: count for name, count in found["s02"].items() if name.startswith("quarantined: ")}
        assert sorted(reasons.values()) == [1, 1] and found["s02"]["quarantined"] == 2
        assert any("duplicate id" in name for name in reasons)
        assert not any(name.startswith("quarantined: ") for name in found["s00"])


def test_the_basis_names_what_a_shard_was_compared_with(space: Workspace, tmp_path: Path) -> None:
    for stage in ("cluster_partitions", "pairwise_similarities", "duplicate_ids", "deduplicated_dataset"):
        found = of(space, stage)
        assert [found[key]["basis_shards"] for key in KEYS] == [1, 2, 3]
        assert [r.data["shard"] for r in found["s02"]["basis_latest_shards"].records] == KEYS[::-1]
        assert [r.data["admission"] for r in found["s01"]["basis_latest_shards"].records] == [2, 1]
        assert Path(found["s00"]["basis_manifest_file"].value).is_file()
    assert "basis_digest" not in of(space, "raw_shards")["s00"]

    # The digest follows the content of what came before, and of nothing that comes after.
    tables = corpus("boilerplate", [30, 25, 20])
    digest = {}
    for name, first in (("same", tables[0]), ("other", tables[0].slice(1))):
        curate(write_shards(tmp_path / name, [first, tables[1]]), tmp_path / f"ws-{name}", threshold=0.9)
        digest[name] = of(Workspace.open(tmp_path / f"ws-{name}"), "duplicate_ids", KEYS[:2])["s01"]["basis_digest"]
    assert digest["same"] == of(space, "duplicate_ids")["s01"]["basis_digest"] != digest["other"]


def test_decisions_rest_on_references_and_on_a_rebuilt_order_too(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("boilerplate", [20, 20, 20]))
    curate(paths[:2], tmp_path / "ws", threshold=0.9)
    da.curate(paths[2], workspace=tmp_path / "ws", role="reference")
    space = Workspace.open(tmp_path / "ws")
    matched, decided = (of(space, stage)["s00"] for stage in ("pairwise_similarities", "duplicate_ids"))
    assert (matched["basis_shards"], decided["basis_shards"]) == (1, 2)
    assert [record.data["role"] for record in decided["basis_latest_shards"].records] == ["reference", "corpus"]
    assert of(space, "duplicate_ids")["s01"]["basis_shards"] == 3

    da.curate(workspace=tmp_path / "ws", mode="rebuild")
    rebuilt = of(Workspace.open(tmp_path / "ws"), "duplicate_ids")
    assert [rebuilt[key]["basis_shards"] for key in KEYS] == [3, 3, 3]
    assert len({rebuilt[key]["basis_digest"] for key in KEYS}) == 1


def test_columns_are_those_on_disk_and_lead_back_to_the_input(space: Workspace) -> None:
    published = of(space, "deduplicated_dataset")["s00"]
    file = pq.read_schema(published["deduplicated_file"].value)
    columns = published["dagster/column_schema"].columns
    assert [(column.name, column.type) for column in columns] == [(f.name, str(f.type)) for f in file]
    lineage = published["dagster/column_lineage"].deps_by_column
    assert {name: [(d.asset_key.path[-1], d.column_name) for d in deps] for name, deps in lineage.items()} == {
        name: [("raw_shards", name)] for name in file.names
    }

    assert [column.description for column in columns] == [f"from raw_shards.{name}" for name in file.names]

    # Followed upwards, every column of every stage ends at columns of the input.
    by_stage = {stage: of(space, stage)["s00"].get("dagster/column_lineage") for stage in STAGES}
    assert by_stage["raw_shards"] is None

    def origins(stage: str, column: str) -> set[str]:
        if stage == "raw_shards":
            return {column}
        deps = by_stage[stage].deps_by_column[column]
        return {name for dep in deps for name in origins(dep.asset_key.path[-1], dep.column_name)}

    assert origins("embeddings", "vector") == {"vector"}
    assert origins("pairwise_similarities", "similarity") == {"vector"}
    assert origins("duplicate_ids", "kept") == {"vector", "text"}
    for stage in ("embeddings", "pairwise_similarities", "duplicate_ids"):
        there = {column.name for column in of(space, stage)["s00"]["dagster/column_schema"].columns}
        assert set(by_stage[stage].deps_by_column) <= there


def test_pictures_show_the_numbers_of_the_shard_and_of_the_corpus(space: Workspace) -> None:
    found = of(space, "duplicate_ids")
    summary = da.open_curation(space.root).summary
    removed = summary["removed_exact"] + summary["removed_semantic"]
    share = f"{100 * removed / (summary['rows_in'] - summary['quarantined']):.1f} %"
    curve = picture(found["s02"]["removed_by_threshold"])
    assert f"0.9: {share} removed" in curve
    assert "threshold 0.9" in picture(found["s00"]["best_matches"])
    # Of the corpus as a whole it is said once, with the shard that was admitted last.
    assert "removed_by_threshold" not in found["s00"] and "removed_by_threshold" not in found["s01"]
    assert of(space, "duplicate_ids", KEYS[:1])["s00"].keys() >= {"removed_by_threshold"}
    cells = of(space, "cluster_partitions")["s00"]
    assert "at home" in picture(cells["cell_sizes"])
    assert cells["cell_sizes"].md_str.startswith(f"{cells['new_texts']:,} texts in {cells['cells']} cells")
    corpus_wide = of(space, "deduplicated_dataset")
    assert (corpus_wide["s02"]["corpus_rows"], corpus_wide["s02"]["corpus_removed"]) == (summary["rows_in"], removed)
    assert "corpus_rows" not in corpus_wide["s01"]


def test_groups_are_shown_with_both_texts(space: Workspace) -> None:
    rows = [record.data for record in of(space, "duplicate_ids")["s00"]["largest_groups"].records]
    assert 0 < len(rows) <= report.GROUPS
    sizes = [row["records_removed"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert all("(s00): record " in row["kept"] and "(s00): record " in row["removed_least_like_it"] for row in rows)


def test_bytes_are_those_of_the_files(space: Workspace) -> None:
    published = of(space, "deduplicated_dataset")["s01"]
    files = [published[f"{name}_file"].value for name in ("deduplicated", "duplicates", "quarantine")]
    assert published["bytes_written"] == sum(Path(file).stat().st_size for file in files)
    matches = of(space, "pairwise_similarities")["s01"]
    assert matches["bytes_written"] == Path(matches["pairs_file"].value).stat().st_size


def test_the_whole_of_a_large_corpus_is_left_to_the_report(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "PICTURE_BUDGET", 10)
    assert "dedup-assets report" in of(space, "duplicate_ids")["s02"]["removed_by_threshold"]


def test_a_file_that_went_meanwhile_costs_the_picture_and_not_the_run(space: Workspace) -> None:
    decisions = space.decisions(1, "records", "s01")
    aside = decisions.rename(decisions.with_suffix(".aside"))
    try:
        found = of(space, "duplicate_ids", ["s00", "s01"])
    finally:
        aside.rename(decisions)
    assert "s01.parquet" in found["s01"]["not_described"]
    assert found["s01"]["rows"] == 25 and found["s01"]["basis_shards"] == 2
    assert "best_matches" in found["s00"] and "not_described" not in found["s00"]


@pytest.mark.parametrize("moves", [True, False])
def test_what_another_process_changes_meanwhile_costs_the_picture_and_what_is_wrong_is_an_error(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    shutil.copytree(space.root, tmp_path / "ws", symlinks=True)
    copied = Workspace.open(tmp_path / "ws")

    def of_two_states(*_: object) -> None:
        if moves:
            retract_shards(copied, ["s01"], "vanished")
        raise KeyError("s01")

    monkeypatch.setattr(report.measures, "best_matches", of_two_states)
    if moves:
        assert "s01" in of(copied, "duplicate_ids", ["s00"])["s00"]["not_described"]
    else:
        with pytest.raises(KeyError):
            of(copied, "duplicate_ids", ["s00"])


def test_a_shard_that_is_retracted_between_two_looks_is_not_among_the_decided(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(space.root, tmp_path / "ws", symlinks=True)
    copied = Workspace.open(tmp_path / "ws")
    asked = Ledger.completions

    def then_retracted(ledger: Ledger, stage: str) -> dict[str, Completion]:
        found = asked(ledger, stage)
        retract_shards(copied, ["s01"], "vanished")
        return found

    monkeypatch.setattr(Ledger, "completions", then_retracted)
    assert list(Corpus(copied).decided) == [key for key in KEYS if key != "s01"]
