"""Promises of the ledger: order, completion, and all or nothing among many processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dedup_assets.errors import WorkspaceError
from dedup_assets.storage.ledger import (
    CHANGED,
    CORPUS,
    FORMAT,
    REFERENCE,
    STAGES,
    TAKEDOWN,
    VANISHED,
    Admission,
    Codebook,
    Generation,
    Ledger,
    Rebuild,
)
from dedup_assets_tests.storage.ledgers import finish


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.create()
    return ledger


def source(key: str, uri: str | None = None) -> tuple[str, str, str, str | None]:
    return key, uri or f"file:///{key}.csv", "csv", None


def write_format(path: Path, found: str) -> None:
    """Make a ledger one of another format, as another version would have left it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'format'", (found,))


def admission(number: int, shard: str) -> Admission:
    return Admission(number, shard, f"print-{shard}", 1, 10, 12)


# -- shards ------------------------------------------------------------------------------------------


def test_shards_keep_the_order_of_their_registration(ledger: Ledger) -> None:
    assert ledger.shards() == []
    assert ledger.register([source("b"), source("a")]) == ["b", "a"]
    assert ledger.register([source("c"), source("a"), source("B")]) == ["c", "B"]
    assert ledger.register([source("b")]) == []
    shards = ledger.shards()
    assert [shard.key for shard in shards] == ["b", "a", "c", "B"]
    assert [shard.position for shard in shards] == [1, 2, 3, 4]
    assert (shards[0].uri, shards[0].format, shards[0].compression) == ("file:///b.csv", "csv", None)


@pytest.mark.parametrize(
    ("new", "registered"),
    [
        (source("a", "file:///other.csv"), "file:///a.csv"),
        (source("other", "file:///a.csv"), "file:///a.csv"),
        (source("a", "file:///b.csv"), "file:///"),
    ],
)
def test_one_file_is_one_shard_with_one_key(
    ledger: Ledger, new: tuple[str, str, str, str | None], registered: str
) -> None:
    ledger.register([source("a"), source("b")])
    with pytest.raises(WorkspaceError) as refused:
        ledger.register([source("c"), new])
    message = str(refused.value)
    assert repr(new[0]) in message and new[1] in message and registered in message
    assert "rename the new file" in message
    assert [shard.key for shard in ledger.shards()] == ["a", "b"]


def test_two_files_of_one_call_that_share_a_key_are_refused_together(ledger: Ledger) -> None:
    with pytest.raises(WorkspaceError, match="collides"):
        ledger.register([source("a"), source("a", "file:///other.csv")])
    assert ledger.shards() == []


# -- completion --------------------------------------------------------------------------------------


def test_a_completion_is_read_back_as_it_was_recorded(ledger: Ledger) -> None:
    stats = {"rows": 3, "reasons": {"null": 1}, "name": "é", "ratio": 0.5, "none": None}
    ledger.complete("raw_shards", [("a", "basis", stats, 1.5), ("b", "other", {}, 0.0)], "run-1")
    done = ledger.completions("raw_shards")
    assert list(done) == ["a", "b"]
    a = done["a"]
    assert (a.shard, a.stage, a.input_version, a.stats, a.run_id, a.seconds) == (
        "a",
        "raw_shards",
        "basis",
        stats,
        "run-1",
        1.5,
    )
    assert len(a.finished) == 20 and a.finished.endswith("Z")
    assert ledger.completions("embeddings") == {}


def test_a_later_completion_replaces_the_earlier_one(ledger: Ledger) -> None:
    ledger.complete("raw_shards", [("a", "old", {"rows": 1}, 1.0)], "run-1")
    ledger.complete("raw_shards", [("a", "new", {"rows": 2}, 2.0)], "run-2")
    (only,) = ledger.completions("raw_shards").values()
    assert (only.input_version, only.stats, only.run_id) == ("new", {"rows": 2}, "run-2")


