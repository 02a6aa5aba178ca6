"""Measurements that the cost model is checked against, and the code to repeat them."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import numpy as np
from scale_costs import ASSIGN_PRODUCT, ASSIGN_ROW, BUILD_ROW, FLOOR, Plant, predict, work

from dedup_assets.compute.kmeans import choose_cells

MEASURED: tuple[dict[str, float], ...] = (
    {"records": 50_000, "group_bytes": 0, "fit": 0.093, "assign": 0.176, "join": 0.915, "blocks_per_row": 1.0,
     "groups": 1, "disk_per_row": 911.0, "ghosts": 33.7, "pairs": 0.344e9},
    {"records": 200_000, "group_bytes": 0, "fit": 0.286, "assign": 1.415, "join": 5.58, "blocks_per_row": 1.0,
     "groups": 1, "disk_per_row": 964.1, "ghosts": 47.0, "pairs": 3.743e9},
    {"records": 200_000, "group_bytes": 64 << 20, "fit": 0.292, "assign": 0.839, "build": 3.21, "join": 12.38,
     "blocks_per_row": 17.28, "groups": 58, "disk_per_row": 964.1, "ghosts": 47.0, "pairs": 3.743e9},
    {"records": 1_000_000, "group_bytes": 512 << 20, "fit": 1.05, "assign": 8.91, "build": 5.69, "join": 44.7,
     "blocks_per_row": 4.07, "groups": 9, "disk_per_row": 988.4, "ghosts": 53.1, "pairs": 45.2e9},
)  # fmt: skip
"""Stages run in the way of a worker with one thread: fit, assign, `build_block` and `match_cells` for every planned
group of at most `group_bytes`; 0: all cells in one group. A block of one whole shard is
no copy, so nothing is built there. The million are generated vectors
(`dedup_assets_tests/benchmarks/generator.py`)."""


def check() -> list[dict[str, float | str]]:
    """Predicted and measured CPU seconds of one thread."""
    lines: list[dict[str, float | str]] = []
    for found in MEASURED:
        n = found["records"]
        bound = found["group_bytes"] or math.inf
        w, cpu = work(n, group_bytes=bound), predict(Plant("1 core", 1, bound=bound), n)
        told = {
            "fit": cpu["fit"],
            "assign": n * (w["cells"] * ASSIGN_PRODUCT + ASSIGN_ROW),
            "build": w["rows_in_blocks"] * BUILD_ROW,
            "join": cpu["blocks"] - w["rows_in_blocks"] * BUILD_ROW + cpu["pairs"],
            "blocks_per_row": w["rows_in_blocks"] / n,
            "groups": w["groups"],
            "disk_per_row": w["disk_bytes"] / n,
            "ghosts": w["ghosts_per_record"],
            "pairs": w["pairs"],
        }
        for name in found:
            if name not in ("records", "group_bytes"):
                line = {"records": n, "group_bytes": found["group_bytes"], "what": name}
                line |= {"measured": found[name], "predicted": told[name]}
                lines.append({**line, "ratio": told[name] / found[name]})
    return lines


def measure(vectors: np.ndarray, group_bytes: int = 0) -> dict[str, object]:
    """One line of `MEASURED`, and the counts per cell. Single-threaded: start with OPENBLAS_NUM_THREADS=1."""
    import torch

    from dedup_assets.compute.blocks import ShardPiece, build_block
    from dedup_assets.compute.cell_groups import plan_groups
    from dedup_assets.compute.join import match_cells
    from dedup_assets.compute.kmeans import fit_centroids, sample_size
    from dedup_assets.resources.worker_tasks import lay_out
    from dedup_assets.storage.cells import ShardCells

    torch.set_num_threads(1)
    n = len(vectors)
    k = choose_cells(n, FLOOR)
    chosen = np.sort(np.random.default_rng(0).choice(n, sample_size(n, k), replace=False))
    lay_out(vectors[:3000], np.arange(3000), fit_centroids(vectors[:3000], 20), FLOOR, "cpu")  # compiles
    clock = time.process_time
    start = clock()
    centroids = fit_centroids(vectors[chosen], k)
    fitted = clock()
    cells = lay_out(vectors, np.arange(n), centroids, FLOOR, "cpu")
    assigned = clock()
    with tempfile.TemporaryDirectory() as folder:
        cells.write(Path(folder) / "cells")
        size = sum(file.stat().st_size for file in (Path(folder) / "cells").iterdir())
        mapped = ShardCells.read(Path(folder) / "cells")
        home, ghosts = mapped.home_counts, mapped.ghost_counts
        piece = ShardPiece(mapped.vectors, mapped.home_offsets, mapped.ghost_rows, mapped.ghost_offsets,
                           np.arange(n), True)  # fmt: skip
        groups = plan_groups([piece], group_bytes or 1 << 62)
        list(match_cells(build_block([piece], 0, 1), FLOOR))
        build = join = rows = 0.0
        for first, last, _ in groups:
            begun = clock()
            block = build_block([piece], first, last)
            built = clock()
            list(match_cells(block, FLOOR))
            join += clock() - built
            build += built - begun
            rows += len(block.vectors)
    return {
        "records": n,
        "group_bytes": group_bytes,
        "fit": fitted - start,
        "layout": assigned - fitted,
        "build": build,
        "join": join,
        "blocks_per_row": rows / n,
        "groups": len(groups),
        "disk_per_row": size / n,
        "ghosts": float(ghosts.sum() / n),
        "pairs": float((home * (home / 2 + ghosts)).sum()),
        "home_counts": home.tolist(),
        "ghost_counts": ghosts.tolist(),
    }
