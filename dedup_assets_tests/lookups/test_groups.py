"""Groups of duplicates are those published, the least like members first, with the texts they were removed for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import dedup_assets as da
from dedup_assets.errors import SettingsError
from dedup_assets_tests.assets.corpora import corpus, curate, write_shards


@pytest.fixture(scope="module")
def curation(tmp_path_factory: pytest.TempPathFactory) -> da.Curation:
    """Near-copies of three templates in two shards."""
    folder = tmp_path_factory.mktemp("groups")
    return curate(write_shards(folder / "in", corpus("boilerplate", [60, 60], seed=2)), folder / "ws", threshold=0.9)


def test_the_largest_groups_are_those_published_with_the_least_like_records_first(curation: da.Curation) -> None:
    groups = curation.groups(count=3, members=4)
    published = curation.removed.to_pylist()
    sizes = Counter(row["group_id"] for row in published)
    assert [group["size"] for group in groups] == sorted(sizes.values(), reverse=True)[:3]
    for group in groups:
        assert group["size"] == sizes[group["group_id"]]
        similarities = sorted(row["similarity"] for row in published if row["group_id"] == group["group_id"])
        assert [member["similarity"] for member in group["members"]] == similarities[:4]
        assert {row["keeper_id"] for row in published if row["group_id"] == group["group_id"]} == {group["keeper_id"]}


def test_all_groups_with_all_members_are_all_removed_records_with_their_texts(curation: da.Curation) -> None:
    found = {
        (member["id"], member["shard"]): (group["keeper_id"], group["group_id"], member["similarity"], member["kind"])
        for group in curation.groups(count=None, members=None)
        for member in group["members"]
    }
    assert found == {
        (row["id"], row["shard"]): (row["keeper_id"], row["group_id"], row["similarity"], row["kind"])
        for row in curation.removed
    }
    group = curation.groups(count=1)[0]
    for record in (group["members"][0], {"id": group["keeper_id"], "text": group["keeper_text"]}):
        assert curation.explain(record["id"])["text"] == record["text"]
    shown = repr(curation.groups(count=1, members=2))
    assert group["keeper_id"] in shown and f"… {group['size'] - 2} more record" in shown


def test_a_group_whose_keeper_was_taken_back_is_left_out_and_a_corpus_without_any_says_so(tmp_path: Path) -> None:
    tables = corpus("boilerplate", [30])
    whole = curate(write_shards(tmp_path / "in", tables), tmp_path / "ws", threshold=0.9)
    assert len(whole.groups()) > 0
    da.retract("s00", workspace=tmp_path / "ws")
    assert len(whole.groups()) == 0 and repr(whole.groups()) == "No record was removed."
    for wrong in (0, 2.5, True, "3"):
        with pytest.raises(SettingsError, match="expected a whole number, 1 or more"):
            whole.groups(count=wrong)  # type: ignore[arg-type]