def test_the_history_of_a_shard_is_in_the_order_in_which_its_stages_finished(ledger: Ledger) -> None:
    for stage in ("raw_shards", "embeddings", "duplicate_ids"):
        ledger.complete(stage, [("a", "1", {}, 0.0), ("b", "1", {}, 0.0)], "run-1")
    assert [done.stage for done in ledger.history("a")] == ["raw_shards", "embeddings", "duplicate_ids"]
    ledger.complete("embeddings", [("a", "2", {}, 0.0)], "run-2")
    assert [(done.stage, done.input_version) for done in ledger.history("a")] == [
        ("raw_shards", "1"),
        ("embeddings", "1"),
        ("duplicate_ids", "1"),
        ("embeddings", "2"),
    ]
    assert set(ledger.versions("embeddings")) == {("a", "1"), ("b", "1"), ("a", "2")}
    assert len(ledger.history("b")) == 3
    assert ledger.history("unknown") == []


def test_a_failure_stays_until_the_stage_that_failed_is_finished(ledger: Ledger) -> None:
    ledger.register([source("a"), source("b")])
    ledger.fail("a", "embeddings", "no model", "run-1")
    ledger.fail("b", "raw_shards", "truncated", "run-1")
    ledger.complete("raw_shards", [("a", "1", {}, 0.0)], "run-2")
    assert {shard: failure[:2] for shard, failure in ledger.failures().items()} == {
        "a": ("embeddings", "no model"),
        "b": ("raw_shards", "truncated"),
    }
    ledger.fail("b", "raw_shards", "still truncated", "run-2")
    ledger.complete("embeddings", [("a", "1", {}, 0.0)], "run-2")
    assert {shard: failure[:2] for shard, failure in ledger.failures().items()} == {
        "b": ("raw_shards", "still truncated")
    }


def test_what_is_no_shard_or_is_out_does_not_fail(ledger: Ledger) -> None:
    ledger.register([source("a")])
    ledger.retract_shard("a", VANISHED)
    for key in ("a", "stranger"):
        ledger.fail(key, "raw_shards", "no source", "run")
    assert ledger.failures() == {}


def test_named_facts_are_kept(ledger: Ledger) -> None:
    assert ledger.meta("colour") is None
    assert ledger.settle_meta("colour", "red") == "red"
    assert ledger.settle_meta("colour", "blue") == ledger.meta("colour") == "red", "the first one holds"


# -- codebooks, admissions, generations --------------------------------------------------------------


def test_the_codebook_and_the_generation_with_the_highest_number_are_in_force(ledger: Ledger) -> None:
    assert ledger.codebook() is None and ledger.generation() is None
    books = [Codebook(number, f"digest{number}", 10 * number, 100, {"seed": number}) for number in (1, 2)]
    generations = [Generation(number, f"print{number}", "append", number) for number in (1, 2)]
    for book, generation in zip(reversed(books), reversed(generations), strict=True):
        ledger.add_codebook(book)
        ledger.add_generation(generation, [], "duplicate_ids", "run")
    assert ledger.codebook() == books[1]
    assert ledger.codebooks() == {1: books[0], 2: books[1]}
    assert ledger.generation() == generations[1]
    assert books[0].name == "0001-digest1"


def test_admissions_are_read_in_curation_order_with_their_completion(ledger: Ledger) -> None:
    first, second = admission(1, "z"), admission(2, "a")
    ledger.admit([second, first], [("z", "1", {"texts": 10}, 0.5), ("a", "1", {}, 0.5)], "cells", "run")
    assert ledger.admissions() == [first, second]
    assert set(ledger.completions("cells")) == {"a", "z"}


# -- roles and retractions ---------------------------------------------------------------------------


def finished(ledger: Ledger, shard: str) -> list[str]:
    return [stage for stage in STAGES if shard in ledger.completions(stage)]


