"""What is taken back: after any of it, the decisions are those of a fresh curation of what remains."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.corpus.maintenance import prune
from dedup_assets.corpus.retraction import retract_ids, retract_shards
from dedup_assets.errors import DedupError
from dedup_assets.lookups.explain import explain
from dedup_assets.lookups.history import shard_history
from dedup_assets.lookups.near import pairs_around
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import (
    corpus,
    curate,
    kept_ids,
    make_table,
    removals,
    write_shards,
)
from dedup_assets_tests.assets.materialising import curate_up_to


def decisions(curation: da.Curation) -> tuple[set[str], dict[str, tuple[Any, ...]]]:
    """Who stays, and of each removed record its shard, keeper, the keeper's shard, similarity and kind."""
    rows = curation.removed.to_arrow().to_pylist()
    names = ("shard", "keeper_id", "keeper_shard", "similarity", "kind")
    return kept_ids(curation), {row["id"]: tuple(row[name] for name in names) for row in rows}


def pair_set(curation: da.Curation) -> set[tuple[Any, ...]]:
    columns = curation.pairs.to_arrow().to_pydict()
    found = zip(columns["id_a"], columns["id_b"], columns["similarity"], strict=True)
    return {(*sorted((a, b)), s) for a, b, s in found}


def changes(curation: da.Curation, number: int) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(curation.output / "changes" / f"{number:04d}.parquet").to_pylist()
    listed = {row["id"]: row for row in rows}
    assert len(listed) == len(rows), "a record is listed twice"
    return listed


@pytest.mark.parametrize("keep", ["first", "hard", "column:quality"])
@pytest.mark.parametrize("gone", [(0,), (1, 2), (3,)])
def test_what_is_left_is_decided_as_if_it_had_come_alone(tmp_path: Path, keep: str, gone: tuple[int, ...]) -> None:
    tables = corpus("clustered", (50, 40, 60, 30, 25), seed=30)
    paths = write_shards(tmp_path / "in", tables)
    options = {"threshold": 0.85, "keep": keep}
    before = decisions(curate(paths[:4], tmp_path / "ws", **options))
    result = da.retract(*(f"s{n:02d}" for n in gone), workspace=tmp_path / "ws", reason="vanished")
    left = [path for n, path in enumerate(paths[:4]) if n not in gone]
    fresh = curate(left, tmp_path / "fresh", **options)
    assert decisions(result) == decisions(fresh) != before
    assert pair_set(result) == pair_set(fresh)
    assert result.summary["kept"] == fresh.summary["kept"] and result.summary["shards"] == 4 - len(gone)

    # What comes after is decided on top of it, and what returns comes last.
    assert decisions(curate(paths[4:], tmp_path / "ws")) == decisions(curate(paths[4:], tmp_path / "fresh"))
    back = [paths[n] for n in gone]
    assert decisions(curate(back, tmp_path / "ws")) == decisions(curate(back, tmp_path / "fresh"))
    assert pair_set(da.open_curation(tmp_path / "ws")) == pair_set(da.open_curation(tmp_path / "fresh"))


