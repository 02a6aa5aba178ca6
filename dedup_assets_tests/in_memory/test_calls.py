"""Deduplication in memory: what comes back, held against brute force and against the workspace."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import dedup_assets as da
from dedup_assets.errors import DedupError
from dedup_assets.in_memory.result import DeduplicationResult
from dedup_assets_tests.compute.vectors import away_from_ties, brute_force, dtypes, floors, kinds, make_vectors, seeds


class Letters:
    """An encoder of a few lines: how often each letter occurs, the first one of the text heavier."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts: list[str]) -> list[list[float]]:
        self.seen += texts
        return [[t.count(c) + 0.5 * t.startswith(c) for c in "abcdefgh"] for t in texts]


words = st.text("abcdefgh ", min_size=0, max_size=7)


def cosines(texts: list[str]) -> np.ndarray:
    """Of the vectors as they are stored; blank texts are like nothing but their copies."""
    raw = np.array(Letters().encode(texts), np.float64).reshape(len(texts), -1)
    raw[[not text.strip() for text in texts]] = 0
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    return brute_force(np.divide(raw, norms, out=np.zeros_like(raw), where=norms > 0).astype(np.float16))


def by_definition(
    texts: list[Any], alike: np.ndarray, order: list[int], threshold: float, fixed: int = 0
) -> dict[int, tuple[int, str]]:
    """Removed records with keeper and kind, judged one after the other. The first `fixed` are references."""
    kept: list[int] = list(range(fixed))
    standing: dict[Any, int] = {}
    for row in range(fixed):
        standing.setdefault(texts[row], row)
    removed: dict[int, tuple[int, str]] = {}
    for row in order:
        if texts[row] in standing and (not fixed or standing[texts[row]] < fixed):
            first = standing[texts[row]]
            removed[row] = removed.get(first, (first, "exact"))
            continue
        near = [other for other in kept if alike[row, other] >= threshold and (not fixed or other < fixed)]
        standing.setdefault(texts[row], row)
        if near:
            top = max(alike[row, other] for other in near)
            removed[row] = (next(other for other in near if alike[row, other] == top), "semantic")
        else:
            kept.append(row)
    return removed


def removed_of(result: DeduplicationResult[Any]) -> dict[int, tuple[int, str]]:
    return {gone.index: (gone.keeper_index, gone.kind) for gone in result.filtered}


# -- against brute force ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(words, min_size=1, max_size=25), st.sampled_from([0.8, 0.9, 0.97, 1.0]), st.booleans())
def test_who_stays_and_who_goes_is_what_comparing_every_pair_says(texts, threshold, longest):
    alike = cosines(texts)
    threshold = away_from_ties(alike, threshold)
    order = sorted(range(len(texts)), key=lambda row: (-len(texts[row]) if longest else 0, row))
    result = da.deduplicate(
        texts, model=Letters(), threshold=threshold, keep="longest" if longest else "first", progress=False
    )
    wanted = by_definition(texts, alike, order, threshold)
    assert removed_of(result) == wanted
    assert result.selected == [text for row, text in enumerate(texts) if row not in wanted]
    assert len(result.selected) + len(result.filtered) == len(texts)
    for gone in result.filtered:
        assert gone.keeper_index not in wanted, "evidence is a record that stays"
        assert gone.similarity >= threshold and (gone.kind == "semantic" or gone.similarity == 1)
    assert result.duplicate_ratio == len(wanted) / len(texts)
    assert result.exact_ratio == sum(kind == "exact" for _, kind in wanted.values()) / len(texts)
    grouped = {gone.index: group.index for group in result.groups() for gone in group.removed}
    assert grouped == {row: keeper for row, (keeper, _) in wanted.items()}
    assert [gone.similarity for gone in result.least_similar(99)] == sorted(g.similarity for g in result.filtered)