def test_a_shard_keeps_the_role_it_was_registered_with(ledger: Ledger) -> None:
    ledger.register([source("a")])
    ledger.register([source("test-set")], role=REFERENCE)
    assert [(shard.key, shard.role) for shard in ledger.shards()] == [("a", CORPUS), ("test-set", REFERENCE)]
    finish(ledger, 1, "a"), finish(ledger, 2, "test-set")
    assert [(a.shard, a.role) for a in ledger.admissions()] == [("a", CORPUS), ("test-set", REFERENCE)]
    with pytest.raises(WorkspaceError, match=r"Shard a .*registered as corpus, asked for as reference"):
        ledger.register([source("new"), source("a")], role=REFERENCE)
    assert len(ledger.shards()) == 2


def test_new_content_takes_the_place_of_the_old_in_one_step(ledger: Ledger) -> None:
    ledger.register([source("a")])
    old = finish(ledger, 1, "a", "old")
    for stage in STAGES[:3]:
        ledger.complete(stage, [("a", "new", {}, 0.0)], "run")
    assert ledger.live_admissions() == [old], "the old content is in force until the new is admitted"
    new = Admission(2, "a", "new", 1, 10, 12)
    ledger.admit([new], [("a", new.input_version, {}, 0.0)], "cluster_partitions", "run-2")
    assert ledger.live_admissions() == [new]
    assert [(a.number, a.retracted) for a in ledger.admissions()] == [(1, 1), (2, None)]
    (only,) = ledger.retractions()
    assert (only.shard, only.admission, only.reason, only.run_id) == ("a", 1, CHANGED, "run-2")
    assert finished(ledger, "a") == list(STAGES[:4]), "what rested on the old content is to be done again"
    assert sum(done.void for done in ledger.history("a")) == 4
    assert ledger.last_retraction() == 1


def test_a_vanished_shard_may_return_and_is_admitted_anew(ledger: Ledger) -> None:
    ledger.register([source("a"), source("b")])
    first = finish(ledger, 1, "a")
    assert ledger.retract_shard("a", VANISHED, run_id="run-2") == first
    assert ledger.retract_shard("a", VANISHED) is None, "a second time changes nothing"
    assert len(ledger.retractions()) == 1 and ledger.live_admissions() == []
    assert finished(ledger, "a") == []
    assert [(shard.key, shard.retracted) for shard in ledger.shards()] == [("a", VANISHED), ("b", None)]
    ledger.complete("raw_shards", [("a", "1", {}, 0.0)], "late run")
    assert finished(ledger, "a") == [], "a run that was under way does not finish what was retracted"
    assert ledger.register([source("a"), source("b")]) == ["a"]
    assert ledger.shards()[0].retracted is None
    again = finish(ledger, 2, "a")
    assert ledger.live_admissions() == [again]
    assert again.input_version != first.input_version and finished(ledger, "a") == list(STAGES)


def test_what_was_taken_down_stays_out_and_so_do_its_ids(ledger: Ledger) -> None:
    ledger.register([source("a"), source("b")])
    finish(ledger, 1, "a"), finish(ledger, 2, "b")
    assert ledger.retract_shard("a", TAKEDOWN, [(0, "x"), (4, "y")]) is not None
    assert ledger.tombstones() == ["x", "y"]
    assert ledger.register([source("a")]) == [] and ledger.shards()[0].retracted == TAKEDOWN
    assert ledger.retract_shard("a", VANISHED) is None and ledger.shards()[0].retracted == TAKEDOWN
    assert ledger.standing().taken_down == {}, "only rows of live admissions are of interest"
    assert [a.shard for a in ledger.live_admissions()] == ["b"]


def test_a_vanished_shard_can_be_taken_down(ledger: Ledger) -> None:
    ledger.register([source("a")])
    finish(ledger, 1, "a")
    ledger.retract_shard("a", VANISHED)
    assert ledger.retract_shard("a", TAKEDOWN, [(0, "x")]) is None
    assert ledger.tombstones() == ["x"] and ledger.shards()[0].retracted == TAKEDOWN
    assert ledger.last_retraction() == 1, "nothing more was taken from the corpus"