def test_single_records_go_and_stay_away(tmp_path: Path) -> None:
    axes = np.eye(4)
    near = 0.6 * axes[0] + 0.8 * axes[1]
    tables = [
        make_table(["a", "b", "c"], ["one", "two", "one"], [axes[0], near, axes[0]]),
        make_table(["d", "e"], ["two", "three"], [near, axes[1]]),
    ]
    paths = write_shards(tmp_path / "in", tables)
    assert kept_ids(curate(paths, tmp_path / "ws", threshold=0.6)) == {"a", "e"}
    # The text of `a` lives on in `c`, after `b`; with `c` it is gone, and so are its matches.
    for name, rows, kept in (("a", [1, 2], {"b"}), ("s00:2", [1], {"b"})):
        second = da.retract(name, workspace=tmp_path / "ws")
        left = write_shards(tmp_path / f"left-{len(rows)}", [tables[0].take(pa.array(rows)), tables[1]])
        fresh = curate(left, tmp_path / f"fresh-{len(rows)}", threshold=0.6)
        assert decisions(second) == decisions(fresh) and kept_ids(second) == kept
        assert pair_set(second) == pair_set(fresh)
    generation = Workspace.open(tmp_path / "ws").ledger.generation()
    assert decisions(da.retract("a", "s00:2", workspace=tmp_path / "ws")) == decisions(second)
    assert Workspace.open(tmp_path / "ws").ledger.generation() == generation, "a second time changes nothing"

    # Their rows are accounted for, without their content; the ids stay out in whatever shard they come.
    gone = pq.read_table(second.published / "quarantine" / "s00.parquet").to_pylist()
    assert gone == [{"row": row, "reason": "retracted id", "record": None} for row in (0, 2)]
    assert second.summary["rows_in"] == 5 and second.summary["quarantined"] == 2
    late = tmp_path / "in" / "late.parquet"
    pq.write_table(make_table(["a", "f"], ["one", "four"], [axes[0], axes[3]]), late)
    result = curate([late], tmp_path / "ws")
    assert kept_ids(result) == {*kept_ids(second), "f"}
    assert pq.read_table(result.published / "quarantine" / "late.parquet").to_pylist() == [
        {"row": 0, "reason": "retracted id", "record": None}
    ]


def test_no_quarantined_row_shows_what_was_taken_down_under_its_id(tmp_path: Path) -> None:
    axes = np.eye(3)
    tables = [
        make_table(["a", "b", "b"], ["one", "two", "again two"], axes),
        make_table([7, 7, None], ["one", "three", "nobody's"], axes),
        make_table(["a", "c"], ["one, a little otherwise", "two"], axes[:2]),
    ]
    paths = write_shards(tmp_path / "in", tables)
    first = curate(paths, tmp_path / "ws", threshold=0.9)

    def shown(result: da.Curation) -> list[tuple[str, int]]:
        """The rows of the quarantine whose content is there."""
        folder = result.published / "quarantine"
        return [
            (path.stem, row["row"])
            for path in sorted(folder.iterdir())
            for row in pq.read_table(path).to_pylist()
            if row["record"] is not None
        ]

    assert shown(first) == [("s00", 2), ("s01", 1), ("s01", 2), ("s02", 0)]
    assert shown(da.retract("a", workspace=tmp_path / "ws")) == [("s00", 2), ("s01", 1), ("s01", 2)]
    result = da.retract("b", "7", workspace=tmp_path / "ws")
    assert shown(result) == [("s01", 2)] and result.summary["quarantined"] == 7
    space = Workspace.open(tmp_path / "ws")
    assert (explain(space, "s02:0")["decision"], explain(space, "s02:0")["record"]) == ("quarantined", None)
    with pytest.raises(DedupError, match=r"No record has the id 'nobody' .*\(shards: 3\)"):
        explain(space, "nobody")
    da.retract("s01", workspace=tmp_path / "ws", reason="vanished")
    with pytest.raises(DedupError, match=r"\(shards: 2\)"):  # what was retracted is not unfinished
        explain(space, "nobody")


