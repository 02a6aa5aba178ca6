"""Batches: every text in exactly one, in a shape that its own token count decides, and nearly full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_assets.encoder.batching import ladder_length, ladder_steps, length_ladder, packed_batches, padded_batches

COUNTS = st.lists(st.integers(1, 700), max_size=60).map(lambda counts: np.array(counts, dtype=np.int32))


@given(counts=COUNTS, most=st.none() | st.integers(1, 5))
def test_packed_texts_lie_end_to_end_in_a_height_of_their_own_length(counts, most):
    seen: list[int] = []
    for batch in packed_batches(counts, 512, most):
        lengths = [run.length for run in batch.runs for _ in range(run.count)]
        assert counts[batch.texts].tolist() == lengths
        ends = [0]
        for run in batch.runs:
            assert (run.start, run.rows.stop) == (ends[-1], run.start + run.count * run.length)
            ends.append(run.rows.stop)
        assert ends[-1] <= batch.height
        # The height that each of them would have alone.
        assert all(batch.height == (512 if length <= 512 else -(-length // 128) * 128) for length in lengths)
        assert most is None or len(lengths) <= most
        seen += batch.texts.tolist()
    assert sorted(seen) == list(range(len(counts)))


def test_packed_batches_of_texts_of_many_lengths_are_nearly_full():
    counts = np.random.default_rng(0).geometric(1 / 45, 2_000).clip(3, 256)
    filled = [sum(run.count * run.length for run in batch.runs) for batch in packed_batches(counts, 512)]
    assert np.mean(filled[:-1]) > 0.99 * 512


@given(counts=COUNTS, most=st.none() | st.integers(1, 5))
def test_padded_texts_have_a_shape_of_their_own_length(counts, most):
    ladder = length_ladder(700)
    seen: list[int] = []
    for texts, length, height in padded_batches(counts, ladder, 512, most):
        assert len(texts) <= min(height, most or height) and height == max(1, 512 // length)
        assert {ladder_length(int(step), ladder) for step in ladder_steps(counts[texts], ladder)} == {length}
        # Room for one padded position, or the full window.
        assert ((counts[texts] < length) | (counts[texts] == 700)).all()
        seen += texts.tolist()
    assert sorted(seen) == list(range(len(counts)))


@pytest.mark.parametrize("window", [3, 8, 63, 64, 128, 256, 300, 512, 8192])
def test_every_length_finds_its_place_on_the_ladder(window):
    ladder = length_ladder(window)
    assert ladder[-1] == window and (np.diff(ladder) > 0).all()
    lengths = np.arange(16, window)
    padded = ladder[np.searchsorted(ladder, lengths + 1)]
    assert (padded > lengths).all()
    if window % 8 == 0:
        assert (padded <= 1.3 * lengths + 8).all()
