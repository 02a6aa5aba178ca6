"""The join of this package as a contender: from vectors to decisions, alone in a process of its own.

    python -m dedup_assets_tests.benchmarks.ours JOB

JOB is the JSON object that `measure` makes. With ``"profile": true`` it runs on one thread and says which share
of it were matrix products and the compiled scans that are their epilogue.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dedup_assets.compute import cell_worker, cells, in_memory, kmeans, packed, sketch
from dedup_assets_tests.benchmarks.peers import Clock, Found, halves, measured

STEPS = {"fit": "k-means", "assign": "assign and ghosts", "join": "pairs", "decide": "decisions"}


def decide(vectors: np.ndarray, threshold: float, clock: Clock, threads: int) -> Found:
    """What `deduplicate` does with vectors; the laps are those it takes itself."""
    stats: dict[str, float] = {}
    found = in_memory.deduplicate_vectors(vectors, threshold, threads=threads, stats=stats)
    clock.seconds = {name: stats[f"seconds_{step}"] for step, name in STEPS.items()}
    cells = [(cell.members, cell.home) for cell in found.matches.dense]
    return Found(np.column_stack([found.matches.i, found.matches.j]), found.decisions.kept, cells)


class Shares:
    """Processor seconds of wrapped functions, each without the wrapped functions it calls. One thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inner = [0.0]

    def wrap(self, owner: Any, name: str, label: str) -> None:
        """Replace a function by one that is timed."""
        function: Callable = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.process_time()
            self.inner.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                spent = time.process_time() - start
                self.seconds[label] = self.seconds.get(label, 0.0) + spent - self.inner.pop()
                self.inner[-1] += spent

        setattr(owner, name, timed)


PRODUCTS = "matrix products"
EPILOGUE = "scans of the products"


def watch() -> Shares:
    """Wrap what the join spends its time in."""
    shares = Shares()
    shares.wrap(torch, "mm", PRODUCTS)
    shares.wrap(torch.Tensor, "__matmul__", PRODUCTS)
    shares.wrap(cell_worker, "scan", EPILOGUE)
    for owner, name in ((cells, "_list_bits"), (cells, "_list_floats"), (kmeans, "_nearest_bits")):
        shares.wrap(owner, name, EPILOGUE)
    shares.wrap(cell_worker, "gather", "gathering ghosts")
    shares.wrap(cell_worker, "low_rows", "sketch: rounding and layout")
    shares.wrap(packed.PackedRows, "__getitem__", "reading listings")
    for owner, name in ((cells, "low_unit_rows"), (kmeans, "unit_rows"), (sketch, "unit_rows")):
        shares.wrap(owner, name, "unit rows")
    for owner in (cell_worker, cells, kmeans):
        shares.wrap(owner, "squared_norms", "norms")
    shares.wrap(cells, "_sort_by_cell", "sorting homes")
    shares.wrap(packed, "_measure", "packing ghosts")
    shares.wrap(packed, "_pack", "packing ghosts")
    shares.wrap(kmeans, "_sum_cells", "means of cells")
    shares.wrap(kmeans, "order_by_locality", "order of cells")
    shares.wrap(in_memory, "unique_matches", "sorting matches")
    shares.wrap(in_memory, "decide_batch", "decisions")
    return shares


def main() -> None:
    """Run the job; the report is the last line."""
    job = json.loads(sys.argv[1])
    profile = job.get("profile", False)
    threads = 1 if profile else torch.get_num_threads()
    torch.set_num_threads(threads)
    # What is compiled or prepared once is not the join's: cells of all shapes are met in a few thousand rows.
    decide(halves(job["vectors"], min(20_000, job["rows"])), job["threshold"], Clock(), threads)
    shares = watch() if profile else None
    report = measured(
        lambda: halves(job["vectors"], job["rows"]),
        lambda vectors, clock: decide(vectors, job["threshold"], clock, threads),
        job["out"],
    )
    if shares is not None:
        shares.seconds["everything else"] = report["cpu_seconds"] - sum(shares.seconds.values())
        report["profile"] = shares.seconds
        report["products_share"] = (shares.seconds[PRODUCTS] + shares.seconds[EPILOGUE]) / report["cpu_seconds"]
    report["threads"] = threads
    print(json.dumps(report))


if __name__ == "__main__":
    main()
