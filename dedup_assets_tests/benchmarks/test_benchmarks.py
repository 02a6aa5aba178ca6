"""The benchmark runs, on a few hundred rows and without peers from a package index."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dedup_assets as da
from dedup_assets.compute.in_memory import deduplicate_vectors
from dedup_assets.in_memory import matching
from dedup_assets_tests.benchmarks import corpus, guards, in_memory, join, neighbours, ours, peers
from dedup_assets_tests.benchmarks.fit import traits
from dedup_assets_tests.benchmarks.generator import generate
from dedup_assets_tests.benchmarks.measure import exponent, extrapolated, truth
from dedup_assets_tests.compute.vectors import brute_force, make_vectors


def test_the_command_finds_recall_and_precision_one_and_writes_json(tmp_path, capsys):
    file = tmp_path / "results.json"
    arguments = ["--rows", "400", "--data", "dense", "--repeats", "2", "--peer-repeats", "1", "--cache", str(tmp_path)]
    assert join.main([*arguments, "--peers", "torch-fp32", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert [result["rows"] for result in written["results"]] == [400]
    for result in written["results"]:
        ours, brute = result["contenders"]
        assert (ours["recall"], ours["precision"], ours["repeatable"]) == (1.0, 1.0, True)
        assert (brute["recall"], brute["precision"], brute["differ"]) == (1.0, 1.0, 0)
        assert ours["pairs"] == brute["pairs"] > 0
    assert "decided otherwise" in capsys.readouterr().out


def test_the_benchmark_times_what_a_user_calls(monkeypatch):
    called = []

    def watched(*arguments, **options):
        called.append(options)
        return deduplicate_vectors(*arguments, **options)

    monkeypatch.setattr(matching, "deduplicate_vectors", watched)
    monkeypatch.setattr(ours.in_memory, "deduplicate_vectors", watched)
    vectors = make_vectors("clustered", 300, 16, np.float16, 0)
    result = da.deduplicate(list(range(300)), vectors=vectors, threshold=0.9, progress=False)
    assert len(called) == 1
    found = ours.decide(vectors, 0.9, peers.Clock(), 1)
    assert len(called) == 2
    assert np.flatnonzero(found.kept).tolist() == result.selected


def test_texts_in_memory_are_decided_as_by_every_pair(capsys):
    assert in_memory.main(["--rows", "600", "--repeats", "1", "--alone", "--threshold", "0.8"]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| deduplicate |") and row.endswith("| 0 |")


def test_scores_of_the_benchmark_are_those_of_every_pair(capsys):
    assert neighbours.main(["--rows", "700", "--queries", "40"]) == 0
    assert "| 700 |" in capsys.readouterr().out


def test_the_generator_gives_the_same_unit_rows_for_the_same_seed():
    one, other, third = (np.empty((2_000, 384), np.float16) for _ in range(3))
    generate(one)
    generate(other)
    generate(third, seed=1)
    assert (one == other).all()
    assert (one != third).any()
    np.testing.assert_allclose(np.linalg.norm(one.astype(np.float32), axis=1), 1.0, atol=1e-3)


def test_generated_rows_have_the_spectrum_they_were_fitted_to():
    rows = np.empty((5_000, 384), np.float16)
    generate(rows)
    found = traits(rows, threads=1)
    assert found["length of the mean"] == pytest.approx(0.273, abs=0.05)
    assert found["eigenvalue 4"] == pytest.approx(0.0209, rel=0.5)
    assert found["rows with a match at 0.8"] > 0


def test_half_of_the_dense_corpus_is_near_ten_templates(tmp_path):
    rows = np.load(corpus.corpus("dense", 1_000, tmp_path, lambda text: None)).astype(np.float32)
    cosines = rows @ rows.T
    # Copies of one template: 0.99 to it, so about 0.98 to each other.
    assert 480 <= (np.sort(cosines, axis=1)[:, -20] > 0.95).sum() <= 560


@pytest.mark.parametrize("queries", [None, 40])
def test_truth_is_what_a_full_product_says(queries):
    vectors = make_vectors("clustered", 300, 16, np.float16, 0)
    wanted = np.argwhere(np.triu(brute_force(vectors) >= 0.9, 1))
    known = truth(vectors, 0.9, exact_rows=0 if queries else 300, queries=queries or 0)
    codes = np.unique(peers.codes(wanted))
    assert known.judge(codes) == (1.0, 1.0)
    if queries is None:
        assert known.codes.tolist() == codes.tolist()
        assert known.judge(codes[::2])[0] == pytest.approx(0.5, abs=0.01)


def test_a_pair_in_a_dense_cell_counts_as_found_and_another_that_is_missing_does_not():
    vectors = make_vectors("boilerplate", 120, 16, np.float16, 0)
    known = truth(vectors, 0.9)
    cell = (np.arange(60), np.arange(60) < 40)
    low, high = known.codes >> 32, known.codes & 0xFFFFFFFF
    covered = (high < 60) & (low < 40)
    assert 0 < covered.sum() < len(known.codes)
    assert known.judge(known.codes[~covered], [cell]) == (1.0, 1.0)
    assert known.judge(known.codes[~covered])[0] < 1
    assert known.judge(known.codes[~covered][1:], [cell])[0] < 1


def test_greedy_keeps_a_row_whose_only_earlier_matches_are_gone():
    pairs = np.array([[1, 0], [1, 2], [3, 2]])
    assert peers.greedy(pairs, 4).tolist() == [True, False, True, False]


def test_a_time_is_extrapolated_only_from_a_measured_exponent():
    assert exponent([10, 100], [1.0, 100.0]) == pytest.approx(2.0)
    assert extrapolated([10], [1.0], 100) is None
    assert extrapolated([10, 100], [1.0, 100.0], 1000) == pytest.approx((10_000.0, 2.0))


def test_the_cost_of_guards_is_told_beside_what_they_decide(capsys: pytest.CaptureFixture[str]) -> None:
    guards.on_matches(60, 80)
    guards.in_a_dense_cell(200, 8)
    told = capsys.readouterr().out
    assert "60 matches of 80 characters" in told and "200 near-copies, no number, numbers" in told
    assert "100 stay" in told or "101 stay" in told
