import datetime
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute.order import order_by_value, prototype_cosine, random_keys, rebuild_order
from dedup_assets.compute.text import hash_texts
from dedup_assets_tests.compute.vectors import dtypes, kinds, make_vectors, seeds

DATE = datetime.date(2024, 1, 1)
columns = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=30),
    st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b", "é", "Z"])), max_size=30),
    st.lists(st.one_of(st.none(), st.floats(-3, 3), st.just(float("nan"))), max_size=30),
    st.lists(st.one_of(st.none(), st.dates(DATE, DATE + datetime.timedelta(9))), max_size=30),
)


@settings(max_examples=150, deadline=None)
@given(columns, st.booleans())
def test_columns_sort_with_nulls_last_and_ties_by_row(values, descending):
    order = order_by_value(values, descending=descending).tolist()
    assert sorted(order) == list(range(len(values)))
    null = [v is None or v != v for v in values]
    for a, b in itertools.pairwise(order):
        assert not (null[a] and not null[b])
        if null[a] or null[b]:
            assert null[a] != null[b] or a < b
        elif values[a] == values[b]:
            assert a < b
        else:
            assert (values[a] > values[b]) == descending


@pytest.mark.parametrize(
    "array",
    [
        np.array([3.0, np.nan, 1.0, 3.0]),
        np.array([3, 2**62, 1, 3]),
        np.array(["2024-01-02", "NaT", "2024-01-01", "2024-01-02"], "datetime64[D]"),
        np.array([True, False, True, False]),
        np.array([2, 2**64 - 1, 0, 2], np.uint64),
    ],
)
@pytest.mark.parametrize("descending", [False, True])
def test_arrays_and_lists_give_one_order(array, descending):
    values = [None if v is None or v != v else v for v in array.tolist()]
    got = order_by_value(array, descending=descending)
    assert got.tolist() == order_by_value(values, descending=descending).tolist()


def test_values_that_cannot_be_compared_are_refused():
    with pytest.raises(TypeError, match="different kinds"):
        order_by_value([1, "a"])


@settings(max_examples=30, deadline=None)
@given(kinds, st.integers(0, 50), dtypes, seeds)
def test_the_prototype_is_the_cosine_to_the_mean(kind, n, dtype, seed):
    vectors = make_vectors(kind, n, 12, dtype, seed)
    wide = vectors.astype(np.float64)
    mean = wide.sum(axis=0)
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(mean)
    expected = np.divide(wide @ mean, norms, out=np.zeros(n), where=norms > 0)
    assert np.allclose(prototype_cosine(vectors), expected, atol=1e-12)


def test_the_prototype_has_the_same_bits_whatever_holds_the_rows():
    vectors = make_vectors("random", 9000, 20, np.float16, 4)
    strided = np.asfortranarray(vectors)
    assert (prototype_cosine(vectors) == prototype_cosine(strided)).all()


def test_random_depends_on_id_and_seed_alone():
    ids = [f"shard:{row}" for row in range(200)]
    one = order_by_value(random_keys(ids, 1))
    assert (one == order_by_value(random_keys(ids, 1))).all()
    assert (one != order_by_value(random_keys(ids, 2))).any()
    mixed = [ids[row] for row in np.random.default_rng(0).permutation(200)]
    there = [mixed[row] for row in order_by_value(random_keys(mixed, 1))]
    assert there == [ids[row] for row in one]
    assert random_keys(["a"], -5) != random_keys(["a"], 5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["x", "y", "z", "w"]), max_size=20), st.booleans(), seeds)
def test_the_rebuild_order_does_not_depend_on_how_records_arrive(texts, with_quality, seed):
    ids = [f"id{row}" for row in range(len(texts))]
    quality = [row % 3 or None for row in range(len(texts))] if with_quality else None
    first = [ids[row] for row in rebuild_order(hash_texts(texts), ids, quality=quality, descending=True)]
    mix = np.random.default_rng(seed).permutation(len(texts))
    again = rebuild_order(
        hash_texts([texts[m] for m in mix]),
        [ids[m] for m in mix],
        quality=[quality[m] for m in mix] if quality else None,
        descending=True,
    )
    assert first == [ids[mix[row]] for row in again]


def test_a_quality_for_each_record_is_needed():
    with pytest.raises(ValueError, match="found 1"):
        rebuild_order(hash_texts(["x", "y"]), ["a", "b"], quality=[1])
