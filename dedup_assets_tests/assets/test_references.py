"""Reference corpora: what matches them goes, whenever they come, and they are never written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.errors import DedupError
from dedup_assets_tests.assets import oracle
from dedup_assets_tests.assets.corpora import corpus, curate, kept_ids, make_table, removals, write_shards

THRESHOLD = 0.85


def by_brute_force(known: oracle.Corpus, references: int) -> dict[str, tuple[str | None, float]]:
    """Walk the corpus shards after the reference shards, all of whose records stay."""
    walk = [record for shard in known.shards[-references:] for record in shard]
    standing = list(dict.fromkeys(record.text_number for record in walk))
    names = {record.text_number: record.id for record in reversed(walk)}
    fate: dict[int, tuple[str | None, float]] = {text: (None, 1.0) for text in standing}
    outcome: dict[str, tuple[str | None, float]] = {}
    for record in (record for shard in known.shards[:-references] for record in shard):
        text = record.text_number
        if text not in fate:
            likeness = known.cosines[text, standing] if standing else np.empty(0)
            best = int(np.argmax(likeness)) if len(likeness) else -1
            if best >= 0 and likeness[best] >= THRESHOLD:
                fate[text] = (names[standing[best]], float(likeness[best]))
            else:
                fate[text] = (None, 1.0)
                names[text] = record.id
                standing.append(text)
                outcome[record.id] = (None, 1.0)
                continue
        keeper, similarity = fate[text]
        outcome[record.id] = (names[text], 1.0) if keeper is None else (keeper, similarity)
    return outcome


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("mode", ["append", "rebuild"])
def test_whatever_matches_a_reference_goes_whenever_the_reference_comes(tmp_path: Path, late: bool, mode: str) -> None:
    tables = corpus("clustered", (40, 50, 45), seed=70)
    # The reference holds near-copies and copies of its own records, and texts of the corpus.
    paths = write_shards(tmp_path / "in", tables)
    options = {"threshold": THRESHOLD, "mode": mode}
    if late:
        curate(paths[:2], tmp_path / "ws", **options)
        result = curate(paths[2:], tmp_path / "ws", role="reference")
    else:
        curate(paths[2:], tmp_path / "ws", role="reference", **options)
        result = curate(paths[:2], tmp_path / "ws")
    if mode == "append":
        wanted = by_brute_force(oracle.read_corpus(tmp_path / "ws", tables), references=1)
        assert kept_ids(result) == {name for name, (keeper, _) in wanted.items() if keeper is None}
        found = {name: row[:2] for name, row in removals(result).items()}
        assert found == {name: fate for name, fate in wanted.items() if fate[0] is not None}
    known = oracle.read_corpus(tmp_path / "ws", tables)
    reference = {record.id: record.text_number for record in known.shards[2]}
    texts = {record.id: record.text_number for shard in known.shards[:2] for record in shard}
    for name in kept_ids(result):
        assert known.cosines[texts[name], list(reference.values())].max() < THRESHOLD
    named = set(result.removed.to_arrow(["keeper_shard"]).column(0).to_pylist())
    assert "s02" in named, "the corpus proves nothing"

    for part, there in (("deduplicated", False), ("duplicates", False), ("quarantine", True)):
        assert (result.published / part / "s02.parquet").is_file() == there
    assert not {*kept_ids(result), *removals(result)} & set(reference)
    summary = result.summary
    assert (summary["rows_in"], summary["reference"], summary["shards"]) == (135, 45, 3)
    assert summary["kept"] + summary["removed_exact"] + summary["removed_semantic"] == 90
    assert result.duplicate_ratio == pytest.approx((90 - summary["kept"]) / 90)
    if late:
        changed = pq.read_table(result.output / "changes" / "0002.parquet").to_pylist()
        assert "reference added" in {row["why"] for row in changed}
        assert {row["shard"] for row in changed} <= {"s00", "s01"}


def test_rows_of_a_reference_are_all_accounted_for(tmp_path: Path) -> None:
    axes = np.eye(3)
    tables = [
        make_table(["a", "b"], ["one", "two"], axes[:2]),
        make_table(["x", "a", "z"], ["one", "three", ""], [axes[0], axes[2], axes[2]]),
    ]
    paths = write_shards(tmp_path / "in", tables)
    curate(paths[:1], tmp_path / "ws", threshold=0.9)
    result = curate(paths[1:], tmp_path / "ws", role="reference")
    assert kept_ids(result) == {"b"} and removals(result) == {"a": ("x", 1.0, "exact")}
    entry = pq.read_table(result.published / "quarantine" / "s01.parquet").to_pylist()
    assert [(row["row"], row["reason"]) for row in entry] == [
        (1, "duplicate id in an earlier shard"),
        (2, "text is empty"),
    ]
    assert (result.summary["reference"], result.summary["quarantined"]) == (1, 2)
    # Without the reference, what went for it is back.
    assert kept_ids(da.retract("s01", workspace=tmp_path / "ws", reason="vanished")) == {"a", "b"}


def test_a_file_has_one_role(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (10,), seed=71))
    curate(paths, tmp_path / "ws", threshold=0.9)
    with pytest.raises(DedupError, match=r"registered as corpus, asked for as reference"):
        curate(paths, tmp_path / "ws", role="reference")
    with pytest.raises(DedupError, match=r"role = 'other': expected corpus or reference"):
        curate(paths, tmp_path / "ws", role="other")