def test_a_record_of_a_vanished_shard_can_be_taken_down_before_its_file_returns(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", (20, 20), seed=38))
    curate(paths, tmp_path / "ws", threshold=0.85)
    da.retract("s01", workspace=tmp_path / "ws", reason="vanished")
    before = decisions(da.open_curation(tmp_path / "ws"))
    assert decisions(da.retract("r0021", "s01:4", workspace=tmp_path / "ws")) == before
    assert explain(Workspace.open(tmp_path / "ws"), "r0021")["reason"] == "takedown"
    back = curate(paths, tmp_path / "ws")
    assert back.quarantined.to_arrow().to_pylist() == [
        {"row": row, "reason": "retracted id", "record": None} for row in (1, 4)
    ]


def test_a_vanished_record_whose_id_has_moved_on_is_not_taken_down_by_its_place(tmp_path: Path) -> None:
    axes = np.eye(3)
    tables = [make_table(["a", "b"], ["one", "two"], axes[:2]), make_table(["a"], ["three"], axes[2:])]
    paths = write_shards(tmp_path / "in", tables)
    curate(paths[:1], tmp_path / "ws", threshold=0.9)
    da.retract("s00", workspace=tmp_path / "ws", reason="vanished")
    before = decisions(curate(paths[1:], tmp_path / "ws"))
    with pytest.raises(DedupError, match=r"s00:0 vanished with its shard, and its id 'a' is now .* in shard s01"):
        da.retract("s00:0", "s00:1", workspace=tmp_path / "ws")
    assert Workspace.open(tmp_path / "ws").ledger.tombstones() == []
    assert decisions(da.open_curation(tmp_path / "ws")) == before
    assert kept_ids(da.retract("a", "s00:1", workspace=tmp_path / "ws")) == set()


def test_an_id_that_begins_like_a_prefix_is_taken_for_neither_without_being_asked(tmp_path: Path) -> None:
    ids = ["id:a", "a", "shard:s00", "id:b", "shard:c"]
    paths = write_shards(tmp_path / "in", [make_table(ids, ["one", "two", "three", "four", "five"], np.eye(5))])
    curate(paths, tmp_path / "ws", threshold=0.9)
    for name, advice in (("id:a", "write id:id:a for that one"), ("shard:s00", "write id:shard:s00 for that one")):
        with pytest.raises(DedupError, match=f"'{name}' is itself the id of a record in s00: {advice}"):
            da.retract(name, workspace=tmp_path / "ws")
    assert Workspace.open(tmp_path / "ws").ledger.retractions() == []
    # Where only one reading names something, it is meant.
    assert kept_ids(da.retract("id:b", "shard:c", workspace=tmp_path / "ws")) == {"id:a", "a", "shard:s00"}
    assert kept_ids(da.retract("a", workspace=tmp_path / "ws")) == {"id:a", "shard:s00"}
    with pytest.raises(DedupError, match=r"'id:a' is itself"):  # the other one is gone, and may be meant all the same
        da.retract("id:a", workspace=tmp_path / "ws")
    assert kept_ids(da.retract("id:id:a", workspace=tmp_path / "ws")) == {"shard:s00"}
    with pytest.raises(DedupError, match="an empty name is neither"):
        da.retract("", workspace=tmp_path / "ws")


def test_a_shard_that_was_taken_down_stays_out_under_any_name(tmp_path: Path) -> None:
    tables = corpus("clustered", (30, 30), seed=31)
    paths = write_shards(tmp_path / "in", tables)
    curate(paths, tmp_path / "ws", threshold=0.85)
    result = da.retract("s00", workspace=tmp_path / "ws")
    fresh = curate(paths[1:], tmp_path / "fresh", threshold=0.85)
    assert decisions(result) == decisions(fresh)
    with pytest.raises(DedupError, match=r"s00: taken down from .*does not return.*new workspace"):
        curate(paths[:1], tmp_path / "ws")
    # In a folder with others it is passed over.
    assert decisions(da.curate(tmp_path / "in", workspace=tmp_path / "ws")) == decisions(fresh)
    renamed = tmp_path / "in" / "renamed.parquet"
    paths[0].rename(renamed)
    after = curate([renamed], tmp_path / "ws")
    assert decisions(after) == decisions(fresh)
    reasons = pq.read_table(after.published / "quarantine" / "renamed.parquet")["reason"].to_pylist()
    assert reasons == ["retracted id"] * 30
    # All may go; then an empty corpus is published.
    empty = da.retract("s01", "renamed", workspace=tmp_path / "ws")
    assert (empty.summary["shards"], empty.summary["kept"], len(empty.kept), len(empty.pairs)) == (0, 0, 0, 0)
    assert kept_ids(empty) == set() and empty.summary["run_ids"], "something was done, though nothing is left"


def test_what_cannot_be_retracted_is_named_and_nothing_is(tmp_path: Path) -> None:
    axes = np.eye(3)
    paths = write_shards(tmp_path / "in", [make_table(["a", "s00"], ["one", "two"], axes[:2])])
    before = decisions(curate(paths, tmp_path / "ws", threshold=0.9))
    for names, options, message in (
        (["a", "nobody"], {}, r"nobody: no such record in .*SHARD:ROW"),
        (["s00"], {}, r"'s00' is a shard and the id of a record in s00: write shard:s00 or id:s00"),
        (["shard:nobody"], {}, r"shard:nobody: no such record"),
        (["a"], {"reason": "vanished"}, r"reason = 'vanished' is for shards: records \(a\)"),
        ([], {}, r"Name at least one shard or record id"),
    ):
        with pytest.raises(DedupError, match=message):
            da.retract(*names, workspace=tmp_path / "ws", **options)
    assert Workspace.open(tmp_path / "ws").ledger.retractions() == []
    assert decisions(da.open_curation(tmp_path / "ws")) == before
    assert kept_ids(da.retract("id:s00", workspace=tmp_path / "ws")) == {"a"}


def test_a_shard_that_was_registered_and_retracted_never_comes_and_its_file_may_go(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (20, 20, 20), seed=32))
    whole = curate(paths[:2], tmp_path / "ws", threshold=0.9)
    da.register(paths[2], workspace=tmp_path / "ws")
    da.retract("s02", workspace=tmp_path / "ws", reason="vanished")
    for path in paths:
        path.unlink()
    result = da.curate(workspace=tmp_path / "ws")
    assert result.summary["run_ids"] == [] and decisions(result) == decisions(whole)