@settings(max_examples=60, deadline=None)
@given(st.lists(words, min_size=1, max_size=15), st.lists(words, min_size=1, max_size=15))
def test_against_others_only_these_remove(texts, others):
    every = others + texts
    alike = cosines(every)
    threshold = away_from_ties(alike, 0.9)
    result = da.deduplicate(texts, against=others, model=Letters(), threshold=threshold, progress=False)
    start = len(others)
    wanted = by_definition(every, alike, list(range(start, len(every))), threshold, fixed=start)
    found = {row + start: seen for row, seen in removed_of(result).items()}
    assert found == {row: seen for row, seen in wanted.items()}
    assert all(gone.keeper == others[gone.keeper_index] for gone in result.filtered)
    for pair in result.pairs.to_pylist():
        assert pair["a"] >= 0 and pair["b"] < start, "of a record with one of the others"
        assert alike[pair["a"] + start, pair["b"]] >= threshold


@settings(max_examples=60, deadline=None)
@given(kinds, st.integers(1, 120), dtypes, floors, seeds)
def test_all_matches_of_vectors_are_found_and_no_other(kind, n, dtype, floor, seed):
    vectors = make_vectors(kind, n, 24, dtype, seed)
    alike = brute_force(vectors)
    floor = away_from_ties(alike, floor)
    found = da.find_matches(vectors, threshold=floor, progress=False)
    assert found.schema.names == ["a", "b", "similarity"]
    i, j = np.nonzero(np.triu(alike >= floor, 1))
    assert found["a"].to_pylist() == i.tolist() and found["b"].to_pylist() == j.tolist()
    np.testing.assert_allclose(found["similarity"].to_numpy(), alike[i, j], atol=1e-12)
    half = n // 2
    if half:
        across = da.find_matches(vectors[:half], vectors[half:], threshold=floor, progress=False)
        a, b = np.nonzero(alike[:half, half:] >= floor)
        assert (across["a"].to_pylist(), across["b"].to_pylist()) == (a.tolist(), b.tolist())


@settings(max_examples=40, deadline=None)
@given(kinds, st.integers(2, 60), st.floats(0.5, 1.0), st.floats(0.5, 1.0))
def test_another_threshold_gives_what_a_new_call_gives(kind, n, first, second):
    vectors = make_vectors(kind, n, 16, np.float32, n)
    records = list(range(n))
    moved = da.deduplicate(records, vectors=vectors, threshold=first, progress=False).rethreshold(second)
    fresh = da.deduplicate(records, vectors=vectors, threshold=second, progress=False)
    assert moved.to_arrow() == fresh.to_arrow() and moved.pairs == fresh.pairs
    assert moved.selected == fresh.selected and moved.threshold == second


def test_near_copies_by_the_thousand_are_decided_without_being_listed_and_explained():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1, 32)) + 0.01 * rng.normal(size=(1_500, 32))
    result = da.deduplicate(range(1_500), vectors=vectors, threshold=0.9, progress=False)
    assert result.selected == [0] and result.pairs.num_rows == 0
    assert "not listed" in repr(result)
    assert len(result.explain(7).matches) == 1_499
    assert da.find_matches(vectors, threshold=0.9, progress=False).num_rows == 1_500 * 1_499 // 2


def test_columns_with_weights_are_the_mean_of_their_similarities():
    rows = [{"title": "abc", "body": "ddd"}, {"title": "abc", "body": "eee"}, {"title": None, "body": "eee"}]
    title, body = cosines(["abc", "abc", "x"]), cosines(["ddd", "eee", "eee"])
    result = da.deduplicate(rows, columns={"title": 2, "body": 1}, model=Letters(), threshold=0.5, progress=False)
    pairs = {(p["a"], p["b"]): p["similarity"] for p in result.pairs.to_pylist()}
    assert pairs[0, 1] == pytest.approx((2 * title[0, 1] + body[0, 1]) / 3, abs=1e-3)
    assert pairs[1, 2] == pytest.approx(1 / np.sqrt(3), abs=1e-3)  # one has no title
    assert result.filtered[0].kind == "semantic"
    joined = da.deduplicate(rows[:2], columns=["title", "body"], model=Letters(), threshold=0.999, progress=False)
    assert len(joined.selected) == 2


