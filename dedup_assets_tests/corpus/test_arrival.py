"""What a survey of the sources says of new, growing, changed, touched, failed and vanished files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import fsspec
import pytest

import dedup_assets as da
from dedup_assets.corpus import arrival
from dedup_assets.corpus.arrival import read_memory, survey, write_memory
from dedup_assets.corpus.retraction import retract_shards
from dedup_assets.errors import SourceError
from dedup_assets.ingest.source_files import content_fingerprint
from dedup_assets.ingest.sources import discover
from dedup_assets.storage.ledger import VANISHED
from dedup_assets_tests.automation.watched import INTERVAL, Watched, due


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


# -- new files ---------------------------------------------------------------------------------------


def test_files_that_lay_there_for_an_interval_are_due_at_once_in_natural_order(watched: Watched) -> None:
    for name in ("week-10", "week-2", "week-1"):
        watched.write(name, 0)
    found = watched.look()
    assert due(found) == ["week-1", "week-2", "week-10"]
    (file,) = discover([str(watched.folder / "week-1.parquet")])
    assert found.due[0].token == f"week-1@{content_fingerprint(file)}#0.1"
    assert (found.watched, found.waiting, found.problems) == (3, [], [])


def test_a_file_that_grows_waits_until_it_has_stopped(watched: Watched) -> None:
    path = watched.folder / "a.jsonl"
    path.write_text('{"id": "1", "text": "one"')
    watched.age(path, 1)
    first = watched.look()
    assert (due(first), first.waiting) == ([], ["a"])
    path.write_text('{"id": "1", "text": "one", "vector": [1, 0]}\n')
    watched.age(path, 1)
    assert due(watched.look()) == []
    assert due(watched.look()) == ["a"]


def test_a_file_written_to_seconds_ago_waits_even_if_it_looks_the_same_twice(watched: Watched) -> None:
    watched.write("a", 0, age=0.5)
    assert due(watched.look(pass_seconds=1)) == []
    assert due(watched.look(pass_seconds=1)) == []
    assert due(watched.look(pass_seconds=1)) == []  # 2.5 s old
    assert due(watched.look(pass_seconds=1)) == ["a"]


def test_a_file_from_a_clock_that_is_ahead_comes_in_once_it_was_seen_twice_alike(watched: Watched) -> None:
    watched.write("a", 0, age=-3600)
    assert due(watched.look()) == []
    assert due(watched.look()) == ["a"]


def test_one_look_brings_in_no_more_than_its_bound_and_the_next_ones_the_rest(tmp_path: Path) -> None:
    watched = Watched(tmp_path, shards_per_run=2)
    for n in range(5):
        watched.write(f"s{n}", 10 * n)
    seen = []
    for expected_later in (3, 1, 0):
        found = watched.look(in_flight=[key for keys in seen for key in keys])
        seen.append(due(found))
        assert found.later == expected_later
    assert seen == [["s0", "s1"], ["s2", "s3"], ["s4"]]


def test_reading_stops_in_time_and_what_was_read_is_not_read_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        watched.write(f"s{n}", 10 * n)
    ticks = iter(range(100))
    read = []
    monkeypatch.setattr(arrival, "content_fingerprint", lambda file: read.append(file.key) or "f" * 32)
    monkeypatch.setattr(arrival, "READ_SECONDS", 2.0)
    found = survey(watched.space, {}, now=watched.now, clock=lambda: float(next(ticks)))
    assert (due(found), found.later, read) == (["s0", "s1"], 2, ["s0", "s1"])
    again = survey(watched.space, found.memory, now=watched.now)
    assert due(again) == ["s0", "s1", "s2", "s3"] and read == ["s0", "s1", "s2", "s3"]


def test_a_large_file_is_named_by_its_state_and_not_read(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    path = watched.write("a", 0)
    monkeypatch.setattr(arrival, "LARGE_BYTES", 10)
    monkeypatch.setattr(arrival, "content_fingerprint", lambda file: pytest.fail("read"))
    (entry,) = watched.look().due
    assert entry.token.startswith(f"a@state {path.stat().st_size} ")


def test_shards_that_a_run_has_are_left_alone_and_remembered(watched: Watched) -> None:
    watched.write("a", 0)
    (first,) = watched.look().due
    assert due(watched.look(in_flight=["a"])) == due(watched.look(in_flight=["a"])) == []
    (second,) = watched.look().due  # its run ended without finishing it
    assert (first.token[-4:], second.token[-4:]) == ("#0.1", "#0.2")


def test_finished_shards_ask_for_nothing_and_need_no_memory(watched: Watched) -> None:
    for n in range(3):
        watched.write(f"s{n}", 10 * n)
    watched.look()
    watched.curate()
    found = watched.look()
    assert (due(found), found.memory, found.problems) == ([], {}, [])
    assert found.words() == "3 shard files watched."


def test_references_come_first_and_a_file_keeps_its_role(tmp_path: Path) -> None:
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    watched = Watched(tmp_path, reference_sources=[str(held_out)])
    watched.write("a", 0)
    shutil.copy2(watched.folder / "a.parquet", held_out / "test-set.parquet")
    assert [(entry.file.key, entry.role) for entry in watched.look().due] == [
        ("test-set", "reference"),
        ("a", "corpus"),
    ]
    other = tmp_path / "b"
    other.mkdir()
    both = Watched(other, sources=[str(watched.folder)], reference_sources=[str(watched.folder)])
    assert [entry.role for entry in both.look().due] == ["reference"]
    da.curate(watched.folder, workspace=both.space.root)
    (problem,) = both.look().problems
    assert "is watched as reference and registered as corpus" in problem


def test_what_is_taken_down_is_left_alone(watched: Watched) -> None:
    watched.write("a", 0)
    watched.write("b", 10)
    watched.curate()
    da.retract("shard:a", workspace=watched.space.root)
    watched.write("a", 100)
    assert due(watched.look()) == due(watched.look()) == []


def test_what_the_workspace_publishes_inside_a_watched_folder_is_no_source(tmp_path: Path) -> None:
    watched = Watched(tmp_path, sources=[str(tmp_path)])
    watched.write("a", 0)
    assert [entry.file.uri for entry in watched.look().due] == [str(watched.folder / "a.parquet")]
    da.curate(watched.folder, workspace=watched.space.root)
    found = watched.look()
    assert (found.watched, due(found)) == (1, [])


def test_files_that_would_share_a_key_are_named_and_the_others_come_in(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    watched = Watched(tmp_path, sources=[str(tmp_path / "in"), str(elsewhere)])
    path = watched.write("a", 0)
    shutil.copy2(path, watched.folder / "A.parquet")
    shutil.copy2(path, elsewhere / "a.parquet")
    shutil.copy2(path, elsewhere / "b.parquet")
    found = watched.look()
    assert due(found) == ["A", "b"]
    same_folder, other_folder = found.problems
    assert "would get the same shard key" in same_folder and str(watched.folder / "a.parquet") in same_folder
    assert f"{elsewhere / 'a.parquet'} would be shard a, which is {watched.folder / 'A.parquet'}" in other_folder


# -- changed files -----------------------------------------------------------------------------------


def test_a_changed_file_is_due_once_it_is_settled_and_a_touched_one_is_not(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = watched.write("a", 0)
    watched.curate()
    watched.age(path, 5)
    watched.look()
    assert due(watched.look()) == []  # read, and found to be the same
    monkeypatch.setattr(arrival, "content_fingerprint", lambda file: pytest.fail("read again"))
    assert due(watched.look()) == []
    monkeypatch.undo()
    watched.write("a", 50, age=1)
    assert due(watched.look()) == []
    (entry,) = watched.look().due
    assert entry.token.endswith("#1.1")


def test_content_that_comes_back_after_other_content_is_another_request(watched: Watched) -> None:
    tokens = []
    for first in (0, 50, 0):
        watched.write("a", first)
        (entry,) = watched.look().due
        tokens.append(entry.token)
        watched.curate()
    assert len(set(tokens)) == 3 and tokens[0].split("#")[0] == tokens[2].split("#")[0]


def test_a_changed_file_is_refused_where_the_settings_say_so(tmp_path: Path) -> None:
    watched = Watched(tmp_path, changed_shards="refuse")
    watched.write("a", 0)
    watched.curate()
    watched.write("a", 50)
    found = watched.look()
    assert due(found) == []
    assert "content of" in found.problems[0] and 'set "replace"' in found.problems[0]


# -- failures ----------------------------------------------------------------------------------------


def test_a_shard_that_failed_is_not_tried_again_until_its_content_changes(watched: Watched) -> None:
    path = watched.folder / "bad.parquet"
    path.write_bytes(b"no parquet")
    watched.age(path, 1000)
    assert due(watched.look()) == ["bad"]
    with pytest.raises(da.DedupError):
        watched.curate()
    for _ in range(3):
        found = watched.look()
        assert due(found) == []
        assert "bad is not tried again until its file changes" in found.problems[0]
        assert "cannot be read as parquet" in found.problems[0]
    watched.write("bad", 0)
    assert due(watched.look()) == ["bad"]


def test_a_shard_whose_runs_end_without_a_word_is_tried_three_times(watched: Watched) -> None:
    watched.write("a", 0)
    tokens = [entry.token for _ in range(6) for entry in watched.look().due]
    assert [token[-2:] for token in tokens] == [".1", ".2", ".3"]
    assert "3 runs did not finish it" in watched.look().problems[0]


# -- vanished files ----------------------------------------------------------------------------------


def gone(watched: Watched, *names: str) -> None:
    for name in names:
        (watched.folder / f"{name}.parquet").unlink()


@pytest.fixture
def curated(watched: Watched) -> Watched:
    for n, name in enumerate("abc"):
        watched.write(name, 10 * n)
    watched.curate()
    return watched


def test_a_shard_has_vanished_when_its_file_is_gone_twice_in_a_row(curated: Watched) -> None:
    gone(curated, "b")
    first = curated.look()
    assert (first.vanished, first.waiting) == ([], ["b (its file is gone)"])
    assert curated.look().vanished == ["b"]


def test_a_file_that_is_back_in_time_never_vanished(curated: Watched) -> None:
    path = curated.folder / "b.parquet"
    path.rename(curated.folder / ".b")
    curated.look()
    (curated.folder / ".b").rename(path)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    assert curated.look().vanished == []
    gone(curated, "b")
    assert curated.look().vanished == []


def test_an_empty_or_missing_folder_is_no_evidence(curated: Watched) -> None:
    gone(curated, "a", "b", "c")
    for _ in range(3):
        assert curated.look().vanished == []
    shutil.rmtree(curated.folder)
    for _ in range(3):
        found = curated.look()
        assert found.vanished == []
        assert "does not exist" in found.problems[0]
        assert "Nothing of it is taken for vanished meanwhile." in found.problems[0]


def test_a_folder_that_cannot_be_listed_is_no_evidence(curated: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    gone(curated, "b")

    def refuse(source: str, follow_links: str) -> None:
        raise SourceError(f"{source!r} cannot be listed: Permission denied. Check its permissions.")

    monkeypatch.setattr(arrival, "list_source", refuse)
    assert curated.look().vanished == curated.look().vanished == []


def test_while_a_run_is_under_way_nothing_is_retracted(curated: Watched) -> None:
    gone(curated, "b")
    assert [curated.look(idle=False).vanished for _ in range(3)] == [[], [], []]
    assert curated.look().vanished == ["b"]


def test_vanished_shards_are_kept_where_the_settings_say_so(tmp_path: Path) -> None:
    watched = Watched(tmp_path, vanished_shards="keep")
    watched.write("a", 0)
    watched.write("b", 10)
    watched.curate()
    gone(watched, "b")
    for _ in range(3):
        found = watched.look()
        assert (found.vanished, found.memory) == ([], {})


def test_shards_from_elsewhere_do_not_vanish(curated: Watched, tmp_path: Path) -> None:
    other = curated.write("../elsewhere/d", 40)
    da.curate(other, workspace=curated.space.root)
    other.unlink()
    assert [curated.look().vanished for _ in range(3)] == [[], [], []]


def test_a_renamed_shard_waits_until_the_old_one_is_retracted(curated: Watched) -> None:
    """Its ids are taken until then, and all its records would go to quarantine."""
    (curated.folder / "b.parquet").rename(curated.folder / "renamed.parquet")
    assert due(curated.look()) == []
    assert due(curated.look(idle=False)) == []
    found = curated.look()
    assert (found.vanished, due(found)) == (["b"], ["renamed"])


def test_a_vanished_shard_that_returns_is_due_again_as_another_request(curated: Watched) -> None:
    content = (curated.folder / "b.parquet").read_bytes()
    gone(curated, "b")
    retract_shards(curated.space, ["b"], VANISHED)
    assert due(curated.look()) == []
    (curated.folder / "b.parquet").write_bytes(content)
    curated.age(curated.folder / "b.parquet", 1000)
    (entry,) = curated.look().due
    assert entry.file.key == "b" and entry.token.endswith("#2.1")


# -- elsewhere ---------------------------------------------------------------------------------------


def test_sources_by_url_are_watched_alike(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    try:
        watched = Watched(tmp_path, sources=["memory://bucket/in"])
        missing = watched.look()
        assert "does not exist" in missing.problems[0]
        row = b'{"id": "%d", "text": "text %d", "vector": [%d, 1]}\n'
        memory.pipe("/bucket/in/a.jsonl", row % (1, 1, 1))
        memory.pipe("/bucket/in/deep/b.jsonl", row % (2, 2, 90))
        assert due(watched.look()) == []  # how old an object is, no listing says in one way
        assert due(watched.look())[0] == "a"
        da.curate("memory://bucket/in", workspace=watched.space.root)
        assert (due(watched.look()), watched.look().memory) == ([], {})
        memory.pipe("/bucket/in/a.jsonl", row % (3, 3, 3))
        watched.look()
        assert due(watched.look()) == ["a"]
        memory.rm("/bucket/in/deep/b.jsonl")
        watched.look(idle=False)
        assert len(watched.look().vanished) == 1
    finally:
        memory.store.clear()


def test_the_memory_is_read_back_and_what_is_no_memory_counts_as_none(watched: Watched) -> None:
    watched.write("a", 0)
    watched.write("b", 10, age=1)
    memory = watched.look().memory
    assert len(memory) == 2 and read_memory(write_memory(memory)) == memory
    for text in (None, "", "nonsense", "[]", '{"version": 2}', '{"version": 1, "seen": {"a": [1]}}', "null"):
        assert read_memory(text) == {}


def test_a_look_is_never_surprised_by_a_file_that_goes_while_it_looks(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write("a", 0)
    watched.write("b", 10)
    real = arrival.content_fingerprint

    def vanishing(file):
        if file.key == "a":
            Path(file.uri).unlink()
        return real(file)

    monkeypatch.setattr(arrival, "content_fingerprint", vanishing)
    found = watched.look()
    assert due(found) == ["b"] and "a.parquet" in found.problems[0]


def test_the_interval_decides_when_an_old_file_counts_as_settled(watched: Watched) -> None:
    watched.write("a", 0, age=INTERVAL - 1)
    watched.write("b", 10, age=INTERVAL)
    assert due(watched.look()) == ["b"]
