"""Matches in cells of near-copies: said not to be listed, and found for a record or a group when asked for."""

from __future__ import annotations

from collections import defaultdict

import pytest

import dedup_assets as da
from dedup_assets.errors import SettingsError, WorkspaceError
from dedup_assets_tests.assets.corpora import corpus, curate, write_shards
from dedup_assets_tests.cli.commands import Call
from dedup_assets_tests.cli.conftest import call  # noqa: F401


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[da.Curation, da.Curation]:
    """The same near-copies with matches in dense cells not listed, and with all of them listed."""
    folder = tmp_path_factory.mktemp("near-copies")
    paths = write_shards(folder / "in", corpus("boilerplate", (120, 80), seed=5))
    options = {"floor": 0.9, "threshold": 0.97, "clusters": 4}
    return curate(paths, folder / "dense", dense_limit=1, **options), curate(
        paths, folder / "listed", dense_limit=0, **options
    )


def pairs_by_record(curation: da.Curation) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in curation.pairs:
        found[row["id_a"]][row["id_b"]] = row["similarity"]
        found[row["id_b"]][row["id_a"]] = row["similarity"]
    return found


def test_all_matches_of_a_record_are_found_whether_they_are_listed_or_not(
    both: tuple[da.Curation, da.Curation],
) -> None:
    dense, listed = both
    wanted = pairs_by_record(listed)
    assert len(dense.pairs) < len(listed.pairs) and len(wanted) > 100
    for record, others in list(wanted.items())[::7]:
        rows = dense.matches(record=record, count=1000).to_pylist()
        assert {row["id_b"]: row["similarity"] for row in rows} == others
        assert {row["id_a"] for row in rows} == {record}
        assert [row["similarity"] for row in rows] == sorted(others.values(), reverse=True)
        assert all(row["text_b"].startswith("record ") for row in rows)


def test_all_matches_inside_a_group_are_found(both: tuple[da.Curation, da.Curation]) -> None:
    dense, listed = both
    wanted = pairs_by_record(listed)
    removed = dense.removed.to_arrow().to_pylist()
    assert removed == listed.removed.to_arrow().to_pylist()
    group = max({row["group_id"] for row in removed}, key=[row["group_id"] for row in removed].count)
    rows = dense.matches(group=group, count=10_000).to_pylist()
    found = {frozenset((row["id_a"], row["id_b"])): row["similarity"] for row in rows}
    inside = {name for row in removed if row["group_id"] == group for name in (row["id"], row["keeper_id"])}
    # A text is named by its first record: of its copies the others are in no pair.
    expected = {
        frozenset((a, b)): similarity
        for a, others in wanted.items()
        for b, similarity in others.items()
        if {a, b} <= inside
    }
    assert len(rows) > 100 and expected.items() <= found.items()


def test_what_is_not_listed_is_said_with_the_ways_to_see_it(
    both: tuple[da.Curation, da.Curation],
    call: Call,  # noqa: F811
) -> None:
    dense, listed = both
    said = call("pairs", "--workspace", dense.workspace).out
    for text in (said, repr(dense.pairs), dense.pairs._repr_html_()):
        assert "are not listed" in text and "pairs --record ID" in text and "--dense-limit 0" in text
    assert "not listed" not in call("pairs", "--workspace", listed.workspace).out + repr(listed.pairs)
    record = dense.removed[0]["id"]
    assert len(call("pairs", "--record", record, "-n", 3, "--json", "--workspace", dense.workspace).json()) == 3
    done = call("pairs", "--record", "no such", "--workspace", dense.workspace)
    assert done.status == 1 and "no such record" in done.err
    assert call("pairs", "--record", record, "--around", 0.9, "--workspace", dense.workspace).status == 2
    with pytest.raises(WorkspaceError, match="no such group"):
        dense.matches(group="?")
    with pytest.raises(SettingsError, match="one of them"):
        dense.matches()


def test_keepers_are_counted_and_the_least_similar_come_first(both: tuple[da.Curation, da.Curation]) -> None:
    dense, _ = both
    removed = dense.removed.to_arrow().to_pylist()
    keepers = dense.keepers.to_pylist()
    assert sum(row["removed"] for row in keepers) == len(removed)
    for row in keepers:
        mine = [
            each["similarity"]
            for each in removed
            if (each["keeper_id"], each["keeper_shard"]) == (row["id"], row["shard"])
        ]
        assert (row["removed"], row["least_similarity"]) == (len(mine), min(mine))
    assert [row["removed"] for row in keepers] == sorted((row["removed"] for row in keepers), reverse=True)
    least = dense.least_similar(5).to_pylist()
    assert [row["similarity"] for row in least] == sorted(row["similarity"] for row in removed)[:5]