# -- kinds of records ------------------------------------------------------------------------------

TEXTS = ["abc abc", "abcc ab", "ffff", "abc abc", "gh"]
ROWS = [{"n": n, "text": text, "q": q} for n, (text, q) in enumerate(zip(TEXTS, [1, 5, 2, 3, None], strict=True))]


@pytest.mark.parametrize(
    "make",
    [
        lambda: TEXTS,
        lambda: tuple(TEXTS),
        lambda: np.array(TEXTS),
        lambda: ROWS,
        lambda: pd.DataFrame(ROWS, index=[9, 8, 7, 6, 5]),
        lambda: pd.Series(TEXTS, index=[9, 8, 7, 6, 5]),
        lambda: pl.DataFrame(ROWS),
        lambda: pl.Series(TEXTS),
        lambda: pa.Table.from_pylist(ROWS),
        lambda: pa.RecordBatch.from_pylist(ROWS),
        lambda: pa.chunked_array([TEXTS[:2], TEXTS[2:]]),
        lambda: pa.array(TEXTS).dictionary_encode(),
        lambda: Dataset.from_list(ROWS),
    ],
    ids=["list", "tuple", "numpy", "dicts", "pandas", "series", "polars", "polars-series", "table", "batch", "chunked",
         "array", "dataset"],
)  # fmt: skip
def test_what_stays_is_of_the_type_that_came_in(make):
    records = make()
    result = da.deduplicate(records, model=Letters(), threshold=0.9, progress=False)
    assert type(result.selected) is type(records)
    assert removed_of(result) == {1: (0, "semantic"), 3: (0, "exact")}
    assert result.selected_indices.tolist() == [0, 2, 4] and len(result.selected) == 3
    if isinstance(records, pd.DataFrame | pd.Series):
        assert result.selected.index.tolist() == [9, 7, 5]
    first = result.filtered[0]
    if isinstance(first.record, dict):
        assert first.record == ROWS[1] and first.keeper == ROWS[0]
    else:
        assert first.record == TEXTS[1] and first.keeper == TEXTS[0]
    assert len(repr(result).splitlines()) <= 10 and "Deduplication of 5 records" in result._repr_html_()
    assert "2 removed records" in repr(result.filtered) and "<table>" in result.filtered._repr_html_()


@pytest.mark.parametrize("make", [list, pd.DataFrame, pl.DataFrame, pa.Table.from_pylist, Dataset.from_list])
def test_fields_of_structs_and_conversations_are_texts(make):
    rows = [
        {"doc": {"text": text, "rank": rank}, "chat": [{"role": "user", "content": text}]}
        for rank, text in enumerate(["abc", "def", "abc"])
    ]
    for columns in ("doc.text", "chat", ["chat", "doc.text"], {"chat": 1, "doc.text": 2}):
        result = da.deduplicate(make(rows), columns=columns, model=Letters(), keep="column:doc.rank", progress=False)
        assert removed_of(result) == {0: (2, "exact")}, columns
    with pytest.raises(DedupError, match=r"holds struct.*Expected texts.*or conversations"):
        da.deduplicate(make(rows), columns="doc", model=Letters(), progress=False)
    if make is list:
        mixed = [*rows, {"chat": [{"role": "user", "content": [{"type": "text", "text": "abc"}]}]}]
        assert len(da.deduplicate(mixed, columns="chat", model=Letters(), progress=False).selected) == 2
    with pytest.raises(DedupError, match="1 record of records without a text, the first at 3: message 0 has no role"):
        chat = [*({"chat": row["chat"]} for row in rows), {"chat": [{"role": None, "content": "abc"}]}]
        da.deduplicate(make(chat), columns="chat", model=Letters(), progress=False)


def test_a_column_orders_the_keepers():
    for records in (ROWS, pd.DataFrame(ROWS), pl.DataFrame(ROWS), Dataset.from_list(ROWS)):
        result = da.deduplicate(records, model=Letters(), threshold=0.9, keep="column:q", progress=False)
        assert removed_of(result) == {0: (1, "semantic"), 3: (1, "semantic")}


