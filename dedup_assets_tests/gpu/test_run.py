"""The run for a GPU, on CPU tensors and in tiny sizes: every step of it works, and needs little installed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from dedup_assets_tests.benchmarks import gpu
from dedup_assets_tests.gpu.generate import COPIES, generated


def test_the_whole_run_works_on_cpu_tensors(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name == "semhash" else name)
    assert gpu.main(["--device", "cpu", "--small", "--json", str(tmp_path / "j"), "--table", str(tmp_path / "t")]) == 0
    outcome = json.loads((tmp_path / "j").read_text())
    assert not outcome["failed"] and outcome["skipped"] == {"SemHash": "not installed: semhash"}
    measured = [found for name, found in outcome["results"].items() if " rows, " in name]
    assert len(measured) == 3
    for found in measured:
        assert found["matches"] > 0
        assert found["recall"] is None or found["recall"]["missed"] == found["recall"]["extra"] == 0
    assert outcome["results"]["encoder, 60 words"]["docs_per_s"] > 0
    assert outcome["results"]["seven assets on real text"]["texts"] > 0
    text, said = (tmp_path / "t").read_text(), capsys.readouterr().out
    assert "| 1,500 | 48 | 0.05 |" in text and "11 checks passed" in text and text in said
    assert said.index("SemHash: skipped, not installed") < said.index("environment:"), "said at the start"


def test_what_does_not_fit_the_budget_is_skipped_with_a_reason(capsys):
    run = gpu.run_all("cpu:0", budget=0, small=True)
    assert not run.results and "environment" in run.skipped
    said = capsys.readouterr().out
    assert "environment: probably no time left, 5 s expected up to its end" in said
    assert "environment: skipped, would take about 5 s, 0 s are left" in said
    assert "- skipped ceiling" in gpu.table(run)


def test_a_failed_part_costs_no_other_and_each_part_is_written_when_it_is_done(monkeypatch, tmp_path):
    file, seen = tmp_path / "gpu.json", []

    def watched() -> str:
        seen.append(json.loads(file.read_text()))
        return "done"

    parts = [gpu.Part("first", 0, lambda: 1 / 0), gpu.Part("second", 0, watched), gpu.Part("third", 0, watched)]
    monkeypatch.setattr(gpu, "parts_of", lambda run, small: parts)
    run = gpu.run_all("cpu:0", 300, True, file)
    assert run.failed == {"first": "ZeroDivisionError: division by zero"} and len(run.results) == 2
    assert [list(known["results"]) for known in seen] == [[], ["second"]] and seen[0]["failed"]
    assert json.loads(file.read_text())["results"] == {"second": "done", "third": "done"}
    assert "- FAILED first: ZeroDivisionError" in gpu.table(run)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_run_says_so(capsys):
    assert gpu.main(["--device", "cuda"]) == 2
    assert "finds no usable GPU" in capsys.readouterr().out


def test_the_run_needs_neither_dask_nor_dagster_nor_pyarrow():
    code = (
        "import sys\n"
        "for name in ('dask', 'distributed', 'dagster', 'lancedb', 'pyarrow', 'cuml', 'hypothesis', 'pytest'):\n"
        "    sys.modules[name] = None\n"
        "from dedup_assets_tests.benchmarks import gpu\n"
        "print(gpu.gpu_steps.environment('cpu:0')['torch'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("d", [16, 384, 768])
def test_generated_vectors_are_unit_and_have_near_copies(d):
    rows = generated(3_000, d, "cpu", 1).float()
    assert ((rows.norm(dim=1) - 1).abs() < 2e-3).all()
    assert torch.equal(rows, generated(3_000, d, "cpu", 1).float())
    nearest = (rows @ rows.T).fill_diagonal_(-1).max(dim=1).values
    assert COPIES / 2 < float((nearest > 0.89).float().mean()) < 4 * COPIES or d == 16
