"""What is taken of a text for the guards, against plain definitions."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute.guard_sets import CHARACTER_RUNS, NUMBERS, WORD_RUNS, WORDS, Sets, numbers_of, sets_of
from dedup_assets_tests.compute.guarding import plain_sets

KINDS = (NUMBERS, WORDS, WORD_RUNS, CHARACTER_RUNS)

alphabet = st.sampled_from(
    [*"ab c1 2.,-'/5A_\n\t", "é", "e\u0301", "雪", "か", "ไ", "한", "٣", "５", "\u00a0", "−", "ﬁ", "ß", "😀"]
)
texts = st.one_of(st.lists(alphabet, max_size=24).map("".join), st.text(max_size=12))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        # thousands, whatever puts them in threes; an ordinary space ends a number
        ("1,000 1'000 1’000 1\u00a0000 1\u202f000 1000", ["1000"]),
        ("1,234,567.50 1.234.567,5 1234567.5", ["1234567.5"]),
        ("1.000.000 1.000,5", ["1000000", "1000.5"]),
        ("1 000", ["1", "0"]),
        ("1,234,5 12,34,567 0,123", ["1,234,5", "12,34,567", "0.123"]),
        # decimals
        ("1.5 1,5 1.50 01.5", ["1.5"]),
        ("1.000 1.0 1 001", ["1"]),
        ("0.10 .5", ["0.1", "5"]),
        # signs
        ("-5 −5 (-5)", ["-5"]),
        ("covid-19 x-5 +5 -0", ["19", "5", "0"]),
        ("3 - 4 --6", ["3", "4", "-6"]),
        # joined numbers stay one
        ("2024-01-02", ["2024-1-2"]),
        ("2024-02-01", ["2024-2-1"]),
        ("v1.2.03 10.0.0.1 10:09 3–4 3-4 1/2 ½", ["1.2.3", "10.0.0.1", "10:9", "3-4", "1/2"]),
        ("1,2,3", ["1,2,3"]),
        # letters end a number, and are none
        ("5kg 5 kg 1e5 A4B7 x²", ["5", "1", "4", "7", "2"]),
        ("one hundred 一百 Ⅻ", []),
        # digits of other scripts
        ("١٢٣ १२३ １２３ 123", ["123"]),
        ("٣٫٥ 3.5", ["3.5"]),
        # ends of sentences and lists
        ("In 2020. Or 2021, 2022: 7/", ["2020", "2021", "2022", "7"]),
        ("007 0 000", ["7", "0"]),
        ("", []),
    ],
)
def test_numbers_are_compared_by_their_value(text: str, numbers: list[str]) -> None:
    assert numbers_of(text) == numbers


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, min_size=1, max_size=5))
def test_sets_are_those_of_the_plain_definitions(some: list[str]) -> None:
    found, wanted = sets_of(some, KINDS), [plain_sets(text) for text in some]
    for kind in KINDS:
        plain = [sets[kind] for sets in wanted]
        assert found[kind].sizes.tolist() == list(map(len, plain))
        one, other = (at.ravel() for at in np.indices((len(some), len(some))))
        shared = found[kind].overlap(one, other).tolist()
        assert shared == [len(plain[i] & plain[j]) for i, j in zip(one.tolist(), other.tolist(), strict=True)], kind


@settings(max_examples=100, deadline=None)
@given(texts)
def test_case_and_compatible_forms_make_no_difference(text: str) -> None:
    folded = unicodedata.normalize("NFKC", text.casefold())
    again = unicodedata.normalize("NFKC", folded).casefold()
    if unicodedata.normalize("NFKC", again) == folded and not re.search("[\u00a0\u2009\u202f]", text):
        for kind, sets in sets_of([text, folded], KINDS).items():
            assert sets.overlap(np.array([0]), np.array([1]))[0] == sets.sizes[0] == sets.sizes[1], kind


def test_a_set_is_the_same_beside_any_other_texts() -> None:
    some = [f"text {at} of " + "word " * (at % 7) + "end" * (at % 5) for at in range(60)]
    alone = {kind: Sets.joined([sets_of([text], [kind])[kind] for text in some]) for kind in KINDS}
    for kind, sets in sets_of(some, KINDS).items():
        np.testing.assert_array_equal(sets.values, alone[kind].values)
        rows = np.array([3, 59, 3, 0])
        np.testing.assert_array_equal(
            sets.take(rows).values, np.concatenate([alone[kind].take(rows[at : at + 1]).values for at in range(4)])
        )
