"""Promises about which decisions are due: what appends, what begins a new generation, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedup_assets.corpus.generations import DECIDING, Plan, decision_version, plan_decisions
from dedup_assets.settings import Settings
from dedup_assets.storage.ledger import CORPUS, REFERENCE, VANISHED, Ledger
from dedup_assets_tests.storage.ledgers import admit

SETTINGS = Settings()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.create()
    return ledger


def admit_new(ledger: Ledger, *keys: str, role: str = CORPUS) -> None:
    ledger.register([(key, f"file:///{key}", "csv", None) for key in keys], role)
    for key in keys:
        number = len(ledger.admissions()) + 1
        admit(ledger, number, key, f"content{number}")


def plan(ledger: Ledger, *wanted: str, settings: Settings = SETTINGS) -> Plan | None:
    decided, standing = ledger.completions(DECIDING), ledger.standing()
    live = [a for a in standing.admissions if a.retracted is None]
    return plan_decisions(ledger, settings, decided, live, standing.retractions, wanted)


def decide(ledger: Ledger, *wanted: str, settings: Settings = SETTINGS) -> Plan:
    """Carry a plan out, as far as the ledger is concerned."""
    due = plan(ledger, *wanted, settings=settings)
    assert due is not None
    entries = [(a.shard, decision_version(a, due.generation), {}, 0.0) for a in due.pending]
    if due.is_new:
        ledger.add_generation(due.generation, entries, DECIDING, "run", due.answers)
    else:
        ledger.complete(DECIDING, entries, "run")
    return due


def batches(due: Plan) -> list[list[str]]:
    return [[a.shard for a in batch] for batch in due.batches]


def test_shards_are_decided_one_at_a_time_as_they_were_admitted(ledger: Ledger) -> None:
    assert plan(ledger) is None
    admit_new(ledger, "a", "b", "c")
    assert plan(ledger) is None, "nobody asked for any"
    due = decide(ledger, "b")
    assert (due.generation.number, due.is_new, batches(due)) == (1, True, [["a"], ["b"]])
    assert plan(ledger, "a", "b") is None
    due = decide(ledger, "c")
    assert (due.generation.number, due.is_new, due.decided, batches(due)) == (1, False, 2, [["c"]])


def test_other_settings_decide_anew_what_was_decided(ledger: Ledger) -> None:
    admit_new(ledger, "a", "b", "c")
    decide(ledger, "b")
    other = SETTINGS.changed({"threshold": 0.97})
    due = decide(ledger, settings=other)
    assert (due.generation.number, due.is_new, batches(due)) == (2, True, [["a"], ["b"]])
    assert plan(ledger, settings=other) is None


def test_a_retraction_decides_all_that_is_left_at_once(ledger: Ledger) -> None:
    admit_new(ledger, "a", "b", "c")
    decide(ledger, "c")
    ledger.retract_shard("b", VANISHED)
    due = decide(ledger)
    assert (due.generation.number, due.generation.retractions, batches(due)) == (2, 1, [["a", "c"]])
    admit_new(ledger, "d")
    due = decide(ledger, "d")
    assert (due.is_new, batches(due)) == (False, [["d"]])
    ledger.retract_records(ledger.live_admissions()[0], [(0, "id")])
    assert batches(decide(ledger)) == [["a", "c", "d"]]


def test_a_retraction_decides_also_what_was_admitted_and_not_decided(ledger: Ledger) -> None:
    # Shards that wait may hold texts of what was retracted: those are decided with the matches of all.
    admit_new(ledger, "a", "b", "c", "d")
    ledger.retract_shard("b", VANISHED)
    assert plan(ledger) is None, "nobody asked for any"
    due = decide(ledger, "a")
    assert (due.generation.number, due.generation.retractions, batches(due)) == (1, 1, [["a", "c", "d"]])
    admit_new(ledger, "e", "f")
    ledger.retract_shard("a", VANISHED)
    assert batches(decide(ledger)) == [["c", "d", "e", "f"]]
    # Also where nothing that was decided is left.
    admit_new(ledger, "g")
    for key in "cdef":
        ledger.retract_shard(key, VANISHED)
    assert batches(decide(ledger)) == [["g"]]
    # A new generation for another reason waits for nobody.
    admit_new(ledger, "h")
    assert batches(decide(ledger, settings=SETTINGS.changed({"threshold": 0.97}))) == [["g"]]


def test_a_retraction_after_the_completions_were_read_begins_a_generation(ledger: Ledger) -> None:
    admit_new(ledger, "a", "b")
    decide(ledger, "b")
    decided = ledger.completions(DECIDING)
    ledger.retract_shard("a", VANISHED)
    standing = ledger.standing()
    live = [a for a in standing.admissions if a.retracted is None]
    due = plan_decisions(ledger, SETTINGS, decided, live, standing.retractions, ["b"])
    assert due is not None and due.is_new and batches(due) == [["b"]]


def test_when_all_is_retracted_an_empty_generation_follows(ledger: Ledger) -> None:
    admit_new(ledger, "a")
    decide(ledger, "a")
    ledger.retract_shard("a", VANISHED)
    due = decide(ledger)
    assert (due.is_new, due.generation.number, batches(due)) == (True, 2, [])
    assert plan(ledger) is None


def test_a_reference_comes_first_whenever_it_was_admitted(ledger: Ledger) -> None:
    admit_new(ledger, "a", "b")
    admit_new(ledger, "test", role=REFERENCE)
    # Nothing was decided yet, but its texts may be named by shards admitted before: all at once.
    due = decide(ledger, "test", "b")
    assert batches(due) == [["test", "a", "b"]] and due.generation.number == 1
    admit_new(ledger, "c")
    assert batches(decide(ledger, "c")) == [["c"]]
    admit_new(ledger, "late", role=REFERENCE)
    due = decide(ledger, "late")
    assert (due.generation.number, batches(due)) == (2, [["test", "late", "a", "b", "c"]])
    assert plan(ledger) is None


def test_references_before_any_shard_need_no_new_generation(ledger: Ledger) -> None:
    admit_new(ledger, "test", "other", role=REFERENCE)
    assert batches(decide(ledger, "test")) == [["test"]]
    admit_new(ledger, "a")
    due = decide(ledger, "other", "a")
    assert (due.is_new, batches(due)) == (False, [["other"], ["a"]])


def test_the_mode_rebuild_decides_everything_with_every_shard(ledger: Ledger) -> None:
    rebuild = SETTINGS.changed({"mode": "rebuild"})
    admit_new(ledger, "a", "b")
    due = decide(ledger, "a", settings=rebuild)
    assert (due.generation.rebuilt, batches(due)) == (2, [["a", "b"]])
    assert plan(ledger, settings=rebuild) is None
    admit_new(ledger, "c")
    due = decide(ledger, settings=rebuild)
    assert (due.generation.number, due.generation.rebuilt, batches(due)) == (2, 3, [["a", "b", "c"]])
    # Back in the order of admission: the rebuilt one is left with the mode.
    due = decide(ledger, "c")
    assert (due.generation.number, due.generation.rebuilt) == (3, 0)


def test_a_requested_rebuild_lasts_until_the_next_and_is_appended_to(ledger: Ledger) -> None:
    admit_new(ledger, "a", "b")
    decide(ledger, "b")
    ledger.request_rebuild("run-1")
    admit_new(ledger, "c")
    due = decide(ledger)
    assert (due.generation.rebuilt, batches(due)) == (3, [["a", "b", "c"]])
    assert [request.token for request in due.answers] == ["run-1"] and ledger.rebuilds() == []
    admit_new(ledger, "d")
    assert batches(decide(ledger, "d")) == [["d"]]
    ledger.retract_shard("a", VANISHED)
    due = decide(ledger)
    assert (due.generation.rebuilt, batches(due)) == (3, [["b", "c", "d"]])
