"""The report on a corpus of near-copies, quiet and beside as many busy processes as there are cores.

    python -m dedup_assets_tests.benchmarks.busy [--rows 60000] [--rounds 3]

Each round measures both, one after the other; the medians are printed, and by what factor the wall clock grows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import dedup_assets as da

TEMPLATES, DIMENSION = 30, 384
THRESHOLD, FLOOR = 0.95, 0.85


def near_copies(rows: int, seed: int = 0) -> pa.Table:
    """Texts and vectors: near-copies of a few templates, some on either side of the threshold."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(TEMPLATES, DIMENSION))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise = rng.normal(size=(rows, DIMENSION)) / np.sqrt(DIMENSION)
    vectors = centres[rng.integers(0, TEMPLATES, rows)] + rng.uniform(0.05, 0.35, (rows, 1)) * noise
    flat = pa.array(vectors.astype(np.float32).ravel())
    columns = {
        "id": pa.array([f"r{i}" for i in range(rows)]),
        "text": pa.array([f"record {i}" for i in range(rows)]),
        "vector": pa.FixedSizeListArray.from_arrays(flat, DIMENSION),
    }
    return pa.table(columns)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Processes of one thread each that do nothing but work."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds on the wall and of processors that a command takes."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        workspace, shard = Path(folder) / "ws", Path(folder) / "copies.parquet"
        pq.write_table(near_copies(options.rows), shard)
        da.curate(
            shard, workspace=workspace, embedding_column="vector", threshold=THRESHOLD, floor=FLOOR, progress=False
        )
        command = [str(Path(sys.executable).with_name("dedup-assets")), "report", "--workspace", str(workspace)]
        measured(command)  # compiled kernels, pages in memory
        quiet, beside = [], []
        for _ in range(options.rounds):
            quiet.append(measured(command))
            with busy(cores):
                beside.append(measured(command))
        medians = [[statistics.median(part) for part in zip(*found, strict=True)] for found in (quiet, beside)]
        print(f"{options.rows:,} near-copies of {TEMPLATES} templates, report, {cores} cores, {options.rounds} rounds")
        for name, (wall, cpu) in zip(("quiet", f"beside {cores} busy processes"), medians, strict=True):
            print(f"{name:28} {wall:7.1f} s wall  {cpu:7.1f} s processor")
        print(f"wall clock: {medians[1][0] / medians[0][0]:.2f} times")


if __name__ == "__main__":
    main()
