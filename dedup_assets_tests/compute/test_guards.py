"""Guards decide as comparing every pair by their plain definitions does, in listed pairs and in dense cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute import dense, dense_guarded, guards
from dedup_assets.compute.guards import Covers, TextList, guard_values
from dedup_assets.compute.in_memory import deduplicate_vectors
from dedup_assets.compute.similarity import canonical_pairs
from dedup_assets.errors import SettingsError
from dedup_assets.guard_rule import Guard, load_function, parse_guards
from dedup_assets_tests.compute.guarding import holds, longer
from dedup_assets_tests.compute.vectors import seeds

OWN = f"{longer.__module__}:longer"

RULES = [
    ["numbers"],
    ["contains>=0.5"],
    ["words>=0.4"],
    ["shingles>=0.3"],
    ["numbers", "contains>=0.8", "shingles>=0.2"],
    [OWN],
    [OWN, "words>=0.3"],
]


def corpus(seed: int, n: int) -> tuple[np.ndarray, list[str]]:
    """Near-copies of three templates, and short texts of few words and numbers, all of them different."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(3, 16))
    vectors = base[rng.integers(0, 3, n)] + rng.choice([0.0, 0.02, 0.1, 0.3], (n, 1)) * rng.normal(size=(n, 16))
    texts = [" ".join(rng.choice(["a", "b", "c", "1", "2", "3,5"], rng.integers(0, 6))) for _ in range(n)]
    return vectors.astype(np.float16), texts


def walked(vectors: np.ndarray, texts: Sequence[str], rules: Sequence[str], threshold: float, rule: str) -> list[int]:
    """Row by row over all pairs: -1 where a row stays, else the row it names."""
    n = len(texts)
    i, j = np.triu_indices(n, 1)
    similarity = np.zeros((n, n))
    similarity[i, j] = canonical_pairs(vectors, i, j)
    named: list[int] = []
    for row in range(n):
        before = [k for k in range(row) if rule == "semdedup" or named[k] < 0]
        covers = [
            k for k in before
            if similarity[k, row] >= threshold and holds(rules, texts[k], texts[row], {OWN: longer})
        ]  # fmt: skip
        named.append(max(covers, key=lambda k: (similarity[k, row], -k), default=-1))
    return named


@settings(max_examples=40, deadline=None)
@given(
    seeds, st.integers(1, 60), st.sampled_from(RULES), st.sampled_from(["leader", "semdedup"]), st.integers(0, 3),
    st.sampled_from([0.0, 0.1, 1.0]), st.booleans(),
)  # fmt: skip
def test_decisions_are_those_of_applying_the_guards_to_every_pair(seed, n, rules, rule, dense_limit, share, in_pieces):
    vectors, texts = corpus(seed, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guards, "CANDIDATES_SHARE", share)  # by candidates, by products, or both
        if in_pieces:
            patch.setattr(guards, "HELD_BYTES", 60)
            patch.setattr(guards, "BLOCK_PAIRS", 7)
            patch.setattr(guards, "READ_CHARACTERS", 20)
            patch.setattr(guards, "APART_TEXTS", 2)
            patch.setattr(dense, "FIRST_PIECE", 5)
            patch.setattr(dense_guarded, "FIRST_LOOKS", 1)
            patch.setattr(dense_guarded, "BLOCK", (3, 4))
        covers = Covers(parse_guards(rules), TextList(texts))
        found = deduplicate_vectors(vectors, 0.95, rule=rule, dense_limit=dense_limit, covers=covers).decisions
    assert found.keeper.tolist() == walked(vectors, texts, rules, 0.95, rule)
    kept = found.keeper < 0
    np.testing.assert_array_equal(found.kept, kept)
    rows = np.flatnonzero(~kept)
    np.testing.assert_array_equal(found.similarity[rows], canonical_pairs(vectors, found.keeper[rows], rows))


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 30), st.integers(1, 40), st.sampled_from(RULES), st.integers(0, 3))
def test_of_references_the_most_similar_that_fulfils_the_guards_is_named(seed, before, after, rules, dense_limit):
    vectors, texts = corpus(seed, before + after)
    reference = np.arange(before + after) < before
    covers = Covers(parse_guards(rules), TextList(texts))
    found = deduplicate_vectors(vectors, 0.95, reference=reference, dense_limit=dense_limit, covers=covers).decisions
    for row in range(before, before + after):
        similarity = canonical_pairs(vectors, np.arange(before), np.full(before, row))
        fit = [
            k for k in range(before) if similarity[k] >= 0.95 and holds(rules, texts[k], texts[row], {OWN: longer})
        ]  # fmt: skip
        assert found.keeper[row] == max(fit, key=lambda k: (similarity[k], -k), default=-1)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.floats(0.001, 1.0))
def test_every_guard_holds_of_a_text_and_its_copy(text, bound):
    rules = [Guard("numbers"), *(Guard(name, bound) for name in ("contains", "words", "shingles")), Guard("words", 1.0)]
    for each in guard_values(rules, text, text):
        assert each["value"] == 1.0 and each["holds"]


@pytest.mark.parametrize(
    ("guard", "keeper", "removed", "value"),
    [
        ("numbers", "5 kg, 20 m", "5 kg", 1.0),
        ("numbers", "5 kg", "5 kg, 20 m", 0.5),
        ("numbers", "none", "", 1.0),
        ("contains>=0.5", "a b c d e", "b c d", 1.0),
        ("contains>=0.5", "b c d", "a b c d e", 1 / 3),
        ("contains>=0.5", "a b c", "a b", 0.0),  # the only run of the shorter one is "a b"
        ("words>=0.5", "one two three", "three two four", 0.5),
        ("shingles>=0.5", "abcdef", "abcdeg", 1 / 3),
        ("contains>=0.8", "东京大学很大", "东京大学大", 2 / 3),  # characters are words: 3 runs, 2 of them there
        (OWN, "ab", "abc", 0.0),
    ],
)
def test_values_are_the_shares_that_the_table_says(guard, keeper, removed, value):
    (found,) = guard_values(parse_guards([guard]), keeper, removed)
    assert found["value"] == value
    assert found["holds"] == (value >= parse_guards([guard])[0].bound)


def test_a_share_that_equals_the_bound_holds():
    for whole in range(1, 60):
        words = [f"w{at}" for at in range(whole)]
        for part in range(1, whole + 1):
            rules = [Guard("words", float(f"{part / whole!r}"))]
            assert Covers(rules, TextList([" ".join(words), " ".join(words[:part])]))(np.array([0]), np.array([1]))[0]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("no_such_module:f", "cannot be imported: No module named"),
        ("json:no_such", "cannot be imported: module 'json' has no attribute"),
        ("json:__doc__", "is no function"),
    ],
)
def test_a_function_that_cannot_be_had_is_named(name, match):
    with pytest.raises(SettingsError, match=match):
        load_function(Guard(name))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("operator:truediv", "failed with TypeError"),
        ("os.path:commonprefix", "failed with"),
        ("operator:add", "gave 'ab'"),
    ],
)
def test_a_function_that_fails_or_gives_no_bool_is_named(name, match):
    with pytest.raises(SettingsError, match=match):
        Covers([Guard(name)], TextList(["a", "b"]))(np.array([0]), np.array([1]))
