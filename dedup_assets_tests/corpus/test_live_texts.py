"""Promises about what lives: a text lives while a record that was not retracted has it, and dies once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup_assets.compute.hashes import hash_ids
from dedup_assets.compute.text import hash_texts
from dedup_assets.corpus.live_texts import LiveTexts, corpus_index
from dedup_assets.storage.ledger import TAKEDOWN, VANISHED, Admission
from dedup_assets.storage.shards import REJECTED, AdmittedShard, text_keys
from dedup_assets.storage.workspace import Workspace

SHARDS = {"a": ["one", "two", "one"], "b": ["two", "three"], "c": ["three", "four"]}
"""Texts of the records; ids are the shard and the row, such as a0."""

KEYS = {text: int(text_keys(number, np.array([row]))[0]) for text, number, row in (
    ("one", 1, 0), ("two", 1, 1), ("three", 2, 1), ("four", 3, 1)
)}  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three admitted shards."""
    space = Workspace.create_or_open(tmp_path / "ws", {})
    space.ledger.register([(key, f"file:///{key}", "csv", None) for key in SHARDS])
    for number, key in enumerate(SHARDS, 1):
        admit(space, number, key, SHARDS[key])
    return space


def admit(space: Workspace, number: int, key: str, texts: Sequence[str], rejected: Sequence[int] = ()) -> None:
    a = Admission(number, key, f"content{number}", 1, 0, len(texts))
    known, _, _ = corpus_index(space, LiveTexts(space, without=[key]))
    found = known.find(hash_texts(list(texts)))
    new = [i for i, text in enumerate(texts) if found[i] < 0 and text not in texts[:i] and i not in rejected]
    first = {texts[i]: i for i in reversed(range(len(texts)))}
    keys = [
        REJECTED
        if i in rejected
        else int(found[i])
        if found[i] >= 0
        else int(text_keys(number, np.array([first[t]]))[0])
        for i, t in enumerate(texts)
    ]
    ids = [f"{key}{row}" for row in range(len(texts))]
    accepted = [ids[i] for i in range(len(texts)) if i not in rejected]
    raw = space.raw(key, a.fingerprint).folder
    raw.mkdir(parents=True)
    pq.write_table(pa.table({"row": np.arange(len(texts)), "id": ids}), raw / "records.parquet")
    AdmittedShard(
        np.array(keys, np.int64), np.array(new, np.int64), hash_texts([texts[i] for i in new]), hash_ids(accepted)
    ).write(space.admitted(a))
    space.ledger.admit([a], [], "cluster_partitions", "run")


def alive(space: Workspace) -> set[str]:
    """The living texts, which are exactly those that the index finds."""
    living = LiveTexts(space)
    keys = np.array(list(KEYS.values()))
    texts = {text for text, lives in zip(KEYS, living.texts(keys), strict=True) if lives}
    index, _, _ = corpus_index(space, living)
    found = index.find(hash_texts(list(KEYS)))
    assert {text for text, key in zip(KEYS, found, strict=True) if key >= 0} == texts
    assert all(key in (-1, KEYS[text]) for text, key in zip(KEYS, found, strict=True))
    return texts


def names(space: Workspace, *texts: str) -> list[str]:
    return LiveTexts(space).names(np.array([KEYS[text] for text in texts])).to_pylist()


def taken(space: Workspace, *ids: str) -> tuple[list[bool], list[bool]]:
    """Which ids are taken, and which were taken down for ever."""
    _, index, gone = corpus_index(space, LiveTexts(space))
    return (index.find(hash_ids(ids)) >= 0).tolist(), (gone.find(hash_ids(ids)) >= 0).tolist()


def test_where_nothing_was_retracted_everything_lives(workspace: Workspace) -> None:
    assert alive(workspace) == set(KEYS)
    assert [a.shard for a in LiveTexts(workspace).visible] == ["a", "b", "c"]
    assert names(workspace, "one", "three", "two") == ["a0", "b1", "a1"]
    assert taken(workspace, "a0", "b1", "x") == ([True, True, False], [False] * 3)


def test_a_text_outlives_its_shard_where_another_has_it(workspace: Workspace) -> None:
    workspace.ledger.retract_shard("a", VANISHED)
    assert alive(workspace) == {"two", "three", "four"}
    living = LiveTexts(workspace)
    assert [a.shard for a in living.live] == ["b", "c"]
    assert [a.shard for a in living.visible] == ["a", "b", "c"], "its cells hold a text that lives"
    assert names(workspace, "two", "three") == ["b0", "b1"]
    assert taken(workspace, "a0", "b0") == ([False, True], [False, False])

    workspace.ledger.retract_shard("b", VANISHED)
    assert alive(workspace) == {"three", "four"}
    assert [a.shard for a in LiveTexts(workspace).visible] == ["b", "c"], "of the first no text is left"


def test_a_dead_text_that_comes_again_is_a_new_text(workspace: Workspace) -> None:
    workspace.ledger.retract_shard("a", VANISHED)
    workspace.ledger.register([("d", "file:///d", "csv", None)])
    admit(workspace, 4, "d", ["one", "two"])
    living = LiveTexts(workspace)
    again = text_keys(4, np.array([0]))
    assert living.texts(np.array([KEYS["one"], int(again[0])])).tolist() == [False, True]
    index, _, _ = corpus_index(workspace, living)
    assert index.find(hash_texts(["one", "two"])).tolist() == [int(again[0]), KEYS["two"]]


def test_a_text_dies_with_the_last_of_its_records_that_is_taken_down(workspace: Workspace) -> None:
    first = workspace.ledger.admissions()[0]
    workspace.ledger.retract_records(first, [(0, "a0")])
    assert alive(workspace) == set(KEYS) and names(workspace, "one") == ["a2"], "another record has it"
    assert taken(workspace, "a0", "a2") == ([True, True], [True, False])
    workspace.ledger.retract_records(first, [(2, "a2"), (1, "a1")])
    assert alive(workspace) == {"two", "three", "four"} and names(workspace, "two") == ["b0"]
    living = LiveTexts(workspace)
    assert living.accepted(first, AdmittedShard.read(workspace.admitted(first))).tolist() == []
    assert living.stale(np.array([KEYS["one"], KEYS["two"], KEYS["three"]])).tolist() == [True, True, False]


def test_new_content_is_compared_with_what_is_there_without_the_old(workspace: Workspace) -> None:
    living = LiveTexts(workspace, without=["b"])
    index, ids, _ = corpus_index(workspace, living)
    assert (index.find(hash_texts(["one", "two", "three"])) >= 0).tolist() == [True, True, True]
    assert (ids.find(hash_ids(["a0", "b0"])) >= 0).tolist() == [True, False]
    living = LiveTexts(workspace, without=["b", "c"])
    index, _, _ = corpus_index(workspace, living)
    assert (index.find(hash_texts(["one", "three", "four"])) >= 0).tolist() == [True, False, False]


def test_ids_that_were_taken_down_with_their_shard_are_known(workspace: Workspace) -> None:
    workspace.ledger.retract_shard("c", TAKEDOWN, [(0, "c0"), (1, "c1")])
    assert alive(workspace) == {"one", "two", "three"}
    assert taken(workspace, "c0", "b0") == ([False, True], [True, False])


def test_a_record_whose_id_was_taken_keeps_no_text_alive(workspace: Workspace) -> None:
    workspace.ledger.register([("d", "file:///d", "csv", None)])
    admit(workspace, 4, "d", ["one", "four"], rejected=[0])
    workspace.ledger.retract_shard("a", VANISHED)
    assert alive(workspace) == {"two", "three", "four"}
