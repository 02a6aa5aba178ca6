"""On a GPU the decisions are those of the CPU, record by record, on the same vectors."""

from __future__ import annotations

import pytest

from dedup_assets_tests.gpu import parity

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


@pytest.mark.parametrize("dtype", parity.DTYPES)
@pytest.mark.parametrize("d", parity.DIMENSIONS)
def test_similarities_have_the_same_bits(d, dtype):
    parity.check_similarity(DEVICE, d, dtype)


@pytest.mark.parametrize("floor", parity.FLOORS)
@pytest.mark.parametrize("dtype", parity.DTYPES)
@pytest.mark.parametrize("d", parity.DIMENSIONS)
def test_decisions_are_the_same_record_by_record(d, dtype, floor):
    parity.check_decisions(DEVICE, d, dtype, floor)


@pytest.mark.parametrize("floor", parity.FLOORS)
@pytest.mark.parametrize("dtype", parity.DTYPES)
def test_cells_of_either_device_serve_the_join_of_the_other(dtype, floor):
    parity.check_cells(DEVICE, 384, dtype, floor)


def test_every_precision_and_the_dense_cells_decide_the_same():
    parity.check_precisions(DEVICE, 384, 0.9)
    parity.check_dense(DEVICE, 384, 0.9)


@pytest.mark.parametrize("d", parity.DIMENSIONS)
def test_centroids_are_as_good_and_repeat(d):
    parity.check_centroids(DEVICE, d)


def test_without_room_packs_are_halved_and_nothing_is_missed():
    parity.check_memory(DEVICE)


def test_vectors_of_texts_agree_and_do_not_depend_on_company():
    parity.check_encoder(DEVICE)