# -- for ever ----------------------------------------------------------------------------------------


def test_for_ever_holds_for_ids_as_they_are_written_in_this_workspace_and_its_copies(tmp_path: Path) -> None:
    """Not for another spelling, nor for the text under another id; a generation of the past goes with `prune`."""
    axes = np.eye(6)
    spelt = unicodedata.normalize("NFC", "caf\u00e9"), unicodedata.normalize("NFD", "caf\u00e9")
    paths = write_shards(
        tmp_path / "in",
        [
            make_table([spelt[0], "1", "k"], ["one", "two", "three"], axes[:3]),
            make_table(
                [spelt[0], spelt[1], "1", "1.0", "other"], ["four", "five", "two", "six", "one"], axes[[3, 4, 1, 5, 0]]
            ),
        ],
    )
    curate(paths[:1], tmp_path / "ws", threshold=0.9)
    after = da.retract(spelt[0], "1", workspace=tmp_path / "ws")
    shutil.copytree(tmp_path / "ws", tmp_path / "copy", symlinks=True)
    for workspace in ("ws", "copy"):
        assert kept_ids(curate(paths[1:], tmp_path / workspace)) == {"k", spelt[1], "1.0", "other"}

    past = after.output / "generations" / "0001" / "deduplicated" / "s00.parquet"
    assert spelt[0] in pq.read_table(past)["id"].to_pylist()
    prune(Workspace.open(tmp_path / "ws"))
    assert not past.exists()


def test_the_name_of_a_shard_that_was_taken_down_is_not_given_to_a_file_elsewhere(tmp_path: Path) -> None:
    tables = corpus("random", (10, 10), seed=35)
    paths = write_shards(tmp_path / "in", tables)
    curate(paths, tmp_path / "ws", threshold=0.9)
    da.retract("s01", workspace=tmp_path / "ws")
    (tmp_path / "new").mkdir()
    moved = paths[1].rename(tmp_path / "new" / "s01.parquet")
    with pytest.raises(DedupError, match=r"s01 was taken down when it was .*stays out"):
        curate([moved], tmp_path / "ws")


# -- changed content ---------------------------------------------------------------------------------