def test_a_shard_that_was_never_admitted_never_comes(ledger: Ledger) -> None:
    ledger.register([source("a")])
    ledger.fail("a", "raw_shards", "broken", "run")
    assert ledger.retract_shard("a", VANISHED) is None
    assert [(r.shard, r.admission) for r in ledger.retractions()] == [("a", None)]
    assert ledger.last_retraction() == 0 and ledger.failures() == {}
    assert ledger.retract_shard("unknown", VANISHED) is None and len(ledger.retractions()) == 1


def test_single_records_are_taken_down_once(ledger: Ledger) -> None:
    ledger.register([source("a")])
    a = finish(ledger, 1, "a")
    assert ledger.retract_records(a, [(3, "x"), (1, "y")], "run-2") == 2
    assert ledger.retract_records(a, [(3, "x")]) == 0
    assert ledger.standing().taken_down == {1: [1, 3]} and ledger.live_admissions() == [a]
    assert [(r.admission, r.reason, r.run_id) for r in ledger.retractions()] == [(1, TAKEDOWN, "run-2")]
    assert ledger.last_retraction() == 1 and finished(ledger, "a") == list(STAGES)


def test_a_rebuild_is_asked_for_once_and_answered_with_its_codebook_and_generation(ledger: Ledger) -> None:
    ledger.request_rebuild("run-1")
    ledger.request_rebuild("run-1")
    assert ledger.rebuilds() == [Rebuild("run-1", None, None)]
    ledger.add_codebook(Codebook(1, "digest", 10, 100, {}))
    ledger.request_rebuild("run-2")
    first, second = ledger.rebuilds()
    assert (first.codebook, second.codebook) == (1, None)
    ledger.add_generation(Generation(1, "print", "append", 1, 1), [], "duplicate_ids", "run", [first])
    assert ledger.rebuilds() == [second]
    ledger.request_rebuild("run-1")
    assert ledger.rebuilds() == [second], "a request that was answered is not asked again"


UNSTORABLE = object()


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (
            lambda ledger: ledger.admit([admission(2, "b"), admission(1, "c")], [("b", "1", {}, 0.0)], "cells", "run"),
            sqlite3.IntegrityError,
        ),
        (
            lambda ledger: ledger.admit([admission(2, "b"), admission(3, "a")], [("b", "1", {}, 0.0)], "cells", "run"),
            sqlite3.IntegrityError,
        ),
        (
            lambda ledger: ledger.admit(
                [admission(2, "b")], [("b", "1", {}, 0.0), ("c", "1", {"x": UNSTORABLE}, 0.0)], "cells", "run"
            ),
            TypeError,
        ),
        (
            lambda ledger: ledger.add_generation(
                Generation(2, "print", "append", 1),
                [("b", "1", {}, 0.0), ("c", "1", {"x": UNSTORABLE}, 0.0)],
                "cells",
                "run",
            ),
            TypeError,
        ),
        (
            lambda ledger: ledger.complete("cells", [("b", "1", {}, 0.0), ("c", "1", {"x": UNSTORABLE}, 0.0)], "run"),
            TypeError,
        ),
    ],
    ids=["number taken", "shard admitted before", "unstorable facts", "unstorable generation", "unstorable stage"],
)
def test_a_transaction_that_fails_leaves_nothing(
    ledger: Ledger, act: Callable[[Ledger], None], problem: type[Exception]
) -> None:
    ledger.admit([admission(1, "a")], [("a", "1", {}, 0.0)], "cells", "run")
    ledger.add_generation(Generation(1, "print", "append", 1), [], "duplicate_ids", "run")
    ledger.register([source("b")])
    ledger.fail("b", "cells", "earlier", "run")
    with pytest.raises(problem):
        act(ledger)
    assert ledger.admissions() == [admission(1, "a")]
    assert set(ledger.completions("cells")) == {"a"}
    assert ledger.generation() == Generation(1, "print", "append", 1)
    assert set(ledger.failures()) == {"b"}
    ledger.admit([admission(2, "b")], [("b", "1", {}, 0.0)], "cells", "run")
    assert len(ledger.admissions()) == 2 and ledger.failures() == {}


