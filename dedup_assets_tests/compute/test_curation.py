"""Promises of deciding records, against an oracle that walks them one by one in the curation order."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute.curation import NONE, BatchDecisions, TextDecisions, decide_batch

THRESHOLD = 0.9
KEY_BITS = 40


@dataclass
class Corpus:
    """Records in batches. A text is a number; `similarity` joins different texts."""

    batches: list[list[int]]  # the text of each record
    orders: list[list[int]]  # curation order inside each batch
    similarity: dict[tuple[int, int], float]  # of texts a < b
    shuffle: int = 0  # how the matches are presented
    keys: dict[int, int] = field(init=False)  # text: batch number, then row of its first record

    def __post_init__(self) -> None:
        self.keys = {}
        for number, batch in enumerate(self.batches, 1):
            for row, text in enumerate(batch):
                self.keys.setdefault(text, (number << KEY_BITS) | row)

    @property
    def walk(self) -> list[tuple[int, int]]:
        """(batch, row) of all records in curation order."""
        return [(b, row) for b, order in enumerate(self.orders) for row in order]

    def like(self, a: int, b: int) -> float:
        return self.similarity.get((min(a, b), max(a, b)), -1.0)

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All matches that are stored, either way round, some twice."""
        rng = np.random.default_rng(self.shuffle)
        rows = [(self.keys[a], self.keys[b], s) for (a, b), s in self.similarity.items() if {a, b} <= self.keys.keys()]
        rows += rows[: len(rows) // 3]
        rows = [rows[i] for i in rng.permutation(len(rows))]
        rows = [(b, a, s) if rng.random() < 0.5 else (a, b, s) for a, b, s in rows]
        return (
            np.array([row[0] for row in rows], np.int64),
            np.array([row[1] for row in rows], np.int64),
            np.array([row[2] for row in rows], np.float64),
        )


Decision = tuple[bool, int, float, bool]  # kept, text of the keeper or -1, similarity or -1, exact


def oracle(corpus: Corpus, rule: str = "leader") -> dict[tuple[int, int], Decision]:
    """Walk the records; compare each with every record before it."""
    earlier: list[tuple[int, bool]] = []  # text, kept
    decided: dict[tuple[int, int], Decision] = {}
    of_text: dict[int, Decision] = {}
    for b, row in corpus.walk:
        text = corpus.batches[b][row]
        removes = [other for other, kept in earlier if kept or rule == "semdedup"]
        matches = [other for other in removes if other != text and corpus.like(text, other) >= THRESHOLD]
        if (text, True) in earlier:
            decision = (False, text, 1.0, True)
        elif text in of_text:  # removed before: a record shares the fate of its text
            assert matches
            decision = of_text[text]
        elif matches:
            best = max(matches, key=lambda other: corpus.like(text, other))  # the first of equal ones
            decision = of_text[text] = (False, best, corpus.like(text, best), False)
        else:
            decision = of_text[text] = (True, -1, -1.0, False)
        decided[b, row] = decision
        earlier.append((text, decision[0]))
    return decided


def read(corpus: Corpus, decisions: BatchDecisions, where: list[tuple[int, int]]) -> dict[tuple[int, int], Decision]:
    text_of = {key: text for text, key in corpus.keys.items()} | {NONE: -1}
    similarity = np.where(np.isnan(decisions.similarity), -1.0, decisions.similarity)
    columns = (decisions.kept, decisions.keeper, similarity, decisions.exact)
    return {
        place: (bool(kept), text_of[int(keeper)], float(score), bool(exact))
        for place, kept, keeper, score, exact in zip(where, *columns, strict=True)
    }


def at_once(corpus: Corpus, rule: str = "leader") -> tuple[dict[tuple[int, int], Decision], BatchDecisions]:
    """All batches as one, in the same order."""
    starts = np.cumsum([0, *map(len, corpus.batches)])
    texts = np.array([corpus.keys[text] for batch in corpus.batches for text in batch], np.int64)
    order = np.array([starts[b] + row for b, row in corpus.walk], np.int64)
    decisions = decide_batch(texts, order, corpus.pairs(), THRESHOLD, TextDecisions.empty(), rule)
    where = [(b, row) for b, batch in enumerate(corpus.batches) for row in range(len(batch))]
    return read(corpus, decisions, where), decisions


def in_batches(
    corpus: Corpus, rule: str = "leader", only_referred: bool = False
) -> tuple[dict[tuple[int, int], Decision], list[BatchDecisions]]:
    """One batch after the other; each sees what was decided before and nothing that comes later."""
    known = TextDecisions.empty()
    decided: dict[tuple[int, int], Decision] = {}
    steps = []
    a, b, s = corpus.pairs()
    for number, (batch, order) in enumerate(zip(corpus.batches, corpus.orders, strict=True)):
        texts = np.array([corpus.keys[text] for text in batch], np.int64)
        visible = np.maximum(a, b) >> KEY_BITS <= number + 1
        earlier = known
        if only_referred:
            mine = visible & (np.maximum(a, b) >> KEY_BITS == number + 1)
            visible = mine
            at = known.find(np.unique(np.concatenate([texts, a[mine], b[mine]])))
            at = at[at >= 0]
            earlier = known.take(at)
        pairs = (a[visible], b[visible], s[visible])
        place = 100 * number
        step = decide_batch(texts, np.array(order, np.int64), pairs, THRESHOLD, earlier, rule, first_place=place)
        decided |= read(corpus, step, [(number, row) for row in range(len(batch))])
        known = TextDecisions.joined([known, step.texts])
        steps.append(step)
    return decided, steps


SCORES = (0.85, 0.8999999, 0.9, 0.92, 0.95, 1.0)


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    """Random texts with copies, a random graph, random batches (some empty), a random order in each."""
    kinds = draw(st.integers(1, 9))
    texts = draw(st.lists(st.integers(0, kinds - 1), max_size=24))
    cuts = sorted(draw(st.lists(st.integers(0, len(texts)), max_size=4)))
    bounds = [0, *cuts, len(texts)]
    batches = [texts[a:b] for a, b in pairwise(bounds)]
    couples = [(a, b) for a in range(kinds) for b in range(a + 1, kinds)]
    chosen = draw(st.lists(st.sampled_from(couples), unique=True)) if couples else []
    scores = [draw(st.sampled_from(SCORES)) for _ in chosen]
    orders = [draw(st.permutations(range(len(batch)))) for batch in batches]
    return Corpus(batches, orders, dict(zip(chosen, scores, strict=True)), draw(st.integers(0, 99)))


# -- the default rule --------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(corpora())
def test_a_batch_is_decided_like_walking_its_records_one_by_one(corpus: Corpus) -> None:
    assert at_once(corpus)[0] == oracle(corpus)


@settings(max_examples=200, deadline=None)
@given(corpora(), st.booleans())
def test_batch_by_batch_gives_the_same_decisions_as_all_at_once(corpus: Corpus, only_referred: bool) -> None:
    assert in_batches(corpus, only_referred=only_referred)[0] == at_once(corpus)[0] == oracle(corpus)


@settings(max_examples=150, deadline=None)
@given(corpora(), st.booleans())
def test_every_removed_record_has_a_kept_keeper_that_matches_it_directly(corpus: Corpus, batchwise: bool) -> None:
    decided = (in_batches if batchwise else at_once)(corpus)[0]
    place = {where: i for i, where in enumerate(corpus.walk)}
    assert decided.keys() == place.keys()
    keeper_record: dict[int, tuple[int, int]] = {}
    for where, (kept, _, _, _) in decided.items():
        if kept:
            text = corpus.batches[where[0]][where[1]]
            assert text not in keeper_record, "two kept records have one text"
            keeper_record[text] = where
    for (b, row), (kept, keeper, score, exact) in decided.items():
        text = corpus.batches[b][row]
        if kept:
            assert (keeper, score, exact) == (-1, -1.0, False)
            continue
        assert keeper in keeper_record
        assert place[keeper_record[keeper]] < place[b, row]
        assert exact == (keeper == text)
        assert score == (1.0 if exact else corpus.like(text, keeper)) >= THRESHOLD
    for one in keeper_record:
        for other in keeper_record:
            assert one == other or corpus.like(one, other) < THRESHOLD, "two kept records match"


@settings(max_examples=100, deadline=None)
@given(corpora(), st.booleans())
def test_each_new_text_is_represented_by_its_first_record_in_the_order(corpus: Corpus, batchwise: bool) -> None:
    first: dict[int, tuple[int, int]] = {}
    for b, row in corpus.walk:
        first.setdefault(corpus.keys[corpus.batches[b][row]], (b, row))
    starts = np.cumsum([0, *map(len, corpus.batches)])
    steps = in_batches(corpus)[1] if batchwise else [at_once(corpus)[1]]
    seen: list[int] = []
    for number, step in enumerate(steps):
        assert (np.diff(step.texts.keys) > 0).all()
        for key, representative in zip(step.texts.keys.tolist(), step.representative.tolist(), strict=True):
            b, row = first[key]
            assert representative == (row if batchwise else starts[b] + row)
            assert not batchwise or b == number
            seen.append(key)
        np.testing.assert_array_equal(step.texts.kept, step.kept[step.representative])
        np.testing.assert_array_equal(step.texts.keeper, step.keeper[step.representative])
        np.testing.assert_array_equal(step.texts.similarity, step.similarity[step.representative])
    assert sorted(seen) == sorted(corpus.keys.values())


@settings(max_examples=50, deadline=None)
@given(corpora(), st.integers(0, 99))
def test_the_order_in_which_matches_are_presented_is_no_matter(corpus: Corpus, shuffle: int) -> None:
    again = Corpus(corpus.batches, corpus.orders, corpus.similarity, shuffle)
    assert in_batches(again)[0] == in_batches(corpus)[0]


@pytest.mark.parametrize("rule", ["leader", "semdedup"])
@pytest.mark.parametrize("seed", range(3))
def test_thousands_of_records_are_decided_like_walking_them(rule: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = 500
    texts = (kinds * rng.random(1500) ** 2).astype(int).tolist()
    # Dense around a few hubs, as boilerplate is.
    hubs = rng.integers(0, kinds, 1200) % 20
    couples = [(a, b) for a, b in zip(hubs.tolist(), rng.integers(0, kinds, 1200).tolist(), strict=True) if a < b]
    couples += [(a, a + 1) for a in range(0, kinds - 1, 2)]
    scores = rng.permutation(len(couples)) / len(couples) * 0.15 + 0.85
    cuts = sorted(rng.integers(0, len(texts), 6).tolist())
    bounds = [0, *cuts, len(texts)]
    batches = [texts[a:b] for a, b in pairwise(bounds)]
    orders = [rng.permutation(len(batch)).tolist() for batch in batches]
    corpus = Corpus(batches, orders, dict(zip(couples, scores.tolist(), strict=True)), seed)
    expected = oracle(corpus, rule)
    assert 0 < sum(kept for kept, _, _, _ in expected.values()) < kinds
    assert at_once(corpus, rule)[0] == expected
    assert in_batches(corpus, rule, only_referred=True)[0] == expected


# -- semdedup ----------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(corpora())
def test_the_semdedup_rule_removes_for_any_earlier_record(corpus: Corpus) -> None:
    assert at_once(corpus, "semdedup")[0] == oracle(corpus, "semdedup")


@settings(max_examples=150, deadline=None)
@given(corpora(), st.booleans())
def test_the_semdedup_rule_too_is_the_same_batch_by_batch(corpus: Corpus, only_referred: bool) -> None:
    assert in_batches(corpus, "semdedup", only_referred)[0] == oracle(corpus, "semdedup")


@settings(max_examples=100, deadline=None)
@given(corpora())
def test_the_semdedup_rule_keeps_no_record_that_the_default_removes(corpus: Corpus) -> None:
    default, other = at_once(corpus)[0], at_once(corpus, "semdedup")[0]
    assert all(default[where][0] for where, decision in other.items() if decision[0])


def chain() -> Corpus:
    """Three texts, each like the next and the ends unlike."""
    return Corpus([[0, 1, 2]], [[0, 1, 2]], {(0, 1): 0.95, (1, 2): 0.95})


def test_in_a_chain_the_default_keeps_the_far_end_and_semdedup_does_not() -> None:
    assert [kept for kept, *_ in at_once(chain())[0].values()] == [True, False, True]
    assert [kept for kept, *_ in at_once(chain(), "semdedup")[0].values()] == [True, False, False]
    assert at_once(chain(), "semdedup")[0][0, 2] == (False, 1, 0.95, False)


# -- ties and edges ----------------------------------------------------------------------------------


def test_of_equally_similar_keepers_the_first_in_the_order_is_named() -> None:
    similarity = {(0, 2): 0.95, (1, 2): 0.95}
    assert at_once(Corpus([[0, 1, 2]], [[0, 1, 2]], similarity))[0][0, 2][1] == 0
    assert at_once(Corpus([[0, 1, 2]], [[1, 0, 2]], similarity))[0][0, 2][1] == 1


def test_of_equally_similar_keepers_of_earlier_batches_the_first_in_the_order_is_named() -> None:
    similarity = {(0, 2): 0.95, (1, 2): 0.95}
    for order in ([0, 1], [1, 0]):
        assert in_batches(Corpus([[0, 1], [2]], [order, [0]], similarity))[0][1, 0][1] == order[0]


def test_an_equally_similar_keeper_of_an_earlier_batch_goes_before_one_of_this() -> None:
    similarity = {(0, 2): 0.95, (1, 2): 0.95}
    assert in_batches(Corpus([[0], [1, 2]], [[0], [0, 1]], similarity))[0][1, 1][1] == 0


def test_a_more_similar_keeper_is_named_before_an_earlier_one() -> None:
    assert at_once(Corpus([[0, 1, 2]], [[0, 1, 2]], {(0, 2): 0.95, (1, 2): 0.96}))[0][0, 2][1] == 1


def test_a_match_exactly_at_the_threshold_counts() -> None:
    below = float(np.nextafter(THRESHOLD, 0))
    assert at_once(Corpus([[0, 1]], [[0, 1]], {(0, 1): THRESHOLD}))[0][0, 1] == (False, 0, THRESHOLD, False)
    assert at_once(Corpus([[0, 1]], [[0, 1]], {(0, 1): below}))[0][0, 1][0]


def test_a_copy_of_a_removed_text_names_that_texts_keeper() -> None:
    corpus = Corpus([[0, 1], [1, 0, 1]], [[0, 1], [2, 1, 0]], {(0, 1): 0.95})
    semantic, exact = (False, 0, 0.95, False), (False, 0, 1.0, True)
    assert in_batches(corpus)[0] == {
        (0, 0): (True, -1, -1.0, False),
        (0, 1): semantic,
        (1, 0): semantic,
        (1, 1): exact,
        (1, 2): semantic,
    }


def test_an_empty_batch_decides_nothing_and_changes_nothing() -> None:
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    none = np.empty(0, np.int64)
    earlier = TextDecisions(np.array([5]), np.array([True]), np.array([NONE]), np.array([np.nan]), np.array([0]))
    for known in (TextDecisions.empty(), earlier):
        for rule in ("leader", "semdedup"):
            step = decide_batch(none, none, nothing, THRESHOLD, known, rule)
            assert len(step.kept) == len(step.texts.keys) == len(step.representative) == 0


def test_matches_with_texts_that_take_no_part_are_passed_over() -> None:
    texts, order = np.array([10, 11]), np.array([0, 1])
    pairs = (np.array([10, 98, 11]), np.array([99, 99, 97]), np.array([1.0, 1.0, 1.0]))
    step = decide_batch(texts, order, pairs, THRESHOLD, TextDecisions.empty())
    assert step.kept.tolist() == [True, True]


@given(st.sets(st.integers(0, 40)), st.lists(st.integers(-1, 42)))
def test_texts_are_found_by_key(keys: set[int], wanted: list[int]) -> None:
    known = sorted(keys)
    parts = [
        TextDecisions(keys, np.ones(len(keys), bool), np.full(len(keys), NONE), keys / 2, keys * 3)
        for keys in (np.array(part, np.int64) for part in (known[1::2], known[::2]))
    ]
    joined = TextDecisions.joined(parts)
    assert joined.keys.tolist() == known
    assert joined.similarity.tolist() == [key / 2 for key in known]
    assert joined.place.tolist() == [key * 3 for key in known]
    expected = [known.index(key) if key in keys else NONE for key in wanted]
    assert joined.find(np.array(wanted, np.int64)).tolist() == expected


# -- references --------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(corpora(), st.booleans())
def test_references_stay_whatever_they_match_and_all_that_match_them_goes(corpus: Corpus, batchwise: bool) -> None:
    references = corpus.batches[0] if corpus.batches else []
    texts = [np.array([corpus.keys[text] for text in batch], np.int64) for batch in corpus.batches]
    marks = [np.full(len(batch), number == 0) for number, batch in enumerate(texts)]
    a, b, s = corpus.pairs()
    if batchwise:
        known, steps = TextDecisions.empty(), []
        for number, (batch, order) in enumerate(zip(texts, corpus.orders, strict=True)):
            order_of = np.array(order, np.int64)
            step = decide_batch(
                batch, order_of, (a, b, s), THRESHOLD, known, reference=marks[number], first_place=100 * number
            )
            known = TextDecisions.joined([known, step.texts])
            steps.append(step)
        kept = [step.kept for step in steps]
        keeper = [step.keeper for step in steps]
    else:
        starts = np.cumsum([0, *map(len, texts)])
        order_of = np.array([starts[b] + row for b, row in corpus.walk], np.int64)
        step = decide_batch(
            np.concatenate(texts),
            order_of,
            (a, b, s),
            THRESHOLD,
            TextDecisions.empty(),
            reference=np.concatenate(marks),
        )
        kept, keeper = np.split(step.kept, starts[1:-1]), np.split(step.keeper, starts[1:-1])
    assert kept[0].all()
    # The rest is decided like a corpus that stands after keepers which do not match each other.
    apart = {pair: s for pair, s in corpus.similarity.items() if not {*pair} <= set(references)}
    first = list(dict.fromkeys(references))
    alone = Corpus([first, *corpus.batches[1:]], [list(range(len(first))), *corpus.orders[1:]], apart)
    if len(first) == len(references):
        alone = Corpus([references, *corpus.batches[1:]], corpus.orders, apart)
    names = {key: text for text, key in corpus.keys.items()} | {NONE: -1}
    wanted = oracle(alone)
    for number in range(1, len(texts)):
        for row in range(len(texts[number])):
            found = (bool(kept[number][row]), names[int(keeper[number][row])])
            expected = wanted[number, row]
            if len(first) == len(references):
                assert found == expected[:2]
            assert found[0] == expected[0]
