"""The pipeline's benchmark runs on a few rows, finds what the bare join finds, and divides what shards add."""

from __future__ import annotations

import argparse
import json

import pytest

from dedup_assets.assets.stage import STAGES
from dedup_assets_tests.benchmarks import corpus, pipeline


def test_the_command_compares_the_pipeline_with_the_bare_join_and_writes_json(tmp_path, capsys):
    vectors = corpus.corpus("dense", 240, tmp_path, lambda text: None)
    file = tmp_path / "results.json"
    options = ["--sizes", "2x60", "4x60", "--vectors", str(vectors), "--scratch", str(tmp_path), "--json", str(file)]
    assert pipeline.main([*options, "--set", "memory_limit=1GB"]) == 0
    written = json.loads(file.read_text())
    for result, shards in zip(written["results"], (2, 4), strict=True):
        assert (result["shards"], result["rows"]) == (shards, 60 * shards)
        assert result["pairs"] == result["bare"]["pairs"] > 0
        assert set(result["stages"]) == set(STAGES) == set(result["stages_cpu"])
        assert 0 < sum(result["stages"].values()) < result["seconds"]
        assert result["peak_mb"] > 100
    assert len(written["per_further_shard"]) == 2
    assert "| pairwise |" in capsys.readouterr().out


def test_what_a_further_shard_adds_is_told_between_shards_of_one_length():
    results = [
        {"shards": shards, "rows": shards * length, "seconds": wall, "overhead_seconds": overhead}
        for shards, length, wall, overhead in ((10, 5, 3.0, 1.0), (30, 5, 13.0, 2.0), (7, 9, 100.0, 50.0))
    ]
    assert pipeline.per_further_shard(results) == {
        "10 to 30 shards of 5, overhead": pytest.approx(0.05),
        "10 to 30 shards of 5, all": pytest.approx(0.5),
    }


@pytest.mark.parametrize("size", ["20", "x5", "0x10", "3x", "3x-1"])
def test_a_size_is_shards_times_rows(size):
    with pytest.raises(argparse.ArgumentTypeError, match="SHARDSxROWS"):
        pipeline._size(size)