def test_only_distinct_texts_are_embedded_and_blank_ones_match_their_copies_alone():
    class Something(Letters):
        def encode(self, texts: list[str]) -> list[list[float]]:
            return [[*row, 0.1] for row in super().encode(texts)]

    model = Something()
    result = da.deduplicate(["a", "", "a", " ", "", "b"], model=model, threshold=0.5, progress=False)
    assert sorted(model.seen) == ["a", "b"]
    assert removed_of(result) == {2: (0, "exact"), 4: (1, "exact")}


def test_anything_goes_with_vectors_and_equal_vectors_are_copies():
    images = [object() for _ in range(4)]
    vectors = np.array([[1, 0], [0, 3], [1, 0], [0.1, 3]])
    result = da.deduplicate(images, vectors=vectors, threshold=0.9, progress=False)
    assert result.selected == images[:2]
    assert removed_of(result) == {2: (0, "exact"), 3: (1, "semantic")}
    away = da.deduplicate(images, vectors=vectors, against=np.array([[2.0, 0.0]]), threshold=0.9, progress=False)
    assert [gone.index for gone in away.filtered] == [0, 2]
    # A text decides what a copy is, and the first record of it which vector it has.
    texts = da.deduplicate(["x", "y", "x", "z"], vectors=np.eye(4), threshold=0.9, progress=False)
    assert removed_of(texts) == {2: (0, "exact")}
    silent = da.deduplicate([1, 2], vectors=np.zeros((2, 3)), threshold=0.9, progress=False)
    assert silent.selected == [1, 2]


