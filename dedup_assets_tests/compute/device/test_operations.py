"""What a GPU is given, counted on CPU tensors: launches and waits do not grow back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dedup_assets.compute.cells import assign
from dedup_assets.compute.device import join as device_join
from dedup_assets.compute.device.cells import SMALLEST_TILE
from dedup_assets.compute.device.listing import Listing
from dedup_assets.compute.device.rows import DeviceRows
from dedup_assets.encoder import choices as encoder_choices
from dedup_assets.encoder.encoder import Encoder
from dedup_assets_tests.benchmarks import operations as operations_of
from dedup_assets_tests.encoder.test_encoder import tiny  # noqa: F401  # a fixture
from dedup_assets_tests.gpu.generate import generated
from dedup_assets_tests.gpu.trace import Operations

DEVICE = "cpu:0"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_pack_is_ten_launches_and_one_wait(dtype, monkeypatch):
    homes, ghosts = 60, 6_000
    rows = DeviceRows.of(generated(homes + ghosts, 300, DEVICE).numpy().astype(dtype), DEVICE)
    listing = Listing(
        np.array([0, homes]),
        np.arange(homes, dtype=np.int32),
        np.array([0, ghosts]),
        np.arange(homes, homes + ghosts, dtype=np.int32),
        np.ones(homes + ghosts, bool),
    )
    operations, packs = Operations(), []
    for name in ("_compact", "_settle"):
        inner = getattr(device_join._Worker, name)

        def counted(self, *given, inner=inner, name=name):
            inner(self, *given)
            packs.append((name, operations.total, sum(operations.waits.values())))

        monkeypatch.setattr(device_join._Worker, name, counted)
    with operations.active():
        found = device_join.match_on_device(rows, listing, 0.9, max_matches=1 << 18, pack_bytes=40_000)
        assert sum(len(part[0]) for part in found) > 0
    assert [name for name, *_ in packs] == ["_compact"] * (len(packs) - 1) + ["_settle"] and len(packs) > 10
    of_packs = np.diff([numbers for name, *numbers in packs if name == "_compact"], axis=0)
    assert of_packs[:, 0].max() <= 10, "gather of rows and columns, product, maxima, comparison, nonzero, chunks"
    assert (of_packs[:, 1] == 1).all(), "the number of chunks"
    launches, waits = np.subtract(packs[-1][1:], packs[-2][1:])
    assert waits <= 4 and launches <= 80, "of all packs together"


def test_a_tile_of_an_assignment_is_one_wait_and_its_ghosts_are_another_for_all_tiles():
    rows = DeviceRows.of(generated(20 * SMALLEST_TILE, 64, DEVICE), DEVICE)
    book = rows.stored[:50].float().numpy()
    operations = Operations()
    with operations.active():
        assign(rows, book, 0.9, tile_bytes=1)
    assert operations.waits["nonzero"] == 20, "the number of ghosts"
    assert sum(operations.waits.values()) <= 20 + 6, "codebook and its distances go there, the result comes back"
    assert operations.total <= 20 * 60 + 100


def test_the_count_runs(capsys):
    assert operations_of.main(["--small", "--stages", "layout,block,join", "--json"]) == 0
    found = {row["stage"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["join: packs"]["waits"] == 1 and found["join: packs"]["launches"] <= 10
    assert found["ghosts into cells on the host"]["launches"] == 0


def test_the_encoder_waits_for_no_batch_and_its_masks_are_those_of_transformers(tiny, monkeypatch):  # noqa: F811
    monkeypatch.setattr(encoder_choices, "GPU_TOKENS", 512)
    encoder = Encoder(*tiny(), max_length=64, device=DEVICE, precision="float32")
    # As from pinned memory.
    monkeypatch.setattr(encoder, "_sent", lambda array: array.to(DEVICE, non_blocking=True))
    texts = [f"{'word ' * words}{text}" for words in (1, 9, 30, 90) for text in range(12)]
    operations = Operations()
    with operations.active():
        found = encoder.encode(texts)
    assert not +operations.waits and operations.launches["scaled_dot_product_attention"] >= 2 * 4
    monkeypatch.setattr(encoder, "_takes_whole_mask", False)
    with operations.active():
        plain = encoder.encode(texts)
    assert operations.waits["is_nonzero"] >= 4, "transformers asks for each batch"
    np.testing.assert_array_equal(found.vectors, plain.vectors)


def test_a_model_whose_attention_is_not_fused_makes_its_own_mask(tiny, monkeypatch):  # noqa: F811
    monkeypatch.setattr(encoder_choices, "GPU_TOKENS", 512)
    model, tokenizer = tiny()
    model.set_attn_implementation("eager")
    eager = Encoder(model, tokenizer, max_length=64, device=DEVICE, precision="float32")
    fused = Encoder(*tiny(), max_length=64, device=DEVICE, precision="float32")
    texts = ["a", "word " * 7, "word " * 80]
    np.testing.assert_allclose(eager.encode(texts).vectors, fused.encode(texts).vectors, atol=1e-6)
