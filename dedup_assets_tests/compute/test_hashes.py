"""Promises of looking up hashes as arrays, against dictionaries."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dedup_assets.compute.hashes import HashIndex, empty_hashes, first_occurrences, hash_ids
from dedup_assets.compute.text import hash_text, hash_texts, hash_to_hex, normalise_text

# Few values, so that upper halves are often shared, and both ends of the range.
half = st.sampled_from([0, 1, 2, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1])
hashes = st.tuples(half, half)


def array(rows: list[tuple[int, int]]) -> np.ndarray:
    return np.array(rows, dtype=np.uint64).reshape(-1, 2)


@given(st.dictionaries(hashes, st.integers(0, 2**62)), st.lists(hashes))
def test_an_index_answers_like_a_dictionary(known: dict[tuple[int, int], int], wanted: list[tuple[int, int]]) -> None:
    index = HashIndex(array(list(known)), np.array(list(known.values()), np.int64))
    assert len(index) == len(known)
    found = index.find(array(wanted))
    assert found.dtype == np.int64
    assert found.tolist() == [known.get(row, -1) for row in wanted]


@given(st.dictionaries(hashes, st.integers(0, 99)), st.dictionaries(hashes, st.integers(0, 99)), st.lists(hashes))
def test_an_extended_index_knows_both_and_leaves_the_first_as_it_was(
    first: dict[tuple[int, int], int], more: dict[tuple[int, int], int], wanted: list[tuple[int, int]]
) -> None:
    new = {row: value for row, value in more.items() if row not in first}
    index = HashIndex(array(list(first)), np.array(list(first.values()), np.int64))
    both = index.extended(array(list(new)), np.array(list(new.values()), np.int64))
    assert both.find(array(wanted)).tolist() == [(first | new).get(row, -1) for row in wanted]
    assert index.find(array(wanted)).tolist() == [first.get(row, -1) for row in wanted]


@given(st.integers(1, 40), st.lists(st.integers(0, 60), max_size=20))
def test_many_hashes_of_one_upper_half_are_told_apart(count: int, wanted: list[int]) -> None:
    rows = [(7, low) for low in range(count)]
    index = HashIndex(array(rows[::-1]), np.arange(count)[::-1])
    assert index.find(array([(7, low) for low in wanted])).tolist() == [low if low < count else -1 for low in wanted]
    assert index.find(array([(6, 0), (8, 0)])).tolist() == [-1, -1]


@given(st.lists(hashes, max_size=60))
def test_first_occurrences_are_those_of_a_dictionary(rows: list[tuple[int, int]]) -> None:
    seen: dict[tuple[int, int], int] = {}
    expected = [seen.setdefault(row, i) for i, row in enumerate(rows)]
    found = first_occurrences(array(rows))
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_nothing_is_found_in_nothing() -> None:
    index = HashIndex(empty_hashes(), np.empty(0, np.int64))
    assert len(index) == 0
    assert index.find(array([(1, 2)])).tolist() == [-1]
    assert index.find(empty_hashes()).shape == (0,)
    assert first_occurrences(empty_hashes()).shape == (0,)


@given(st.lists(st.text(max_size=6), max_size=12))
def test_texts_and_ids_hash_to_the_halves_of_their_digest(texts: list[str]) -> None:
    digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
    for found in (hash_texts(texts), hash_ids(texts)):
        assert found.dtype == np.uint64 and found.shape == (len(texts), 2)
        assert hash_to_hex(found) == [digest.hex() for digest in digests]
    assert [hash_text(text) for text in texts] == digests


@given(st.lists(st.text(max_size=6), max_size=12))
def test_hashes_sort_like_the_digests_they_stand_for(texts: list[str]) -> None:
    found = hash_texts(texts)
    order = np.lexsort((found[:, 1], found[:, 0]))
    assert [hash_text(texts[i]) for i in order] == sorted(map(hash_text, texts))


def test_only_the_normal_form_asked_for_is_applied() -> None:
    composed, decomposed, ligature = "é", "e\u0301", "ﬁ"
    assert normalise_text(decomposed, "none") == decomposed
    assert normalise_text(decomposed, "NFC") == composed
    assert normalise_text(ligature, "NFC") == ligature
    assert normalise_text(ligature, "NFKC") == "fi"
    assert normalise_text(" A \n", "NFKC") == " A \n"