def test_vectors_may_be_a_column_and_a_sequence_is_not_read_through():
    for column in (
        pd.Series(list(np.eye(5))),
        pl.Series(np.eye(5).tolist()),
        pa.array(np.eye(5).tolist()),
        Dataset.from_dict({"v": np.eye(5).tolist()})["v"],
        torch.eye(5),
    ):
        assert removed_of(da.deduplicate(TEXTS, vectors=column, progress=False)) == {3: (0, "exact")}

    class Images(Sequence[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, at: int | slice) -> Any:
            assert at in (0, 2), "the others are copies, and need not be loaded"
            return f"image {at}".encode()

    found = da.deduplicate(Images(), vectors=[[1, 0], [2, 0.1], [0, 1]], threshold=0.9, progress=False)
    assert found.selected == [b"image 0", b"image 2"]
    column = Dataset.from_dict({"text": TEXTS})["text"]
    assert da.deduplicate(column, model=Letters(), threshold=0.9, progress=False).selected == ["abc abc", "ffff", "gh"]


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([], {}, "is empty"),
        (pd.DataFrame({"text": []}), {}, "is empty"),
        ("one text", {}, "put the texts in a list"),
        ({"text": ["a"]}, {}, r"pyarrow\.table"),
        (iter(["a"]), {}, r"list\(records\)"),
        ({"a", "b"}, {}, r"list\(records\)"),
        (pl.LazyFrame({"text": ["a"]}), {}, "collect"),
        (["a", None], {}, "record 1 of records is None"),
        (["a", 3], {}, "record 1 of records is 3"),
        ([None, None], {}, "hold no texts"),
        ([1, 2], {}, "hold no texts"),
        (["a", "\ud800"], {}, "surrogate"),
        (pd.Series(["a", None]), {}, r"1 record of records without a text \(None\), the first at 1"),
        (pl.DataFrame({"text": [None, "b"]}), {}, "the first at 0"),
        ([{"text": "a"}, {"body": "b"}], {}, "the first at 1"),
        ([{"text": "a"}, "b"], {}, "Expected a dict"),
        ([{"text": "a"}, {"text": 3}], {}, "several kinds"),
        (pd.DataFrame({"text": ["a", 3]}), {}, "several kinds"),
        (pa.table({"text": [["a"]]}), {}, "holds list"),
        (pl.DataFrame({"a": ["x"]}), {}, "which column holds the text"),
        (ROWS, {"columns": "body"}, "no column 'body'"),
        (ROWS, {"columns": []}, "columns = "),
        (ROWS, {"columns": {"text": 0}}, "weight above 0"),
        (ROWS, {"columns": {}}, "at least one column"),
        (TEXTS, {"columns": "text"}, "have no columns"),
        (TEXTS, {"threshold": 0}, "threshold = 0"),
        (TEXTS, {"threshold": 1.01}, "threshold = 1.01"),
        (TEXTS, {"threshold": float("nan")}, "threshold = nan"),
        (TEXTS, {"threshold": "0.9"}, "threshold = '0.9'"),
        (TEXTS, {"keep": "best"}, "keep = 'best'"),
        (TEXTS, {"keep": 3}, "keep = 3"),
        (TEXTS, {"keep": "column:q"}, "no columns"),
        (ROWS, {"keep": "column:z"}, "the columns are"),
        (TEXTS, {"model": 5}, "model is an int"),
        (TEXTS, {"vectors": np.ones((4, 2))}, "4 rows for 5 records"),
        (TEXTS, {"vectors": np.ones(5)}, r"shape \(5,\)"),
        (TEXTS, {"vectors": np.ones((5, 0))}, "at least one row"),
        (TEXTS, {"vectors": np.full((5, 2), "x")}, "dtype <U1"),
        (TEXTS, {"vectors": [[1.0], [1.0, 2.0], [1.0], [1.0], [1.0]]}, r"row 1 of vectors has shape \(2,\)"),
        (TEXTS, {"vectors": pd.Series([[1.0], None, [1.0], [1.0], [1.0]])}, r"row 1 of vectors has shape \(\)"),
        (TEXTS, {"vectors": np.array([[1.0], [1], [1], [1], [1e-300]])}, "row 4 of vectors holds numbers too small"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), {}, "two columns of one name"),
        (TEXTS, {"vectors": np.array([[1.0], [np.nan], [1], [1], [1]])}, "row 1 of vectors holds NaN"),
        (TEXTS, {"vectors": np.array([[1.0], [1], [1e300], [1], [1]])}, "row 2 of vectors holds a number beyond"),
        (TEXTS, {"vectors": np.ones((5, 2)), "model": Letters()}, "Give one of them"),
        (TEXTS, {"vectors": np.ones((5, 2)), "against": np.ones((1, 3))}, "of two models"),
        ([1, 2], {"vectors": np.ones((2, 2)), "keep": "longest"}, "have no texts"),
        (TEXTS, {"against": []}, "against is empty"),
        (TEXTS, {"against": "/no/such/workspace"}, "no/such/workspace"),
    ],
)
def test_bad_input_is_refused_with_a_reason(records, options, message):
    with pytest.raises(DedupError, match=message):
        da.deduplicate(records, **{"model": None if "vectors" in options else Letters(), "progress": False, **options})