def test_changed_content_takes_the_place_of_the_old_and_is_decided_last(tmp_path: Path) -> None:
    tables = corpus("clustered", (40, 50, 30), seed=33)
    paths = write_shards(tmp_path / "in", tables)
    first = curate(paths, tmp_path / "ws", threshold=0.85)
    before, original = decisions(first), paths[0].read_bytes()

    paths[0].write_bytes(original[:500])
    broken = curate(paths, tmp_path / "ws", check=False)
    assert list(broken.failures) == ["s00"] and str(paths[0]) in broken.failures["s00"]
    assert decisions(broken) == before, "what cannot be read changes nothing"
    assert da.curate(workspace=tmp_path / "ws").summary["run_ids"] == []

    # Half of the records stay, some with other texts, and new ones come.
    texts = tables[0].column("text").to_pylist()
    texts[:5] = [f"other text {i}" for i in range(5)]
    changed = tables[0].set_column(1, "text", pa.array(texts)).slice(0, 20)
    extra = corpus("clustered", (140, 10), seed=33)[1]
    pq.write_table(pa.concat_tables([changed, extra]), paths[0])
    result = curate(paths[::-1], tmp_path / "ws")
    fresh = curate(paths[1:], tmp_path / "fresh", threshold=0.85)
    fresh = curate(paths[:1], tmp_path / "fresh")
    assert decisions(result) == decisions(fresh) != before
    assert pair_set(result) == pair_set(fresh)

    kept, removed = before
    after_kept, after_removed = decisions(result)
    listed = changes(result, 2)
    for name in {*kept, *removed}:
        old, new = removed.get(name, (None,) * 2)[1], after_removed.get(name, (None,) * 2)[1]
        gone = name not in after_kept and name not in after_removed
        assert (name in listed) == (gone or (name in kept) != (name in after_kept) or old != new), name
        if gone:
            assert (listed[name]["after"], listed[name]["why"]) == ("retracted", "its shard changed")
    assert {row["why"] for row in listed.values()} >= {"its shard changed", "keeper retracted"}

    # The very first content again is a third admission.
    paths[0].write_bytes(original)
    back = curate(paths[:1], tmp_path / "ws")
    fresh = curate([*paths[1:], paths[0]], tmp_path / "again", threshold=0.85)
    assert decisions(back) == decisions(fresh)
    admissions = Workspace.open(tmp_path / "ws").ledger.admissions()
    assert [(a.shard, a.retracted is None) for a in admissions] == [
        ("s00", False), ("s01", True), ("s02", True), ("s00", False), ("s00", True)
    ]  # fmt: skip


def test_a_failure_is_over_once_the_file_is_what_it_was(tmp_path: Path) -> None:
    tables = corpus("clustered", (20, 20), seed=39)
    paths = write_shards(tmp_path / "in", tables)
    before = decisions(curate(paths, tmp_path / "ws", threshold=0.85, duplicate_ids="refuse"))
    space, original = Workspace.open(tmp_path / "ws"), paths[0].read_bytes()
    for stage in ("raw_shards", "cluster_partitions"):
        if stage == "raw_shards":
            paths[0].write_bytes(original[:300])
        else:  # an id that another shard has
            pq.write_table(pa.concat_tables([tables[0], tables[1].slice(0, 1)]), paths[0])
        broken = curate(paths, tmp_path / "ws", check=False)
        assert list(broken.failures) == ["s00"] and space.ledger.failures()["s00"][0] == stage
        assert shard_history(space, "s00")["state"] == "failed"
        paths[0].write_bytes(original)
        assert decisions(curate(paths, tmp_path / "ws")) == before
        assert space.ledger.failures() == {} and shard_history(space, "s00")["state"] == "published"


