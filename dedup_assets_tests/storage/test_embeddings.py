"""Promises of the table of embeddings: a text has one vector, and vectors come back as asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dedup_assets.compute.text import hash_texts, hash_to_hex
from dedup_assets.errors import SourceError, WorkspaceError
from dedup_assets.storage.embeddings import _HASHES_PER_PREDICATE, HASHES, TABLE, EmbeddingTable

DIMENSION = 8


def vectors_of(texts: list[str], dtype: str = "float16") -> np.ndarray:
    """A unit vector for each text that depends on nothing else."""
    seeds = hash_texts(texts)[:, 0] if texts else np.empty(0, np.uint64)
    raw = np.array([np.random.default_rng(int(seed)).standard_normal(DIMENSION) for seed in seeds])
    raw = raw.reshape(-1, DIMENSION)
    return (raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-9)).astype(dtype)


def put(table: EmbeddingTable, shards: dict[str, list[str]]) -> None:
    """Add the vectors of the texts of some shards, all at once."""
    texts = [text for part in shards.values() for text in part]
    owners = [shard for shard, part in shards.items() for _ in part]
    hashes = hash_texts(texts)
    table.add([table.rows([f"id {text}" for text in texts], owners, hashes, vectors_of(texts, table.dtype.name))])


def content(table: EmbeddingTable) -> list[tuple[object, ...]]:
    rows = table._table.search().to_arrow().to_pylist()
    return sorted((row["id"], row["shard"], row["text_hash"], tuple(map(float, row["vector"]))) for row in rows)


def numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


@pytest.fixture
def table(tmp_path: Path) -> EmbeddingTable:
    return EmbeddingTable(tmp_path / "lancedb", DIMENSION, "float16")


def test_adding_a_shard_twice_is_adding_it_once_in_one_version_each(table: EmbeddingTable) -> None:
    put(table, {"a": numbered("a", 30), "b": numbered("b", 5)})
    before, version = content(table), table._table.version
    assert len(before) == len(table) == 35
    put(table, {"a": numbered("a", 30), "b": numbered("b", 5)})
    assert content(table) == before
    assert table._table.version <= version + 1


def parts_of(table: EmbeddingTable, shard: str, texts: list[str], rows: int = 7) -> Iterator[pa.Table]:
    for start in range(0, len(texts), rows):
        part = texts[start : start + rows]
        yield table.rows(part, [shard] * len(part), hash_texts(part), vectors_of(part, table.dtype.name))


def test_texts_that_are_unknown_are_appended_without_looking_at_those_that_are_there(
    table: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(table, {"a": numbered("a", 30)})
    assert len(table.known()) == 30
    monkeypatch.setattr(table._table, "merge_insert", None)
    version = table.versions()
    table.add(parts_of(table, "b", numbered("b", 20)), unknown=True)
    table.add(parts_of(table, "c", numbered("c", 20)), unknown=True)
    assert (len(table), table.versions()) == (70, version + 2)
    for shard in ("a", "b", "c"):
        texts = numbered(shard, 20)
        np.testing.assert_array_equal(table.vectors(shard, hash_texts(texts)), vectors_of(texts))


def test_a_text_that_another_process_added_since_is_not_added_again(table: EmbeddingTable, tmp_path: Path) -> None:
    table.known()
    put(EmbeddingTable(tmp_path / "lancedb", DIMENSION, "float16"), {"other": ["x", "y"]})
    table.add(parts_of(table, "mine", ["w", "x"]), unknown=True)
    table.add(parts_of(table, "mine", ["y", "z"]), unknown=True)  # still of what was known at first
    hex_of = dict(zip(hash_to_hex(hash_texts(list("wxyz"))), "wxyz", strict=True))
    found = sorted((hex_of[str(row[2])], row[1]) for row in content(table))
    assert found == [("w", "mine"), ("x", "other"), ("y", "other"), ("z", "mine")]


def test_nothing_to_add_makes_no_version(table: EmbeddingTable) -> None:
    table.known()
    before = table.versions()
    for unknown in (False, True):
        table.add([], unknown=unknown)
        table.add([table.rows([], [], hash_texts([]), vectors_of([]))], unknown=unknown)
    assert table.versions() == before


def test_a_text_keeps_its_vector_and_the_shard_that_brought_it(table: EmbeddingTable) -> None:
    hashes = hash_texts(["text"])
    first, second = np.eye(DIMENSION, dtype=np.float16)[:2]
    for shard, vector in (("a", first), ("b", second)):
        table.add([table.rows(["1"], [shard], hashes, vector[None])])
    assert [row[1] for row in content(table)] == ["a"]
    np.testing.assert_array_equal(table.vectors("b", hashes), first[None])


def test_removing_texts_removes_these_alone_and_again_changes_nothing(table: EmbeddingTable) -> None:
    texts = numbered("t", _HASHES_PER_PREDICATE + 20)
    put(table, {"a": texts[::2], "b": texts[1::2]})
    gone = hash_texts(["never there", *texts[5:]])
    assert [table.remove(gone), table.remove(gone), table.remove(hash_texts([]))] == [len(texts) - 5, 0, 0]
    assert sorted(row[0] for row in content(table)) == [f"id {text}" for text in texts[:5]]


def test_what_a_second_process_of_the_workspace_opens_is_the_same_table(tmp_path: Path) -> None:
    first = EmbeddingTable(tmp_path, DIMENSION, "float16")
    put(first, {"a": numbered("a", 3)})
    assert content(EmbeddingTable(tmp_path, DIMENSION, "float16")) == content(first)


# -- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vectors_come_in_the_order_asked_for_whichever_shard_brought_them(tmp_path: Path, dtype: str) -> None:
    table = EmbeddingTable(tmp_path, DIMENSION, dtype)
    put(table, {"a": numbered("a", 60), "b": numbered("b", 60)})
    texts = [*numbered("a", 60), *numbered("b", 60), "a3", "b4"]
    shuffled = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
    for shard in ("a", "b", "never-embedded"):
        found = table.vectors(shard, hash_texts(shuffled))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, vectors_of(shuffled, dtype))
    assert table.vectors("a", hash_texts([])).shape == (0, DIMENSION)


def test_more_texts_of_other_shards_than_one_query_takes_are_all_found(table: EmbeddingTable) -> None:
    texts = numbered("t", _HASHES_PER_PREDICATE + 3)
    put(table, {"a": texts[::2], "b": texts[1::2]})
    np.testing.assert_array_equal(table.vectors("c", hash_texts(texts)), vectors_of(texts))


def test_vectors_are_found_by_text_alone_and_what_is_missing_is_told(table: EmbeddingTable) -> None:
    texts = numbered("t", _HASHES_PER_PREDICATE + 3)
    put(table, {"a": texts[::2], "b": texts[1::2]})
    wanted = ["absent", *texts, "missing"]
    vectors, found = table.find_vectors(hash_texts(wanted))
    assert found.tolist() == [False, *[True] * len(texts), False]
    np.testing.assert_array_equal(vectors[found], vectors_of(texts))
    assert table.find_vectors(hash_texts([]))[0].shape == (0, DIMENSION)


@pytest.mark.parametrize("windows", [1, 2, 7])
def test_windows_of_the_hashes_hold_every_text_once(table: EmbeddingTable, windows: int) -> None:
    texts = numbered("t", 300)
    put(table, {"a": texts[:200], "b": texts[200:]})
    bounds = [HASHES * number // windows for number in range(windows + 1)]
    seen = {}
    for first, stop in itertools.pairwise(bounds):
        for hashes, shards, vectors in table.scan(first, stop):
            for text_hash, shard, vector in zip(hash_to_hex(hashes), shards.to_pylist(), vectors, strict=True):
                assert text_hash not in seen and first <= int(text_hash, 16) < stop
                seen[text_hash] = (shard, tuple(map(float, vector)))
    assert seen == {row[2]: (row[1], row[3]) for row in content(table)}
    of_one = [shard for _, shards, _ in table.scan(shards=["b"]) for shard in shards.to_pylist()]
    assert of_one == ["b"] * 100


def test_a_text_without_a_vector_is_an_error_that_says_what_to_do(table: EmbeddingTable) -> None:
    put(table, {"a": numbered("a", 3)})
    with pytest.raises(WorkspaceError, match=r"2 texts of shard a have no vector .* materialise the asset"):
        table.vectors("a", hash_texts(["a0", "missing", "a2", "absent"]))


def test_all_known_texts_are_found_and_no_others(table: EmbeddingTable) -> None:
    assert len(table.known()) == 0
    put(table, {"a": numbered("a", 40), "b": numbered("b", 40)})
    known = table.known()
    assert len(known) == 80
    found = known.find(hash_texts([*numbered("a", 40), *numbered("b", 40), *numbered("c", 40)]))
    assert sorted(found[:80]) == list(range(80))
    assert (found[80:] == -1).all()


def test_a_sample_does_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    shards = {name: numbered(name, 40) for name in "abc"}
    orders = (["a", "b", "c"], ["c", "a", "b"])
    samples = []
    for turn, order in enumerate(orders):
        table = EmbeddingTable(tmp_path / str(turn), DIMENSION, "float16")
        for shard in order:
            put(table, {shard: shards[shard][:: -1 if turn else 1]})
        if turn:
            table.compact()
        samples.append([table.sample(count, seed) for count in (0, 1, 50, 120, 500) for seed in (0, 1)])
    for one, other in zip(*samples, strict=True):
        np.testing.assert_array_equal(one, other)
    everything = {tuple(vector) for vector in vectors_of([text for part in shards.values() for text in part])}
    for sample in samples[0]:
        assert len({tuple(vector) for vector in sample}) == len(sample)
        assert {tuple(vector) for vector in sample} <= everything
    assert [len(sample) for sample in samples[0]] == [0, 0, 1, 1, 50, 50, 120, 120, 120, 120]
    assert not np.array_equal(samples[0][4], samples[0][5])


def test_a_sample_of_nothing_is_empty(table: EmbeddingTable) -> None:
    assert table.sample(5, 0).shape == (0, DIMENSION)
    assert table.first_vectors("a", 5).shape == (0, DIMENSION)


def test_the_first_vectors_of_a_shard_are_its_own(table: EmbeddingTable) -> None:
    put(table, {"a": numbered("a", 30), "b": numbered("b", 30)})
    own = {tuple(vector) for vector in vectors_of(numbered("b", 30))}
    for count in (1, 20, 50):
        found = [tuple(vector) for vector in table.first_vectors("b", count)]
        assert len(set(found)) == min(count, 30)
        assert set(found) <= own


def test_the_nearest_texts_are_those_of_the_highest_cosine(table: EmbeddingTable) -> None:
    texts = numbered("a", 50)
    put(table, {"a": texts[:25], "b": texts[25:]})
    vectors = vectors_of(texts).astype(np.float64)
    cosine = vectors @ vectors[7] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[7])
    order = np.argsort(-cosine)[:12]
    found = table.nearest(vectors[7], 12)
    assert [row["id"] for row in found] == [f"id {texts[i]}" for i in order]
    np.testing.assert_allclose([1 - float(str(row["_distance"])) for row in found], cosine[order], atol=2e-3)


def test_compacting_changes_no_row(table: EmbeddingTable) -> None:
    for shard in "abcd":
        put(table, {shard: numbered(shard, 5)})
    before = content(table)
    table.compact()
    assert content(table) == before


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimension", "dtype"), [(DIMENSION + 1, "float16"), (DIMENSION, "float32")])
def test_vectors_of_another_kind_are_refused_with_what_differs(
    table: EmbeddingTable, tmp_path: Path, dimension: int, dtype: str
) -> None:
    put(table, {"a": numbered("a", 3)})
    before = content(table)
    with pytest.raises(WorkspaceError) as refused:
        EmbeddingTable(tmp_path / "lancedb", dimension, dtype)
    message = str(refused.value)
    assert f"Table {TABLE}" in message and "halffloat" in message and f"[{DIMENSION}]" in message
    assert f"[{dimension}]" in message
    assert "settings the workspace was made with" in message and "new workspace" in message
    assert content(table) == before


@pytest.mark.parametrize("dimension", [DIMENSION - 1, DIMENSION + 1, 2 * DIMENSION])
def test_rows_of_a_wrong_dimension_cannot_be_arranged(table: EmbeddingTable, dimension: int) -> None:
    texts = numbered("a", DIMENSION)  # so many that the numbers alone would fill whole vectors
    with pytest.raises(ValueError):
        table.rows(texts, ["a"] * len(texts), hash_texts(texts), np.zeros((len(texts), dimension), np.float16))


@pytest.mark.parametrize("shard", ["a' OR '1'='1", "../up", "", "a b"])
def test_a_name_that_is_no_shard_key_never_gets_into_a_predicate(table: EmbeddingTable, shard: str) -> None:
    put(table, {"a": numbered("a", 3)})
    for act in (
        lambda: table.vectors(shard, hash_texts(["a0"])),
        lambda: table.first_vectors(shard, 1),
        lambda: list(table.scan(shards=["a", shard])),
    ):
        with pytest.raises(SourceError, match="not a valid shard key"):
            act()
    assert len(table) == 3
