"""Which wheels are gathered for a machine without network: with a stand-in for pip."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from dedup_assets_tests.benchmarks import gpu_wheels


@pytest.fixture
def pip(monkeypatch):
    """A stand-in: every requirement needs torch, NumPy, a shared package and one of its own of so many bytes."""
    sizes = {"small": 10, "large": 100, "middle": 40}

    def run(command, **options):
        if "--report" in command:
            names = ["torch", "NumPy", "nvidia-cublas", "shared", command[-1]]
            report = {"install": [{"metadata": {"name": name, "version": "1"}} for name in names]}
            return SimpleNamespace(returncode=0, stdout=json.dumps(report), stderr="")
        folder = Path(command[command.index("--dest") + 1])
        for pinned in command[command.index("--dest") + 2 :]:
            name = pinned.partition("==")[0]
            (folder / f"{name}-1-py3-none-any.whl").write_bytes(b"x" * sizes.get(name, 5))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)


def test_what_the_machine_has_stays_here_and_what_does_not_fit_is_named(pip, tmp_path):
    left_out = gpu_wheels.gather(["small", "large", "middle"], tmp_path, most=80)
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["middle", "shared", "small"]
    assert left_out == {"large": "with it the folder has 0 MB, of 0 at most"}


def test_the_folders_are_ignored_and_fit_what_may_travel(pip, tmp_path, capsys):
    root = Path(__file__).parents[2]
    assert "/.wheels/" in (root / ".gitignore").read_text().splitlines()
    assert gpu_wheels.MOST_BYTES <= 64 << 20
    assert gpu_wheels.main(["--folder", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'bare'}: {len(gpu_wheels.BARE) + 1} wheels" in said
