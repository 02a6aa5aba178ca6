"""Checks that a device gives the decisions of the CPU. Plain functions, called by tests and by the benchmark.

Each raises AssertionError with the difference, and needs only torch, numpy and numba (the encoder's:
transformers).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from dedup_assets.compute.cells import assign
from dedup_assets.compute.device.rows import DeviceRows, cosines
from dedup_assets.compute.in_memory import decide_rows, exact_matches
from dedup_assets.compute.join import CellBlock, DenseCells, Matches, match_cells, unique_matches
from dedup_assets.compute.kmeans import fit_centroids
from dedup_assets.compute.similarity import canonical_pairs, squared_norms
from dedup_assets_tests.gpu.generate import generated
from dedup_assets_tests.gpu.simulated import SmallDevice

FLOORS = (0.80, 0.90, 0.95, 0.99)
DIMENSIONS = (384, 768)
DTYPES = ("float16", "float32")


def corpus(n: int, d: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Generated vectors on the host, with zero rows, exact copies and one dense spot among them."""
    rows = generated(n, d, "cpu", seed, getattr(torch, dtype)).numpy()
    rows[:: max(2, n // 5)] = 0
    rows[3] = rows[2]
    spot = max(4, n // 10)
    rows[-spot:] = rows[7] + (0.003 * np.random.default_rng(seed).normal(size=(spot, d))).astype(rows.dtype)
    return rows


def same_matches(one: Matches, two: Matches) -> None:
    """Both hold the same pairs with the same bits of similarity."""
    a, b = (set(zip(found.i.tolist(), found.j.tolist(), strict=True)) for found in (one, two))
    assert a == b, f"{len(a - b)} pairs only in the first, {len(b - a)} only in the second of {len(a)} and {len(b)}"
    differing = int((one.similarity != two.similarity).sum())
    assert differing == 0, f"{differing} of {len(one)} similarities differ in bits"


def check_similarity(device: str, d: int, dtype: str, n: int = 2_000) -> str:
    """Sums on the device give exactly the bits of the canonical similarity."""
    vectors = corpus(n, d, dtype, 1)
    rows = DeviceRows.of(vectors, device)
    squares = rows.squares.cpu().numpy()
    assert (squares == squared_norms(vectors)).all(), "squared norms differ in bits"
    i, j = np.random.default_rng(0).integers(0, n, (2, 50 * n))
    chosen, sums = rows.near(torch.from_numpy(i).to(device), torch.from_numpy(j).to(device), -1.0)
    assert len(chosen) == len(i)
    differing = int((cosines(sums.cpu().numpy(), squares[i], squares[j]) != canonical_pairs(vectors, i, j)).sum())
    assert differing == 0, f"{differing} of {len(i)} similarities differ in bits"
    return f"{len(i)} similarities, all bits equal"


def check_decisions(device: str, d: int, dtype: str, floor: float, n: int = 6_000) -> str:
    """Fit, assignment, join and decisions on the device equal those on the CPU, record by record."""
    vectors = corpus(n, d, dtype)
    clusters = max(2, n // 200)
    on_cpu = exact_matches(vectors, floor, clusters=clusters)
    for options in ({}, {"sketch": 0}, {"tile_bytes": 1 << 18}):
        on_device = exact_matches(vectors, floor, clusters=clusters, device=device, **options)
        same_matches(on_cpu, on_device)
    cpu, there = (decide_rows(vectors, m, floor) for m in (on_cpu, on_device))
    for column in ("kept", "keeper", "similarity"):
        assert np.array_equal(getattr(cpu, column), getattr(there, column), equal_nan=column == "similarity"), column
    return f"{len(on_cpu)} matches, {int((~cpu.kept).sum())} of {n} removed"


def check_cells(device: str, d: int, dtype: str, floor: float, n: int = 4_000) -> str:
    """The CPU finds all matches with cells assigned on the device, with some new rows."""
    vectors = corpus(n, d, dtype, 2)
    new = np.random.default_rng(2).random(n) < 0.3
    centroids = fit_centroids(vectors, max(2, n // 150))
    found, ghosts = [], []
    for where in ("cpu", device):
        cells = assign(vectors, centroids, floor, where)
        rows, offsets = cells.home_rows()
        block = CellBlock(vectors, offsets, rows, cells.ghost_offsets, cells.ghost_rows, new)
        ghosts.append(len(cells.ghost_rows) / n)
        found += [unique_matches(list(match_cells(block, floor, device=by))) for by in ("cpu", device)]
    for other in found[1:]:
        same_matches(found[0], other)
    return f"{len(found[0])} matches; ghosts per row: {ghosts[0]:.2f} on the CPU, {ghosts[1]:.2f} on the device"


def check_precisions(device: str, d: int, floor: float, n: int = 4_000) -> str:
    """The decisions are the same for any precision of the proposals."""
    from dedup_assets.compute import cells, precision

    vectors = corpus(n, d, "float16", 5)
    wanted = exact_matches(vectors, floor, clusters=max(2, n // 200))
    for low in precision.PRECISIONS:
        with (
            patch.object(precision, "native_precision", lambda device, low=low: low),
            patch.object(cells, "native_precision", lambda device, low=low: low),
        ):
            same_matches(wanted, exact_matches(vectors, floor, clusters=max(2, n // 200), device=device))
    return f"{', '.join(precision.PRECISIONS)}: {len(wanted)} matches each"


def check_dense(device: str, d: int, floor: float, n: int = 4_000) -> str:
    """The device also names the cell of near-copies, and lists the same other matches."""
    vectors = corpus(n, d, "float16", 6)
    cells = assign(vectors, fit_centroids(vectors, max(2, n // 400)), floor)
    rows, offsets = cells.home_rows()
    block = CellBlock(vectors, offsets, rows, cells.ghost_offsets, cells.ghost_rows, np.ones(n, bool))
    spot = n // 10
    named, listed = [], []
    for where in ("cpu", device):
        dense = DenseCells(max(2, spot // 40))
        listed.append(unique_matches(list(match_cells(block, floor, device=where, dense=dense))))
        named.append(set(dense.cells))
    assert named[1] and named[1] <= named[0], f"dense cells: {named[0]} on the CPU, {named[1]} on the device"
    if named[0] == named[1]:
        same_matches(*listed)
    return f"{len(named[1])} cells named, {len(listed[1])} matches listed"


def check_centroids(device: str, d: int, n: int = 20_000) -> str:
    """Centroids fitted on the device serve the rows as well as those of the CPU, and the same on every call."""
    vectors = corpus(n, d, "float16", 3)
    unit = vectors.astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    cells = max(2, n // 100)
    fitted = [fit_centroids(vectors, cells, device=where) for where in ("cpu", device, device)]
    means = [float((unit @ centroids.T).max(axis=1).mean()) for centroids in fitted]
    assert abs(means[0] - means[1]) < 0.005, f"mean cosine to the nearest centroid: {means}"
    assert np.array_equal(fitted[1], fitted[2]), "two fits on the device differ"
    return f"mean cosine to the nearest centroid: {means[0]:.4f} on the CPU, {means[1]:.4f} on the device"


@contextmanager
def little_memory(device: str, most: int) -> Iterator[None]:
    """Limit torch to a number of bytes of a GPU."""
    index = torch.device(device).index
    index = torch.cuda.current_device() if index is None else index  # the setting takes no device without one
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(index).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / total), index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
        torch.cuda.empty_cache()


def check_memory(device: str, n: int = 200_000, d: int = 384, most: int = 192 << 20, clusters: int = 40) -> str:
    """On a device with memory for only a part of the vectors, fit, assignment and join finish with the same result.

    On a GPU torch is limited to ``most`` bytes; on CPU tensors a device of that size is simulated.
    """
    from dedup_assets.compute.device import memory as device_memory

    vectors = generated(n, d, "cpu", 4).numpy()
    wanted = exact_matches(vectors, 0.95, clusters=clusters)
    refused = 0
    seen = device_memory.is_out_of_memory

    def counted(error: BaseException) -> bool:
        nonlocal refused
        refused += seen(error)
        return seen(error)

    if device.startswith("cuda"):
        exact_matches(vectors[:4_000], 0.95, clusters=4, device=device)  # libraries take their workspace
        small: AbstractContextManager[Any] = little_memory(device, most)
    else:
        small = SmallDevice(most).active(tells=False)
    with patch.object(device_memory, "is_out_of_memory", counted), small:
        found = exact_matches(vectors, 0.95, clusters=clusters, device=device)
    same_matches(wanted, found)
    assert refused, "there was room enough: leave less"
    return f"{refused} attempts found no room in {most >> 10:,} KiB; {len(found)} matches of {n:,} rows, all of them"


def encoder_parts(dimension: int = 384) -> tuple[Any, Any, str] | None:
    """Model, tokenizer and their name: MiniLM where its package is, else random weights of its shape."""
    if importlib.util.find_spec("transformers") is None:
        return None
    try:
        from dedup_assets.encoder.models import locate_model
        from dedup_assets.encoder.parts import load_parts

        name = "sentence-transformers/all-MiniLM-L6-v2"
        return *load_parts(locate_model(name).folder), name
    except Exception as problem:  # no package, no hub, or no room for its other requirements
        reason = type(problem).__name__
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{n}" for n in range(30_000))]
    plain = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=dimension,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    return BertModel(config), tokenizer, f"random weights in the shape of MiniLM ({reason})"


def texts_of(count: int, words: int, seed: int = 0) -> list[str]:
    """Texts of 1 to ``words`` words."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, words + 1, count)
    return [" ".join(f"word{n}" for n in rng.integers(0, 30_000, length)) for length in lengths]


def check_encoder(device: str, count: int = 300) -> str:
    """Vectors of the device against float32 on the CPU, and the vector of a text in different batches."""
    from dedup_assets.encoder.encoder import Encoder

    made = [encoder_parts() for _ in range(2)]
    assert made[0] is not None and made[1] is not None, "transformers is not installed"
    there = Encoder(*made[0][:2], max_length=128, device=device)
    if not device.startswith("cuda"):
        there._tokens = 512  # batches for a GPU, almost empty here, would take minutes
    texts = [*texts_of(count, 60), "", "word1", "word2 " * 500]
    together = there.encode(texts).vectors
    rows = np.random.default_rng(1).permutation(len(texts))[: count // 3]
    alone = there.encode([texts[i] for i in rows]).vectors
    differing = int((alone != together[rows]).any(axis=1).sum())
    assert differing == 0, f"{differing} of {len(rows)} vectors depend on their company"
    here = Encoder(*made[1][:2], max_length=128, precision="float32").encode(texts).vectors
    least = float((here * together).sum(axis=1).min())
    assert least >= 0.9995, f"cosine to the CPU's vectors: {least}"
    return f"{made[0][2]}, {there.precision}: least cosine to float32 on the CPU {least:.6f}, batch-invariant"


def checks(device: str, tiny: bool = False) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Name, function and arguments of every check, the quick ones first."""
    n = 1_200 if tiny else 6_000
    for d in (48,) if tiny else DIMENSIONS:
        for dtype in DTYPES:
            yield f"similarity {d}-d {dtype}", check_similarity, (device, d, dtype, n // 3)
            for floor in (0.9,) if tiny else FLOORS:
                yield f"decisions {d}-d {dtype} at {floor}", check_decisions, (device, d, dtype, floor, n)
            yield f"cells {d}-d {dtype}", check_cells, (device, d, dtype, 0.9, n)
        yield f"precisions {d}-d", check_precisions, (device, d, 0.9, n)
        yield f"dense cells {d}-d", check_dense, (device, d, 0.9, n)
        yield f"centroids {d}-d", check_centroids, (device, d, 3 * n)
    yield "encoder", check_encoder, (device, 12 if tiny else 300)
    yield "memory", check_memory, (device, 2_000, 64, 900_000, 4) if tiny else (device,)
