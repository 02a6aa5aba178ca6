"""Scores over every pair, for outliers and samples: seconds, memory, and recall against every product in float64.

    python -m dedup_assets_tests.benchmarks.neighbours --rows 20000 100000

Vectors are generated (`generator.py`), as float16. Each size runs in a process of its own, which compiles before the
clock starts. Recall is the share of `--queries` random rows whose nearest neighbours were all found: their score is
not below that of every product in float64, by numpy, which shares no code with the package. Beside it stands the
largest difference of a score from that of the truth.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SAMPLE = 1_000
BLOCK_ROWS = 8_192


def job(file: str, queries: int) -> None:
    """Score the rows of a file and choose a sample; the report is the last line."""
    import torch

    from dedup_assets.compute.neighbours import NEIGHBOURS, mean_of_nearest, representatives

    rows = np.load(file, mmap_mode="r")
    threads = torch.get_num_threads()
    mean_of_nearest(np.array(rows[:2_000]), threads=threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock, used = time.perf_counter(), time.process_time()
    scores = mean_of_nearest(rows, threads=threads)
    scored, cpu = time.perf_counter() - clock, time.process_time() - used
    clock = time.perf_counter()
    representatives(scores, SAMPLE, 0.5, lambda at: rows[at])
    chosen = time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    at = np.random.default_rng(0).choice(len(rows), min(queries, len(rows)), replace=False)
    true = true_means(rows, at, NEIGHBOURS)
    report = {
        "rows": len(rows),
        "seconds": scored,
        "cpu_seconds": cpu,
        "choice_seconds": chosen,
        "mb": (peak - before) / 1024,
        "vectors_mb": rows.nbytes / 2**20,
        "difference": float(np.abs(scores[at] - true).max()),
        "recall": float((scores[at] >= true - 1e-12).mean()),
    }
    print(json.dumps(report))


def true_means(rows: np.ndarray, at: np.ndarray, count: int) -> np.ndarray:
    """Mean cosine of some rows to their nearest, in float64: (m,)."""
    wanted = rows[at].astype(np.float64)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    best = np.full((len(at), 0), -2.0)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS].astype(np.float64)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        product = wanted @ block.T
        inside = np.flatnonzero((at >= start) & (at < start + len(block)))
        product[inside, at[inside] - start] = -2.0
        best = np.concatenate([best, product], axis=1)
        best = -np.partition(-best, min(count, best.shape[1]) - 1, axis=1)[:, :count]
    return best.mean(axis=1)


def main(arguments: list[str] | None = None) -> int:
    """Run and print a table; the exit code is 1 where a score is not that of every pair."""
    from dedup_assets_tests.benchmarks.generator import generate
    from dedup_assets_tests.benchmarks.measure import printed_by

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--queries", type=int, default=500)
    options = parser.parse_args(arguments)
    head = ["rows", "scores: s", "CPU s", "sample of 1,000: s", "MB", "of which vectors", "recall", "score differs by"]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    exact = True
    with tempfile.TemporaryDirectory() as folder:
        for count in options.rows:
            file = Path(folder) / "rows.npy"
            rows = np.lib.format.open_memmap(file, "w+", np.float16, (count, 384))
            generate(rows)
            rows.flush()
            command = [sys.executable, __file__, "--job", str(file), str(options.queries)]
            found = printed_by(command)
            exact = exact and found["recall"] == 1.0 and found["difference"] < 1e-9
            figures = [
                f"{found['rows']:,}",
                *(f"{found[name]:.1f}" for name in ("seconds", "cpu_seconds", "choice_seconds")),
                *(f"{found[name]:,.0f}" for name in ("mb", "vectors_mb")),
                f"{found['recall']:.4f}",
                f"{found['difference']:.0e}",
            ]
            print(f"| {' | '.join(figures)} |", flush=True)
    return int(not exact)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        job(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main())