# -- any order of things -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_steps_gives_the_decisions_of_what_is_left(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = (25, 30, 20, 35, 20, 25)
    tables = corpus("boilerplate" if seed % 2 else "clustered", sizes, seed=60 + seed)
    paths = write_shards(tmp_path / "in", tables)
    options = {"threshold": 0.9, "floor": 0.85, "keep": "column:quality"}
    content = dict(zip((path.stem for path in paths), tables, strict=True))
    reference = {"s04"}
    there: list[str] = []
    waiting = [str(key) for key in rng.permutation(list(content))]
    for step in range(9):
        kinds = (
            ["append", "begin"] * bool(waiting)
            + ["vanish"] * (len(there) > 2)
            + ["change", "take down"] * (len(there) > 1)
        )
        kind = "append" if step < 2 else str(rng.choice(kinds))
        key = waiting[0] if kind in ("append", "begin") else str(rng.choice(there))
        path = tmp_path / "in" / f"{key}.parquet"
        role = "reference" if key in reference else "corpus"
        if kind in ("append", "begin"):
            waiting.remove(key)
            there.append(key)
        if kind == "append":
            curate([path], tmp_path / "ws", role=role, **options)
        elif kind == "begin":  # a run that comes no further, or is still under way when the next step is taken
            stage = str(rng.choice(["embeddings", "cluster_partitions", "pairwise_similarities", "duplicate_ids"]))
            curate_up_to(stage, path, tmp_path / "ws", role)
        elif kind == "vanish":
            there.remove(key)
            waiting.append(key)
            da.retract(key, workspace=tmp_path / "ws", reason="vanished")
        elif kind == "change":
            left = content[key].take(pa.array(np.sort(rng.permutation(len(content[key]))[: len(content[key]) - 4])))
            content[key] = left
            pq.write_table(left, path)
            curate([path], tmp_path / "ws", role=role, **options)
        else:
            ids = content[key].column("id")
            gone = str(rng.choice(ids.to_pylist()))
            admitted = {a.shard for a in Workspace.open(tmp_path / "ws").ledger.live_admissions()}
            if key in admitted:  # what was not read yet has no ids
                content[key] = content[key].filter(pc.not_equal(ids, gone))
                da.retract(gone, workspace=tmp_path / "ws")
    found = da.curate(workspace=tmp_path / "ws")

    folder = tmp_path / "left"
    folder.mkdir()
    fresh = tmp_path / "fresh"
    order = [a.shard for a in Workspace.open(tmp_path / "ws").ledger.live_admissions()]
    assert sorted(order) == sorted(there)
    for key in sorted(order, key=lambda key: (key not in reference, order.index(key))):
        pq.write_table(content[key], folder / f"{key}.parquet")
        role = "reference" if key in reference else "corpus"
        last = curate([folder / f"{key}.parquet"], fresh, role=role, **options)
    assert decisions(found) == decisions(last)
    # A pair is named by the records that came first, which a reference need not have done here.
    assert sorted(pair[2] for pair in pair_set(found)) == sorted(pair[2] for pair in pair_set(last))
    assert removals(found)


@pytest.mark.parametrize("stage", ["cluster_partitions", "pairwise_similarities"])
def test_texts_of_a_retracted_shard_that_live_on_in_shards_under_way_are_decided_with_all(
    tmp_path: Path, stage: str
) -> None:
    one, two, near_one, near_two = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.8, 0.6, 0.0], [0.0, 0.6, 0.8]
    tables = [
        make_table(["a", "b"], ["one", "two"], [one, two]),
        make_table(["c", "d"], ["nearly two", "one"], [near_two, one]),
        make_table(["e", "f"], ["two", "nearly one"], [two, near_one]),
        make_table(["g"], ["one"], [one]),
    ]
    paths = write_shards(tmp_path / "in", tables)
    curate(paths[:2], tmp_path / "ws", threshold=0.75)
    for path in paths[2:]:
        curate_up_to(stage, path, tmp_path / "ws")
    # `one` lives on in a decided shard, `two` in one under way alone: its match is stored with the decided one.
    da.retract("s00", workspace=tmp_path / "ws", reason="vanished")
    found, fresh = da.curate(workspace=tmp_path / "ws"), curate(paths[1:], tmp_path / "fresh", threshold=0.75)
    assert decisions(found) == decisions(fresh)
    assert {name: keeper for name, (keeper, *_) in removals(found).items()} == {"e": "c", "f": "d", "g": "d"}


def test_between_a_retraction_and_the_next_decision_everything_can_be_asked(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", (40, 40, 40), seed=34))
    result = curate(paths, tmp_path / "ws", threshold=0.85)
    space = Workspace.open(tmp_path / "ws")
    victim, (keeper, *_) = next(iter(removals(result).items()))
    # As a killed `retract` leaves it: in the ledger and nowhere else.
    retract_ids(space, [keeper])
    retract_shards(space, ["s01"], "vanished")
    assert explain(space, victim)["decision"] in ("removed", "retracted")
    assert explain(space, "s01:0")["decision"] == "retracted"
    assert pairs_around(space, 0.9, 500)
    assert "retracted" in shard_history(space, "s01")["state"]
    # Whoever curates next decides again.
    left = [pq.read_table(paths[0]), pq.read_table(paths[2])]
    left = [table.filter(pc.not_equal(table.column("id"), keeper)) for table in left]
    fresh = curate(write_shards(tmp_path / "left", left), tmp_path / "fresh", threshold=0.85)
    found = da.curate(workspace=tmp_path / "ws")
    assert kept_ids(found) == kept_ids(fresh) and removals(found) == removals(fresh)
