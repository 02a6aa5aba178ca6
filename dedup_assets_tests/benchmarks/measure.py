"""Run contenders in processes of their own and judge what they found against brute force.

Knows jobs, interpreters and arrays of pairs; nothing of how a contender works or how a table looks.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dedup_assets_tests.benchmarks import peers

OURS = "this package"
REQUIREMENTS = ("semhash==0.5.0", "faiss-cpu")
FAMILIES = {
    "semhash": ("semhash",),
    "faiss": ("faiss-range", "faiss-hnsw"),
    "torch": ("torch-bf16", "torch-fp32"),
    "semdedup": ("semdedup",),
}
EXACT_ROWS = 50_000
"""Up to here every pair is compared; above, `QUERIES` rows with all rows."""
QUERIES = 2_000


def peers_python(folder: Path, say: Callable[[str], None]) -> str:
    """The interpreter of the peers' environment, which is made on first use."""
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if not done.exists() or done.read_text() != " ".join(REQUIREMENTS):
        say(f"installing {', '.join(REQUIREMENTS)} into their own environment")
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        done.write_text(" ".join(REQUIREMENTS))
    return str(python)


def printed_by(command: Sequence[str | Path]) -> dict[str, Any]:
    """The figures that a job in a process of its own prints last, as JSON."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@dataclass(frozen=True)
class Job:
    """One corpus and threshold."""

    vectors: Path
    rows: int
    threshold: float
    timeout: float
    memory_bytes: int
    semdedup_clusters: int = 1000


def run(name: str, job: Job, venv_python: Callable[[], str], *, profile: bool = False) -> dict[str, Any]:
    """A contender's report, with ``codes`` of its pairs and its ``decisions``; or ``failed`` and why."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "found")
        order = {
            "name": name,
            "vectors": str(job.vectors),
            "rows": job.rows,
            "threshold": job.threshold,
            "out": out,
            "profile": profile,
            "semdedup_clusters": job.semdedup_clusters,
        }
        if name == OURS:
            command = [sys.executable, "-m", "dedup_assets_tests.benchmarks.ours"]
        else:
            own = name.startswith("torch")  # torch is this package's own requirement
            command = [sys.executable if own else venv_python(), str(Path(peers.__file__))]
        try:
            done = subprocess.run(
                [*command, json.dumps(order)],
                capture_output=True,
                text=True,
                timeout=job.timeout,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (job.memory_bytes, job.memory_bytes)),
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {job.timeout:.0f} s"}
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            memory = "MemoryError" in done.stderr or "alloc" in last or done.returncode == -9
            why = f"more than {job.memory_bytes / 1e9:.0f} GB" if memory else last
            return {"failed": why}
        report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        report["codes"] = np.load(f"{out}.pairs.npy")
        report["decisions"] = np.load(f"{out}.kept.npy")
        with np.load(f"{out}.dense.npz") as parts:
            arrays = [parts[name] for name in parts.files]
        report["dense"] = list(zip(arrays[::2], arrays[1::2], strict=True))
        return report


def inside(cells: list[tuple[np.ndarray, np.ndarray]], codes: np.ndarray) -> np.ndarray:
    """Which pairs are between a row at home in one of the dense cells and another row of it: bool (m,)."""
    found = np.zeros(len(codes), bool)
    for members, home in cells:
        low, high = (np.isin(side, members) for side in (codes >> 32, codes & 0xFFFFFFFF))
        homes = members[home]
        found |= low & high & (np.isin(codes >> 32, homes) | np.isin(codes & 0xFFFFFFFF, homes))
    return found


@dataclass(frozen=True)
class Truth:
    """Pairs of some or all rows with any other, as sorted codes ``low << 32 | high``; queries None means all."""

    codes: np.ndarray
    queries: np.ndarray | None

    def judge(self, codes: np.ndarray, dense: list[tuple[np.ndarray, np.ndarray]] | None = None) -> tuple[float, float]:
        """Recall and precision of pairs found, as far as they touch a query. What lies in a dense cell was decided
        upon without being listed, and counts as found."""
        codes = np.union1d(codes, self.codes[inside(dense or [], self.codes)])
        if self.queries is not None:
            codes = codes[self.queries[codes >> 32] | self.queries[codes & 0xFFFFFFFF]]
        true = len(np.intersect1d(codes, self.codes, assume_unique=True))
        return true / max(1, len(self.codes)), (true / len(codes) if len(codes) else 1.0)


def truth(vectors: np.ndarray, threshold: float, *, exact_rows: int = EXACT_ROWS, queries: int = QUERIES) -> Truth:
    """Brute force in float64 by numpy, which shares no code with any contender."""
    n = len(vectors)
    everything = n <= exact_rows
    rows = np.arange(n) if everything else np.sort(np.random.default_rng(1).choice(n, queries, replace=False))
    left = _unit(vectors[rows])
    parts = [np.empty(0, np.int64)]
    for across in range(0, n, 4096):
        right = _unit(vectors[across : across + 4096])
        # All rows: only those before the end of the tile, each pair once.
        last = min(n, across + 4096) if everything else len(rows)
        for start in range(0, last, 4096):
            i, j = np.nonzero(left[start : min(start + 4096, last)] @ right.T >= threshold - 1e-9)
            pairs = np.column_stack([rows[start + i], across + j])
            pairs = pairs[pairs[:, 0] != pairs[:, 1]]
            pairs = pairs[peers.true_similarities(vectors, pairs) >= threshold]
            parts.append(peers.codes(pairs))
    asked = None if everything else np.isin(np.arange(n), rows)
    return Truth(np.unique(np.concatenate(parts)), asked)


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(norms > 0, norms, 1.0)


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Slope of the logarithm of the time over that of the rows."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def extrapolated(sizes: list[int], seconds: list[float], rows: int) -> tuple[float, float] | None:
    """Seconds at ``rows`` and the exponent used, from at least two smaller sizes that were measured."""
    if len(sizes) < 2:
        return None
    power = exponent(sizes, seconds)
    return seconds[-1] * math.pow(rows / sizes[-1], power), power