class Wrong:
    """An encoder that gives what it was made with."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def encode(self, texts: list[str]) -> Any:
        return self.given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((3, 2)), "for 4 texts"),
        (np.ones(5), r"shape \(5,\)"),
        (np.full((4, 2), np.inf), "not finite"),
        (["a"] * 4, "dtype <U1"),
    ],
)
def test_what_an_encoder_gives_is_checked(given, message):
    with pytest.raises(DedupError, match=message):
        da.deduplicate(TEXTS, model=Wrong(given), progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 2)), None, 1.5), "threshold = 1.5"),
        ((np.ones((2, 2)), np.ones((2, 3)), 0.9), "2 numbers, and others 3"),
        ((np.ones((0, 2)), None, 0.9), "at least one row"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(arguments, message):
    vectors, others, threshold = arguments
    with pytest.raises(DedupError, match=message):
        da.find_matches(vectors, others, threshold=threshold)


def test_an_unknown_record_is_not_explained():
    result = da.deduplicate(TEXTS, model=Letters(), progress=False)
    for index in (5, -1, "a"):
        with pytest.raises(DedupError, match="from 0 to 4"):
            result.explain(index)  # type: ignore[arg-type]


# -- where it runs ---------------------------------------------------------------------------------


def test_the_import_is_quick_and_brings_nothing_heavy():
    code = (
        "import sys, time; t = time.perf_counter(); import dedup_assets; t = time.perf_counter() - t\n"
        "heavy = {'torch', 'dagster', 'dask', 'distributed', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "print(t, sorted(heavy))"
    )
    seconds, heavy = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split(maxsplit=1)
    assert heavy.strip() == "[]" and float(seconds) < 0.3


def test_a_script_without_a_main_guard_runs_once_and_starts_no_orchestrator(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys\nimport numpy as np\nimport dedup_assets as da\n"
        "vectors = np.random.default_rng(0).normal(size=(3000, 16))\n"
        "vectors[1500:] = vectors[:1500]\n"
        "found = da.deduplicate(range(3000), vectors=vectors)\n"
        "loaded = {'dagster', 'dask', 'distributed', 'lancedb'} & set(sys.modules)\n"
        "print(json.dumps([len(found.selected), sorted(loaded)]))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout) == [1500, []] and done.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py"]


def test_calls_in_threads_give_the_same_and_leave_torch_its_threads():
    before = torch.get_num_threads()
    vectors = [make_vectors("clustered", 4_000, 32, np.float16, seed) for seed in (0, 1, 2)]
    wanted = [da.find_matches(rows, threshold=0.9) for rows in vectors]
    found: dict[int, pa.Table] = {}

    def work(at: int) -> None:
        found[at] = da.find_matches(vectors[at], threshold=0.9)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[at] for at in range(3)] == wanted
    assert torch.get_num_threads() == before


class Heard:
    """Hears the stages: what each was to do, and what of it was done."""

    def __init__(self) -> None:
        self.totals: dict[str, tuple[int, str]] = {}
        self.done: dict[str, int] = {}
        self.open: list[str] = []

    def stage_started(self, stage: str) -> None:
        self.open.append(stage)

    def stage_total(self, stage: str, total: int, unit: str) -> None:
        assert stage in self.open and stage not in self.totals
        self.totals[stage] = total, unit

    def stage_advanced(self, stage: str, amount: int) -> None:
        self.done[stage] = self.done.get(stage, 0) + amount

    def stage_finished(self, stage: str) -> None:
        self.open.remove(stage)


def test_long_work_says_how_far_it_is_unless_told_not_to(monkeypatch: pytest.MonkeyPatch):
    heard: list[Heard] = []

    @contextmanager
    def caller_progress() -> Iterator[Heard]:
        heard.append(Heard())
        yield heard[-1]

    monkeypatch.setattr("dedup_assets.terminal.live.caller_progress", caller_progress)
    texts = [f"{'abcdefgh'[n % 8]}{'abcdefgh'[n // 8 % 8] * (n % 5)} {n % 900}" for n in range(1_200)]
    da.deduplicate(texts, model=Letters())
    da.find_matches(make_vectors("clustered", 4_000, 16, np.float32, 0), threshold=0.95)
    da.outliers(range(30), vectors=np.eye(30))
    assert heard[0].totals["embedding"] == (len(set(texts)), "texts")
    assert heard[1].totals["matching"][0] > 5 and heard[1].totals["matching"][1] == "cells"
    assert heard[2].totals["neighbours"] == (30, "texts")
    for one in heard:
        assert not one.open and one.done == {stage: total for stage, (total, _) in one.totals.items()}
    with pytest.raises(DedupError):
        da.deduplicate(TEXTS, model=Wrong(np.ones(3)))
    assert not heard[-1].open
    count = len(heard)
    da.deduplicate(texts, model=Letters(), progress=False)
    assert len(heard) == count


def test_examples_of_the_docstrings_give_what_they_say():
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    seen = 0
    for item in (da.deduplicate, da.find_matches, DeduplicationResult):
        for test in finder.find(item, item.__name__):
            seen += runner.run(test).attempted
    assert runner.failures == 0 and seen >= 14