# -- many processes ----------------------------------------------------------------------------------


def test_writers_of_several_processes_lose_nothing(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from dedup_assets.storage.ledger import Ledger
ledger, name = Ledger(Path(sys.argv[1])), sys.argv[2]
ledger.create()
for i in range(12):
    key = f"{name}-{i}"
    ledger.register([(key, f"file:///{key}", "csv", None), ("shared", "file:///shared", "csv", None)])
    ledger.complete("raw_shards", [(key, "1", {"i": i}, 0.0)], name)
"""
    path = tmp_path / "ledger.sqlite"
    command = [sys.executable, "-c", script, str(path)]
    children = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in "abc"]
    for process in children:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    ledger = Ledger(path)
    shards = ledger.shards()
    assert [shard.position for shard in shards] == list(range(1, 38))
    keys = [shard.key for shard in shards]
    for name in "abc":
        assert [key for key in keys if key.startswith(f"{name}-")] == [f"{name}-{i}" for i in range(12)]
    assert keys.count("shared") == 1
    assert len(ledger.completions("raw_shards")) == 36


def test_a_process_killed_inside_a_transaction_leaves_nothing(tmp_path: Path, ledger: Ledger) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from dedup_assets.storage.ledger import Ledger
def shards():
    yield "a", "file:///a", "csv", None
    os.kill(os.getpid(), signal.SIGKILL)
Ledger(Path(sys.argv[1])).register(shards())
"""
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path / "ledger.sqlite")], timeout=60)
    assert process.returncode == -9
    assert ledger.shards() == []
    assert ledger.register([source("b")]) == ["b"]


# -- format and disk ---------------------------------------------------------------------------------


def test_creating_a_ledger_again_keeps_what_is_in_it(ledger: Ledger) -> None:
    ledger.register([source("a")])
    ledger.create()
    assert [shard.key for shard in ledger.shards()] == ["a"]
    assert ledger.meta("format") == str(FORMAT)


@pytest.mark.parametrize("found", [str(FORMAT + 1), "0", "new"])
def test_a_workspace_of_another_format_is_refused_and_left_alone(ledger: Ledger, tmp_path: Path, found: str) -> None:
    ledger.register([source("a")])
    write_format(tmp_path / "ledger.sqlite", found)
    with pytest.raises(WorkspaceError) as refused:
        ledger.create()
    message = str(refused.value)
    assert f"has workspace format {found}, this version reads format {FORMAT}" in message
    assert "use the version that made it" in message
    assert ledger.meta("format") == found


def test_a_full_disk_in_mid_transaction_is_an_error_that_says_what_to_do(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.register([source("a")])
    real = sqlite3.connect

    def connect_to_a_full_disk(*arguments: object, **options: object) -> sqlite3.Connection:
        connection = real(*arguments, **options)  # type: ignore[call-overload]
        # SQLite's own ceiling on the file: beyond it, the very error of a disk without space.
        connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect_to_a_full_disk)
        with pytest.raises(WorkspaceError, match=r"Cannot write .*full.* Free space .* run the same command again"):
            ledger.register([source(f"{i}-{'x' * 100}") for i in range(500)])
    assert [shard.key for shard in ledger.shards()] == ["a"]
    assert ledger.register([source("b")]) == ["b"]


def test_a_ledger_that_cannot_be_opened_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"Cannot write .*absent/ledger\.sqlite: unable to open"):
        Ledger(tmp_path / "absent" / "ledger.sqlite").create()
