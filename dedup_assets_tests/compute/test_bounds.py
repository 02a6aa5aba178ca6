"""Each term of each bound is needed: rows built so that arithmetic errs as far as the term allows, in every precision.

Random rows never come near a bound. Here all components of a row round the same way, pairs lie exactly at the floor
and symmetric to the plane between two centroids, and sums lose in one direction.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dedup_assets.compute import cell_worker, cells, dense, distances, precision, sketch
from dedup_assets.compute.audit import Probes
from dedup_assets.compute.cells import assign, half_angle
from dedup_assets.compute.decisions import UNKNOWN, Walk
from dedup_assets.compute.in_memory import exact_matches
from dedup_assets.compute.precision import dtype_of
from dedup_assets.compute.similarity import (
    accumulation_error,
    canonical_similarity,
    input_error,
    product_slack,
    proposal_slack,
)
from dedup_assets_tests.mutations import MUTATIONS, ROOT, Mutation

BITS = {"bf16": 8, "fp16": 11}
"""Bits of the significand, the first one too."""


# Device "cpu:0" takes the path of GPUs, on CPU tensors; fp16 is proposed in there only.
PATHS = [("cpu", "bf16"), ("cpu", "fp32"), ("cpu:0", "bf16"), ("cpu:0", "fp16"), ("cpu:0", "fp32")]


@pytest.fixture(params=PATHS, ids="-".join)
def device_and_precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """One precision for all products, whatever the processor has."""
    for module in (precision, cells, cell_worker, sketch):
        monkeypatch.setattr(module, "native_precision", lambda device="cpu": request.param[1])
    return request.param


def at_a_midpoint(bits: int) -> tuple[int, float]:
    """An even dimension d with 1/√d next to a midpoint between two numbers of so many bits, and near a power of two,
    where rounding moves it most; and that midpoint."""
    best: tuple[float, int, float] = (1.0, 0, 0.0)
    for d in range(64, 6_000, 2):
        value = d**-0.5
        power = 2.0 ** np.floor(np.log2(value))
        step = power * 2.0 ** (1 - bits)
        middle = power + step * (np.floor((value - power) / step) + 0.5)
        off = abs(value / middle - 1.0)
        if off < 2.0 ** (-bits - 6) and value / power < 1.2:
            best = min(best, (off, d, middle))
    return best[1], best[2]


def below_a_midpoint(bits: int) -> int:
    """A dimension d with 1/√d next below such a midpoint, far enough for float32: a row of such components has norm 1,
    and all of them round down by nearly half a unit."""
    found = (0.0, 0)
    for d in range(64, 6_000):
        value = d**-0.5
        step = 2.0 ** np.floor(np.log2(value)) * 2.0 ** (1 - bits)
        above = value / step - np.floor(value / step)
        if above < 0.5 - 2.0 ** (bits - 21):
            found = max(found, (above * step / value, d))
    return found[1]


# -- products ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("low", BITS)
def test_a_product_loses_nearly_twice_the_input_error(low: str) -> None:
    """So the slack needs 2r: with r alone, the row would not propose itself."""
    value = 2.0**-4 * (1 + 2.0 ** -BITS[low] - 2.0**-20)  # just below the first midpoint: rounds down to 2^-4
    n = int(1 / value**2)
    row = np.full(n + 1, value)
    row[-1] = np.sqrt(1 - n * value**2)
    rounded = torch.from_numpy(row).to(dtype_of(low)).double().numpy()
    loss = 1 - float(rounded @ rounded)
    assert loss > 1.9 * input_error(low)
    assert loss <= product_slack(low, len(row))
    assert loss > product_slack(low, len(row)) - input_error(low), "less by one r would lose the pair"


def test_a_match_is_found_whose_product_loses_as_much_as_rounding_can(device_and_precision: tuple[str, str]) -> None:
    device, low = device_and_precision
    d = below_a_midpoint(BITS[low]) if low in BITS else 256
    rows = np.full((2, d), d**-0.5, np.float32)
    if low in BITS:
        rounded = torch.from_numpy(rows).to(dtype_of(low)).double()
        assert 1 - float(rounded[0] @ rounded[1]) > 1.6 * input_error(low), "half of the slack would not do"
    found = exact_matches(rows, 1.0, centroids=rows[:1], device=device)
    assert (found.i.tolist(), found.j.tolist()) == ([0], [1])


@pytest.mark.parametrize("low", ["bf16", "fp32"])
@pytest.mark.parametrize("piece", [1, 2], ids=["against earlier ones", "against each other"])
def test_in_a_dense_cell_too_a_match_is_found_whose_product_loses_as_much(
    low: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (precision, sketch):
        monkeypatch.setattr(module, "native_precision", lambda device="cpu": low)
    monkeypatch.setattr(dense, "FIRST_PIECE", piece)
    d = below_a_midpoint(BITS[low]) if low in BITS else 256
    rows = np.full((2, d), d**-0.5, np.float32)
    undecided, empty = np.full(2, UNKNOWN, np.int8), np.empty(0, np.int64)
    walk = Walk(empty, empty, np.empty(0), 2, 1.0, undecided, keepers_only=True)
    cell = dense.DenseCell(np.arange(2), np.ones(2, bool))
    dense.walk_dense(walk, [cell], lambda some: rows[some], undecided, piece=piece, sketch=0)
    assert walk.decisions().keeper.tolist()[1] == 0


def test_the_output_of_a_product_is_rounded_too() -> None:
    """`proposal_slack` is above `product_slack` by what rounding the result can lose."""
    for low, bits in BITS.items():
        worst = 1 + 2.0**-bits - 2.0**-30  # the sum, just below a midpoint
        loss = worst - torch.tensor([worst], dtype=torch.float64).to(dtype_of(low)).item()
        assert proposal_slack(low, 384) - product_slack(low, 384) >= loss > 0.99 * 2.0**-bits


@pytest.mark.parametrize("d", [1, 2, 3, 384, 4_096])
def test_sums_in_float32_err_in_one_direction_by_a_part_of_their_bound(d: int) -> None:
    """Truncating sums, as matrix units may: each addition loses up to an ulp, always downwards."""
    rng = np.random.default_rng(d)
    worst = 0.0
    for _ in range(20):
        x = np.abs(rng.normal(size=d)) + 1.0
        x = (x / np.linalg.norm(x)).astype(np.float32)
        total = np.float32(0.0)
        for term in (x.astype(np.float64) ** 2).tolist():
            exact = float(total) + term
            near = np.float32(exact)
            total = np.nextafter(near, np.float32(-np.inf)) if float(near) > exact else near
        worst = max(worst, float((x.astype(np.float64) ** 2).sum()) - float(total))
    assert worst <= accumulation_error(d)
    if d >= 384:
        assert worst > accumulation_error(d) / 16, "the bound is of the order of what truncation does"


def test_a_sum_in_float32_that_loses_is_still_proposed_by_brute_force() -> None:
    rng = np.random.default_rng(1)
    lost = 0
    for _ in range(300):
        x = rng.normal(size=(1, 64)).astype(np.float32)
        y = x + rng.normal(size=(1, 64)).astype(np.float32) * np.float32(0.3)
        floor = float(canonical_similarity(x, y)[0])
        unit = [row[0] / np.linalg.norm(row) for row in (x, y)]
        lost += float(np.float32(unit[0] @ unit[1])) < floor
        i, j = Probes(x, floor).near(y)
        assert (i.tolist(), j.tolist()) == ([0], [0])
    assert lost > 50, "float32 is below the canonical similarity as often as above"


def test_no_similarity_leaves_the_range_of_a_cosine_where_its_quotient_does() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4_000, 7)).astype(np.float32)
    for factor in (3.0, -7.0):
        y = (x * np.float32(factor)).astype(np.float32)
        x64, y64 = x.astype(np.float64), y.astype(np.float64)
        quotient = (x64 * y64).sum(1) / np.sqrt((x64 * x64).sum(1) * (y64 * y64).sum(1))
        assert (np.abs(quotient) > 1.0).any(), "the quotient alone leaves it"
        found = canonical_similarity(x, y)
        assert found.max() <= 1.0 and found.min() >= -1.0
        assert canonical_similarity(x, x).tolist() == [1.0] * len(x)


# -- reach of ghosts ---------------------------------------------------------------------------------


def listed_together(rows: np.ndarray, floor: float, book: np.ndarray, device: str) -> bool:
    """Whether two rows with different homes are listed in one cell."""
    found = assign(rows, book, floor, device)
    ghosts = np.asarray(found.ghost_rows)
    listed = {(int(found.home[row]), row) for row in (0, 1)}
    for cell in range(len(book)):
        listed |= {(cell, int(row)) for row in ghosts[found.ghost_offsets[cell] : found.ghost_offsets[cell + 1]]}
    assert found.home[0] != found.home[1]
    return any({(cell, 0), (cell, 1)} <= listed for cell in range(len(book)))


def test_a_pair_at_the_floor_symmetric_to_the_plane_is_listed_in_one_cell(
    device_and_precision: tuple[str, str],
) -> None:
    """x·n = s for both: what is 0.5 % smaller than the half angle would list neither. Exact in every precision."""
    rows = np.array([[0.5, 0.5, 0.5, 0.5], [-0.5, 0.5, 0.5, 0.5]], np.float32)
    book = np.array([[1, 0, 0, 0], [-1, 0, 0, 0]], np.float32)
    assert float(canonical_similarity(rows[:1], rows[1:])[0]) == 0.5
    assert half_angle(0.5) == 0.5
    assert listed_together(rows, 0.5, book, device_and_precision[0])


def test_rows_that_rounding_moves_away_from_the_plane_are_listed_all_the_same(
    device_and_precision: tuple[str, str],
) -> None:
    """Half of the components round up, the others down, each by half a unit: by r along the normal of the plane."""
    device, low = device_and_precision
    if low == "fp32":  # rows are stored in it: nothing is rounded
        return
    d, middle = at_a_midpoint(BITS[low])
    normal = np.tile([1.0, -1.0], d // 2) / np.sqrt(d)
    s = max(4 * abs(d**-0.5 / middle - 1.0), 1e-5)
    along = np.sqrt(1 - s * s) / np.sqrt(d)
    rows = np.stack([along + s * normal, along - s * normal]).astype(np.float32)
    floor = min(1.0, float(canonical_similarity(rows[:1], rows[1:])[0]))
    rounded = torch.from_numpy(rows).to(dtype_of(low)).double().numpy()
    moved = abs(float(rounded[0] @ normal)) - s
    assert moved > 0.4 * input_error(low), "rounding moves the row off by much of what it may"
    book = np.stack([normal, -normal]).astype(np.float32)
    assert listed_together(rows, floor, book, device)


def test_distances_of_centroids_are_never_too_small() -> None:
    """Two centroids that differ in a few last bits: the difference of float32 sums loses their distance."""
    rng = np.random.default_rng(3)
    below = 0
    for trial in range(60):
        d = int(rng.choice([2, 64, 384, 1_024]))
        base = rng.normal(size=d)
        book = np.repeat((base / np.linalg.norm(base))[None], 4, axis=0)
        for row in range(1, 4):
            book[row, rng.integers(0, d, 3)] *= 1 + 2.0**-8 * rng.integers(1, 3)
        book = cells.codebook(book.astype(np.float32))
        norms = np.linalg.norm(book.astype(np.float64), axis=1)
        found = distances._computed(book).astype(np.float64)
        there = distances._computed_on("cpu:0", book).numpy().astype(np.float64)
        for i, j in itertools.combinations(range(4), 2):
            true = float(np.linalg.norm(book[i].astype(np.float64) - book[j].astype(np.float64)))
            assert found[i, j] >= true and there[i, j] >= true, trial
            gram = float((book[i] @ book[j]).astype(np.float64))
            plain = np.sqrt(max(0.0, norms[i] ** 2 + norms[j] ** 2 - 2 * gram))
            below += float(np.float32(plain * (1 + 1e-6))) < true
    assert below > 5, "without the slack some would be"


# -- the list of wrong changes -----------------------------------------------------------------------


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_each_wrong_change_still_applies_and_names_tests_that_are_there(mutation: Mutation) -> None:
    text = (ROOT / "dedup_assets" / "compute" / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.right) == 1 and mutation.right != mutation.wrong
    assert all((ROOT / test).is_file() for test in mutation.tests)
