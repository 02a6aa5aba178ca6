"""What a corpus costs beyond one machine: a cost model with measured constants, and a simulated schedule.

    python deploy/simulate_scale.py                    # tables
    python deploy/simulate_scale.py --json             # the same as one JSON object; equal on every call
    python deploy/simulate_scale.py --measure FILE.npy # measure again what the constants were taken from

Needs no workspace, model or GPU. What is measured and what is assumed is said beside each constant and in
`scale.md`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dedup_assets.compute.kmeans import ITERATIONS, SAMPLES_PER_CENTROID, choose_cells
from dedup_assets.resources.dask_cluster import WINDOW_PER_THREAD

# -- measured --------------------------------------------------------------------------------------------------
# CPU seconds of one thread (`time.process_time`, OpenBLAS and OpenMP held to one thread), Intel Xeon with AMX,
# 384-d float16 vectors of 200,000 real texts (all-MiniLM-L6-v2), floor 0.90. The other core was busy.

DIMENSION = 384
FLOOR = 0.90

EMBED_TOKEN = 100e-6
"""Seconds per token: 1,500 docstring paragraphs of 35.7 tokens on average took 5.4 s in bf16."""

TOKENS = 36
"""Tokens per text of that sample; half had fewer than 20, one in a hundred more than 267."""

TOKENISE = 70e-6
"""Seconds per text of the same sample, tokenizer alone."""

FIT_PRODUCT, FIT_ROW = 3.3e-9, 0.86e-6
"""Seconds per row × centroid and per row of one iteration: least squares over k = 265 to 4,000, six fits."""

ASSIGN_PRODUCT, ASSIGN_ROW = 6.8e-9, 2.2e-6
"""The same for home cell and ghosts: product, test, listing and counting sort."""

BUILD_ROW = 1.9e-6
"""Per row copied from the map into a block: 4.4 s for 2.29 million rows, 0.46 s for 249,000 (400 MB/s)."""

SKETCH_ROW, SKETCH_BLOCK = 3.4e-6, 0.024
"""Per row of a block for norms and sketch; per block for the principal directions."""

GHOST_ENTRY = 150e-9
"""Per ghost listed in a block: 63 ns to gather its sketch, the rest to order the listing."""

PAIR_PRODUCT, PAIR_SCAN = 0.69e-9, 0.20e-9
"""Per pair compared, 128 columns: product, and scan with decisions. 3.74 billion pairs in 2.58 and 0.75 s."""

KEY_ROW = 2.5e-9
"""Per row of the *corpus* and group of cells: every task makes the keys of whole shards."""

OPEN_SHARD = 0.45e-3
"""Per shard and group: five memory maps are opened."""

INDEX_ROW = (260e-9, 600_000, 460e-9, 5_000_000)
"""Per row of the whole index to add a shard to it: at 0.6 and at 5 million rows; a logarithm is put through both."""

MATCH_SORT, MATCH_WRITE = 50e-9, 620e-9
"""Per match on the client: to merge it with the others, and to look up its ids and write it as Parquet."""

MATCH_BYTES = 24 * 5 + 2 * 24
"""Client memory per match: 24 bytes in the parts, joined, in the sort order and sorted; two ids as strings."""

MATCHES_PER_RECORD = 0.94
"""188,735 matches at or above 0.90 among 200,000 records. Taken as constant: ten times the records hold ten times
the near-copies. A corpus that grows denser has more."""

CELLS_GHOSTS = ((265, 36.6), (529, 47.0), (1000, 53.6), (2000, 58.4), (4000, 54.8))
"""Ghosts per record at 0.90 against the number of cells, 200,000 real rows. At 0.95: 12.4, 14.3, 14.7, 14.4, 12.1;
at 0.80 it still rises: 108, 166, 226, 303, 355. Beyond 4,000 cells nothing was measured: see `GHOST_GROWTH`."""

SKEW = 1.05
"""Sum of home × (home/2 + ghosts) over what equal cells would give: 1.04 to 1.07 for k = 265 to 4,000."""

# -- assumed ---------------------------------------------------------------------------------------------------

GHOST_GROWTH = 0.0
"""Exponent of ghosts in k beyond what was measured; `pessimistic` takes 0.2, the slope from 529 to 1,000."""

CORE_EFFICIENCY = 0.85
"""Share of a core's speed left when 16 work side by side: memory bandwidth and clock."""

READ_BYTES = 1e9
"""Bytes a second that one machine reads from the shared file system; in the schedule, that each worker reads."""

CACHE_BYTES = 64e9
"""Memory left to a machine for file pages. Cells that fit are read once, however many groups list a row."""

GPU_FLOPS, GPU_SHARE, GPU_EMBED_SHARE = 989e12, 0.35, 0.20
"""Published dense bf16 rate of H100 SXM and H200; the shares of it reached by products and by a small encoder."""

GPU_BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12}
"""Published bytes a second of device memory."""

GPU_BANDWIDTH_SHARE = 0.70

PAIR_DEVICE_BYTES = 6
"""Device traffic per pair: product written and read (2 + 2), mask written and read (1 + 1)."""

ASSIGN_DEVICE_BYTES = 40
"""Device traffic per row × centroid as `cells._Tile._on_device` is written: ten passes over float32."""

FIT_DEVICE_BYTES = 8

HOST_LINK = 50e9
"""Bytes a second from host to device."""

ENCODER_WEIGHTS = 10.6e6
"""Weights of all-MiniLM-L6-v2 that every token meets; two operations each."""

DISTANCE_CELL = 44e-9
"""Measured. Seconds per k² and shard: distances between all centroids are made anew for each shard (k = 4,000:
0.71 s; k = 2,000: 0.22 s)."""

ROW_BYTES = 2 * DIMENSION
SKETCH_BYTES = 2 * 128
SHARD_ROWS = 1_000_000
"""Records of a shard in the predictions; what grows with the number of shards grows faster with smaller ones."""


MIN_GROUPS, GROUP_BYTES = 8, 256 * 2**20
"""How cells were grouped when the schedule below was measured."""


# -- sizes -----------------------------------------------------------------------------------------------------


def ghosts_per_record(cells: int, growth: float = GHOST_GROWTH) -> float:
    """Ghosts per record at 0.90: as measured up to 4,000 cells, then the most that was measured × k^growth."""
    ks, found = zip(*CELLS_GHOSTS, strict=True)
    ghosts = np.maximum.accumulate(found)
    if cells <= ks[-1]:
        return float(np.interp(math.log(max(cells, 1)), np.log(ks), ghosts))
    return float(ghosts[-1] * (cells / ks[-1]) ** growth)


def foreign_rows(ghosts: float, width: float, outside: float) -> float:
    """Distinct rows from elsewhere that a group of `width` neighbouring cells with these ghosts has to load.

    Neighbours list the same rows: distinct ones are ghosts/sqrt(width), and never more than there are rows
    outside. Against 19 measured groupings (k = 529 and 2,000, width 1 to 512): within a factor of 1.4.
    """
    if ghosts <= 0 or outside <= 0:
        return 0.0
    return 1.0 / (math.sqrt(width) / ghosts + 1.0 / outside)


def bytes_on_disk(records: float, cells: int, ghosts: float, shards: float) -> float:
    """A corpus in its cells: vector, row number, ghosts (int32), and two tables of offsets (int64) per shard."""
    return records * (ROW_BYTES + 8 + 4 * ghosts) + shards * 16 * (cells + 1)


def index_row(records: float) -> float:
    """Seconds per row to sort a hash index of so many rows: a logarithm through two measurements."""
    low, n_low, high, n_high = INDEX_ROW
    return max(low, low + (high - low) * math.log(records / n_low) / math.log(n_high / n_low))


# -- cost model ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plant:
    """Machines. `fused` assumes what is not written: blocks gathered and sketched on the GPU, in 16 GiB groups."""

    name: str
    cores: int
    gpus: int = 0
    gpu: str = "H100"
    fused: bool = False

    @property
    def speed(self) -> float:
        """Cores' worth of work a second."""
        return self.cores if self.cores <= 2 else self.cores * CORE_EFFICIENCY


PLANTS = (
    Plant("2 cores", 2),
    Plant("16 cores", 16),
    Plant("1 H100, 16 cores", 16, 1),
    Plant("8 H100, 128 cores", 128, 8),
    Plant("8 H100, 128 cores, blocks on the GPU", 128, 8, fused=True),
    Plant("8 H200, 128 cores, blocks on the GPU", 128, 8, "H200", fused=True),
)


def work(
    records: float, cells: int | None = None, growth: float = 0.0, group_bytes: float = GROUP_BYTES
) -> dict[str, float]:
    """How much there is of everything, for a corpus curated at once: counts, no seconds."""
    k = cells or choose_cells(int(records), FLOOR)
    m = ghosts_per_record(k, growth)
    per_cell = records / k
    width = min(max(1.0, group_bytes / ROW_BYTES / (per_cell * (1 + m))), k / min(MIN_GROUPS, k))
    home = per_cell * width
    block = home + foreign_rows(home * m, width, records - home)
    groups = k / width
    shards = max(1.0, records / SHARD_ROWS)
    return {
        "records": records,
        "cells": k,
        "ghosts_per_record": m,
        "pairs": records * per_cell * (0.5 + m) * SKEW,
        "groups": groups,
        "shards": shards,
        "rows_in_blocks": block * groups,
        "block_rows": block,
        "disk_bytes": bytes_on_disk(records, k, m, shards),
        "read_bytes": block * groups * (ROW_BYTES + 8) + 4 * m * records,
    }


def predict(plant: Plant, records: float, cells: int | None = None, growth: float = 0.0) -> dict[str, float]:
    """Seconds by stage on a plant, everything new; `client` and `admission` run on one core whatever the plant."""
    w = work(records, cells, growth, (16 << 30) if plant.fused else GROUP_BYTES)
    k, m = w["cells"], w["ghosts_per_record"]
    fit_rows = ITERATIONS * min(records, SAMPLES_PER_CENTROID * k)
    blocks = w["rows_in_blocks"] * (BUILD_ROW + SKETCH_ROW) + w["groups"] * SKETCH_BLOCK
    listing = m * records * GHOST_ENTRY
    keys = w["groups"] * (records * KEY_ROW + w["shards"] * OPEN_SHARD)
    lanes = plant.speed
    if plant.gpus:
        flops = GPU_FLOPS * plant.gpus
        memory = GPU_BANDWIDTH[plant.gpu] * GPU_BANDWIDTH_SHARE * plant.gpus

        def product(count: float, width: int, traffic: float) -> float:
            return max(2 * width * count / (flops * GPU_SHARE), traffic * count / memory)

        embed = max(
            records * TOKENS * 2 * ENCODER_WEIGHTS / (flops * GPU_EMBED_SHARE), records * TOKENISE / plant.speed
        )
        fit = product(fit_rows * k, DIMENSION, FIT_DEVICE_BYTES)
        assign = product(records * k, DIMENSION, ASSIGN_DEVICE_BYTES)
        pairs = product(w["pairs"], 128, PAIR_DEVICE_BYTES)
        lanes = plant.gpus  # a task is one thread beside its GPU
        if plant.fused:
            blocks = plant.gpus * w["rows_in_blocks"] * ROW_BYTES / (HOST_LINK * plant.gpus)
            listing = keys = 0.0
    else:
        embed = records * TOKENS * EMBED_TOKEN / lanes
        fit = fit_rows * (k * FIT_PRODUCT + FIT_ROW) / lanes
        assign = (records * (k * ASSIGN_PRODUCT + ASSIGN_ROW) + w["shards"] * k * k * DISTANCE_CELL) / lanes
        pairs = w["pairs"] * (PAIR_PRODUCT + PAIR_SCAN) / lanes
    matches = records * MATCHES_PER_RECORD
    seconds = {
        "embed": embed,
        "fit": fit,
        "assign": assign,
        "blocks": (blocks + listing) / lanes,
        "keys": keys / lanes,
        "pairs": pairs,
        "read": min(w["read_bytes"], w["disk_bytes"] if w["disk_bytes"] < CACHE_BYTES else math.inf) / READ_BYTES,
        "client": matches * (MATCH_SORT + MATCH_WRITE),
        # Two indexes, texts and ids, sorted whole for every shard: the mean one is half as long as the last.
        "admission": 2 * w["shards"] * (records + SHARD_ROWS) / 2 * index_row(records),
    }
    return {**seconds, "total": sum(seconds.values())}


MEASURED = (
    {"records": 50_000, "fit": 0.090, "assign": 0.227, "build": 0.46, "join": 1.73, "blocks_per_row": 4.98,
     "groups": 8, "disk_per_row": 911.0, "ghosts": 33.7, "pairs": 0.344e9},
    {"records": 200_000, "fit": 0.291, "assign": 1.066, "build": 4.43, "join": 13.22, "blocks_per_row": 11.43,
     "groups": 29, "disk_per_row": 964.1, "ghosts": 47.0, "pairs": 3.743e9},
    {"records": 1_000_000, "fit": 0.956, "assign": 8.46, "build": 52.0, "join": 113.9, "blocks_per_row": 21.4,
     "groups": 166, "ghosts": 53.1, "pairs": 45.2e9},
)  # fmt: skip
"""Stages run in the way of a worker: fit, assign, `build_block` and `match_cells` for every planned group. The
million are generated vectors (`dedup_assets_tests/benchmarks/generator.py`), and there build, join and rows in
blocks are scaled up from every twentieth group, 5.4 % of the rows. All cells in *one* block took 46.1 s there."""


def check() -> list[dict[str, float | str]]:
    """Predicted beside measured, CPU seconds of one thread."""
    lines: list[dict[str, float | str]] = []
    for found in MEASURED:
        n = found["records"]
        w, cpu = work(n), predict(Plant("1 core", 1), n)
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
            if name != "records":
                line = {"records": n, "what": name, "measured": found[name], "predicted": told[name]}
                lines.append({**line, "ratio": told[name] / found[name]})
    return lines


# -- schedule --------------------------------------------------------------------------------------------------


def skewed_cells(records: int, cells: int, growth: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Home and ghost counts (k,) each: the 529 measured cells, in their order, again and again, scaled.

    Neighbouring cells are alike in ghosts (correlation 0.59 at k = 529, 0.55 at 2,000) and hardly in home rows
    (0.09, 0.05), so likeness reaches a few cells whatever k is: repeating keeps it, stretching would not.
    """
    home = np.resize(np.array(HOME_COUNTS.split(), dtype=np.float64), cells)
    ghosts = np.resize(np.array(GHOST_COUNTS.split(), dtype=np.float64), cells)
    home *= records / home.sum()
    ghosts *= records * ghosts_per_record(cells, growth) / ghosts.sum()
    return home, np.minimum(ghosts, records - home)


def plan_groups(
    home: np.ndarray, listed: np.ndarray, row_bytes: int, max_bytes: float, min_groups: int = 1
) -> list[tuple[int, int]]:
    """Groups that count a row once for every cell that lists it, as they were when the schedule was measured."""
    cost = home * listed + listed
    target = cost.sum() / max(1, min(min_groups, len(home)))
    groups, first, spent, held = [], 0, 0.0, 0.0
    for cell in range(len(home)):
        size = listed[cell] * row_bytes
        if cell > first and (held + size > max_bytes or spent + cost[cell] / 2 > target):
            groups.append((first, cell))
            first, spent, held = cell, 0.0, 0.0
        spent += cost[cell]
        held += size
    return [*groups, (first, len(home))]


def plan_distinct(home: np.ndarray, ghosts: np.ndarray, max_rows: float, min_groups: int = 1) -> list[tuple[int, int]]:
    """`plan_groups`, but memory counts each row of a block once, which is what a block holds."""
    total, cost = home.sum(), home * (home + ghosts) + home + ghosts
    target = cost.sum() / max(1, min(min_groups, len(home)))
    groups, first, spent, rows, listed = [], 0, 0.0, 0.0, 0.0
    for cell in range(len(home)):
        h, g = rows + home[cell], listed + ghosts[cell]
        held = h + foreign_rows(g, cell - first + 1, total - h)
        if cell > first and (held > max_rows or spent + cost[cell] / 2 > target):
            groups.append((first, cell))
            first, spent, h, g = cell, 0.0, home[cell], ghosts[cell]
        rows, listed = h, g
        spent += cost[cell]
    return [*groups, (first, len(home))]


@dataclass(frozen=True)
class Tasks:
    """One entry per group of cells: seconds on one core, rows of its block, bytes read and resident."""

    seconds: np.ndarray
    rows: np.ndarray
    read: np.ndarray
    resident: np.ndarray


def tasks_of(
    home: np.ndarray,
    ghosts: np.ndarray,
    groups: Sequence[tuple[int, int]],
    new: float = 1.0,
    whole_keys: bool = True,
    stored_sketch: bool = False,
) -> Tasks:
    """What each group costs a worker. `new` is the share of records that are new: 1 compares everything.

    `whole_keys`: each task makes the keys of whole shards, as the code does. `stored_sketch`: rows come as the
    sketch that was made once when they were assigned; vectors are read for proposals alone, which is left out.
    """
    records = home.sum()
    shards = max(1.0, records / SHARD_ROWS)
    first = np.array([a for a, _ in groups])
    width = np.array([b - a for a, b in groups])
    h, g = np.add.reduceat(home, first), np.add.reduceat(ghosts, first)
    within, across = home * home / 2, home * ghosts
    pairs = np.add.reduceat(within * new * (2 - new) + across * new * (2 - new), first)
    foreign = np.array([foreign_rows(*entry) for entry in zip(g, width, records - h, strict=True)])
    rows = h + foreign
    keys = records if whole_keys else 0.0
    row_bytes = SKETCH_BYTES if stored_sketch else ROW_BYTES
    making = 0.0 if stored_sketch else rows * SKETCH_ROW + SKETCH_BLOCK
    read = rows * (row_bytes + 8) + 4 * g
    seconds = (
        rows * BUILD_ROW * row_bytes / ROW_BYTES
        + making
        + g * GHOST_ENTRY
        + pairs * (PAIR_PRODUCT + PAIR_SCAN)
        + keys * KEY_ROW
        + shards * OPEN_SHARD
        + read / READ_BYTES
    )
    # While a block is put together its parts and their concatenation stand side by side; the sketch comes after.
    resident = rows * (2 * row_bytes + 8 + 12) + 8 * g + 8 * keys
    resident += 0.0 if stored_sketch else rows * SKETCH_BYTES
    return Tasks(seconds, rows, read, resident)


@dataclass(frozen=True)
class Schedule:
    """What came out: which worker did which task, when all was done, and how long each worker was busy."""

    worker: np.ndarray
    busy: np.ndarray
    makespan: float

    @property
    def efficiency(self) -> float:
        """Busy time over workers × makespan."""
        return float(self.busy.sum() / (len(self.busy) * self.makespan)) if self.makespan else 1.0


def schedule(seconds: np.ndarray, workers: int, longest_first: bool = False, ahead: int = 1) -> Schedule:
    """Run the tasks on workers of one thread each, in the order of the plan or the longest first.

    The client keeps `WINDOW_PER_THREAD` tasks per worker in flight; the scheduler gives the oldest to the
    worker that holds fewest, up to one running and `ahead` waiting (1: Dask's worker-saturation of 1.1, rounded
    up); the rest of the window waits for whoever is free. No stealing.
    """
    order = np.argsort(-seconds, kind="stable") if longest_first else np.arange(len(seconds))
    room = min(1 + ahead, WINDOW_PER_THREAD)
    held: list[list[int]] = [[] for _ in range(workers)]
    who = np.full(len(seconds), -1)
    busy = np.zeros(workers)
    events: list[tuple[float, int]] = []
    following = 0
    now = 0.0

    def start(worker: int) -> None:
        task = held[worker][0]
        heapq.heappush(events, (now + float(seconds[task]), worker))

    def dispatch(worker: int) -> None:
        nonlocal following
        task = int(order[following])
        following += 1
        who[task] = worker
        held[worker].append(task)
        if len(held[worker]) == 1:
            start(worker)

    for _ in range(room):
        for worker in range(workers):
            if following < len(order):
                dispatch(worker)
    while events:
        now, worker = heapq.heappop(events)
        busy[worker] += seconds[held[worker].pop(0)]
        if held[worker]:
            start(worker)
        if following < len(order):
            dispatch(worker)
    return Schedule(who, busy, now)


def scenario(
    records: int,
    workers: int,
    *,
    group_bytes: float = GROUP_BYTES,
    min_groups: int = MIN_GROUPS,
    distinct: bool = False,
    longest_first: bool = False,
    new: float = 1.0,
    whole_keys: bool = True,
    stored_sketch: bool = False,
) -> dict[str, float]:
    """Plan, run and sum up one join."""
    home, ghosts = skewed_cells(records, choose_cells(records, FLOOR))
    if distinct:
        groups = plan_distinct(home, ghosts, group_bytes / (SKETCH_BYTES if stored_sketch else ROW_BYTES), min_groups)
    else:
        groups = plan_groups(home, home + ghosts, ROW_BYTES, int(group_bytes), min_groups)
    tasks = tasks_of(home, ghosts, groups, new, whole_keys, stored_sketch)
    done = schedule(tasks.seconds, workers, longest_first)
    read = np.bincount(done.worker, tasks.read, minlength=workers)
    return {
        "records": records,
        "workers": workers,
        "groups": len(groups),
        "core_seconds": float(tasks.seconds.sum()),
        "longest_task": float(tasks.seconds.max()),
        "makespan": done.makespan,
        "efficiency": done.efficiency,
        "rows_per_record": float(tasks.rows.sum() / records),
        "read_per_worker": float(read.mean()),
        "read_largest": float(read.max()),
        "resident_mean": float(tasks.resident.mean()),
        "resident_largest": float(tasks.resident.max()),
    }


def results() -> dict[str, object]:
    """Everything `scale.md` shows."""
    sizes = (10**7, 10**8, 10**9, 10**10)
    single = Plant("1 core", 1)
    return {
        "check": check(),
        "work": [work(n) for n in sizes],
        "work_pessimistic": [work(n, growth=0.2) for n in sizes],
        "predicted": [{"plant": p.name, "records": n, **predict(p, n)} for p in PLANTS for n in sizes],
        "best_cells": [best_cells(n) for n in sizes],
        "pessimistic": [{"records": n, **predict(single, n, growth=0.2)} for n in sizes],
        "limits": [{"records": n, **limits(n)} for n in (10**6, *sizes)],
        "schedule": [
            {**scenario(n, w), "efficiency_longest_first": scenario(n, w, longest_first=True)["efficiency"]}
            for n in (200_000, 10**6, 10**7, 10**8, 10**9)
            for w in (8, 64)
        ],
        "what_if": list(_what_if()),
    }


def _what_if() -> Iterator[dict[str, object]]:
    large = {"distinct": True, "group_bytes": 1 << 30, "min_groups": 4 * 64}
    stored = {**large, "longest_first": True, "whole_keys": False, "stored_sketch": True}
    cases: dict[str, dict[str, object]] = {
        "as written": {},
        "longest first": {"longest_first": True},
        "groups of 64 MiB": {"group_bytes": 64 << 20},
        "groups of 1 GiB": {"group_bytes": 1 << 30},
        "groups of 4 GiB": {"group_bytes": 4 << 30},
        "256 MiB, each row counted once": {"distinct": True},
        "A: 1 GiB, each row counted once, 4 groups per worker": large,
        "A, longest first": {**large, "longest_first": True},
        "B: A, longest first, keys of the block only": {**large, "longest_first": True, "whole_keys": False},
        "C: B with stored sketches": stored,
        "as written, 1 % new": {"new": 0.01},
        "B, 1 % new": {**large, "longest_first": True, "whole_keys": False, "new": 0.01},
        "C, 1 % new": {**stored, "new": 0.01},
    }
    for records in (10**6, 10**7, 10**8):
        for name, options in cases.items():
            yield {"what": name, **scenario(records, 64, **options)}  # type: ignore[arg-type]


def best_cells(records: float) -> dict[str, float]:
    """The number of cells that the model likes best on CPU cores, and what the rule's choice costs beside it."""
    single = Plant("1 core", 1)

    def join_seconds(k: int) -> float:
        told = predict(single, records, k)
        return sum(told[name] for name in ("fit", "assign", "blocks", "keys", "pairs"))

    chosen = choose_cells(int(records), FLOOR)
    tried = [max(1, round(chosen * 2 ** (step / 4))) for step in range(-8, 17)]
    best = min(tried, key=join_seconds)
    return {"records": records, "chosen": chosen, "best": best, "ratio": join_seconds(chosen) / join_seconds(best)}


def limits(records: int) -> dict[str, float]:
    """Bytes that one process must hold, as the code stands."""
    k = choose_cells(records, FLOOR)
    home, ghosts = skewed_cells(records, k)
    groups = plan_groups(home, home + ghosts, ROW_BYTES, GROUP_BYTES, MIN_GROUPS)
    resident = tasks_of(home, ghosts, groups).resident
    return {
        "centroid_distances": k * k * (4 + 8 + 8),  # float32 result beside two float64 temporaries
        "hash_indexes": records * 2 * (16 + 8) * 2.0,  # texts and ids; old and new beside each other
        "sampling_hashes": records * (32 + 4 + 8 + 16 + 8),  # hex text, offsets, row ids, hashes, order
        "keys_in_a_task": 8.0 * records,
        "block_mean": float(resident.mean()) - 8.0 * records,
        "block_largest": float(resident.max()) - 8.0 * records,
        "client_matches": records * MATCHES_PER_RECORD * MATCH_BYTES,
        "fit_sample": SAMPLES_PER_CENTROID * k * DIMENSION * (2 + 4 + 4 + 2),
    }


# -- measuring -------------------------------------------------------------------------------------------------


def measure(vectors: np.ndarray) -> dict[str, object]:
    """One line of `MEASURED`, and the counts per cell. Single-threaded: start with OPENBLAS_NUM_THREADS=1."""
    import torch

    from dedup_assets.compute.blocks import ShardPiece, build_block
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
        groups = plan_groups(home, home + ghosts, ROW_BYTES, GROUP_BYTES, MIN_GROUPS)
        list(match_cells(build_block([piece], 0, 1), FLOOR))
        build = join = rows = 0.0
        for first, last in groups:
            begun = clock()
            block = build_block([piece], first, last)
            built = clock()
            list(match_cells(block, FLOOR))
            join += clock() - built
            build += built - begun
            rows += len(block.vectors)
    return {
        "records": n,
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


# -- printing --------------------------------------------------------------------------------------------------


def human(value: object) -> str:
    """Three digits and a power of a thousand."""
    if not isinstance(value, int | float):
        return str(value)
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{value:.4g}"


def table(lines: Sequence[dict[str, object]]) -> str:
    """Lines of one kind as a Markdown table."""
    names = list(lines[0])
    rows = ["| " + " | ".join(human(line[name]) for name in names) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--measure", type=Path, metavar="FILE", help="vectors (n, 384), *.npy")
    parser.add_argument("--rows", type=int, default=200_000, help="rows to measure on")
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(np.array(np.load(options.measure, mmap_mode="r")[: options.rows]))))
        return
    found = results()
    if options.json:
        print(json.dumps(found))
        return
    for name, lines in found.items():
        print(f"\n{name}\n\n{table(lines)}")  # type: ignore[arg-type]


# -- 529 cells, as measured --------------------------------------------------------------------------------------
# 200,000 real rows, floor 0.90, in the order of the codebook.

HOME_COUNTS = """
165 422 752 385 208 371 750 235 458 442 363 390 338 732 480 204 71 660 403 305 257 472 504 333 249 396 420 463 590
121 303 571 319 339 969 340 222 75 490 162 278 193 370 246 173 320 198 329 204 558 529 663 168 544 1224 694 56 449
561 1436 360 840 182 119 744 462 324 472 356 408 292 504 151 314 475 544 193 193 47 381 414 447 719 404 787 635 485
172 215 645 382 474 635 396 478 369 524 549 59 371 426 252 589 471 259 422 229 80 101 405 332 361 109 627 374 228
449 615 177 1197 533 156 494 276 362 321 98 448 265 112 437 519 1079 319 229 441 203 410 385 524 249 562 732 312 727
825 294 211 179 496 305 945 398 768 414 127 488 481 259 199 139 605 426 203 313 580 87 275 199 520 638 180 1525 911
522 355 106 312 467 192 192 942 523 1511 373 565 322 352 905 313 413 484 231 307 341 404 725 191 517 744 428 501 111
430 627 93 72 261 515 547 196 346 313 355 270 465 140 245 185 295 488 189 85 410 307 270 178 308 201 306 357 386 233
476 197 285 507 205 345 556 307 675 369 426 190 384 188 322 430 425 224 414 311 359 274 259 650 506 55 226 525 571
249 105 158 436 512 538 561 1041 897 461 523 484 184 403 363 421 501 233 928 390 438 101 98 384 301 589 46 411 264
345 219 407 376 231 138 240 332 206 368 128 454 941 475 209 132 107 201 137 100 503 399 304 349 367 313 678 360 354
151 346 288 548 132 354 233 388 233 214 394 511 369 482 264 891 440 627 355 517 604 563 81 502 642 348 455 377 293
487 1015 259 137 180 34 135 379 860 212 234 286 323 102 208 525 182 417 499 335 740 103 388 468 452 548 304 107 571
186 731 406 702 177 287 197 314 231 607 235 400 226 519 33 135 309 207 454 600 683 274 436 496 701 217 171 566 411
258 132 972 260 251 517 82 264 460 99 132 889 365 5 428 33 174 56 184 26 370 320 403 108 281 588 398 319 473 225 446
229 103 201 222 337 265 121 487 178 116 307 438 134 247 271 259 172 231 859 114 585 498 438 478 510 302 515 324 864
512 313 184 214 53 428 193 270 548 148 49 101 461 192 312 226 399 32 249 318 108 376 1698 600 413 95 715 326 185 165
506 180 244 120 573 577 373 320 434 624 883 291 375 281 357 72 232 261 513 70 313 166 323 563 338 158 171 145 255
282 446 540
"""

GHOST_COUNTS = """
25147 19010 21350 23956 21435 30870 18897 24698 12507 13265 16153 22850 20794 10262 24975 14829 13649 12417 20361
14791 18217 13865 18584 11895 16959 18725 20707 23123 25849 22312 14182 12076 16076 12470 11265 13419 10475 18363
16946 12930 14736 10215 11127 8758 12289 8910 12936 18396 17620 20646 23168 28928 17707 18858 24906 27257 14413
25658 20761 21727 22108 14438 21495 9659 24087 18897 26760 20078 25049 17952 14585 21643 16406 14349 17261 24823
25524 16778 21430 27743 17594 15187 23830 35935 20178 26090 17670 17990 24957 18924 25144 16209 17238 12526 22048
20928 23384 11752 13044 28820 29100 26936 29208 22208 21029 21988 17637 12290 11642 23848 14355 18796 14170 15202
13403 20714 28861 18609 27574 12616 14075 8345 17101 19565 17142 11401 12556 11287 17455 10429 13756 15869 25837
27591 18105 29863 24181 34315 32177 25180 29662 31737 26685 22047 33877 32426 30844 32006 27862 31345 34925 19600
22550 30648 27492 19048 23075 23127 24053 27952 22611 43748 16952 28745 18508 26652 17230 20222 15551 25565 20400
20392 23052 21554 35471 14349 11682 13061 18048 18890 23200 21272 26362 22304 25591 26862 21991 29452 24086 16599
16300 28841 17571 24605 26666 32674 22576 15992 20088 19473 17787 16857 12898 14179 20602 21619 14852 16848 19256
18958 17392 15714 19812 20909 32773 24837 24392 20594 28294 30168 34581 19820 10198 13646 26045 20819 17646 14463
25479 26082 14903 17340 20920 16101 19932 16157 15357 34904 14280 21376 17825 24033 11940 15107 14844 23885 27037
18993 28447 21021 20252 20741 24960 23405 19721 21046 30029 29748 21815 17010 14342 23153 26301 17963 18504 17750
17790 19885 15566 27230 14897 21937 16678 18083 11802 12421 14799 22046 18646 20426 21794 24537 30964 22687 11083
15128 12966 26037 17964 17651 17293 13507 21617 21455 40494 22730 20540 12419 20083 17462 12876 12177 16794 23615
16679 15398 24801 19174 19601 13947 19274 32741 22695 20997 21924 14744 15887 22549 33273 33215 13982 10482 24289
15867 21980 14179 20191 15232 21151 10613 20859 22704 28752 27554 22209 13950 21378 14705 14284 18353 16025 16215
10968 19634 17388 15007 20278 23242 20207 23068 19809 21500 17865 18993 14957 25945 27613 16256 13943 21109 18081
16081 16857 15762 19516 18434 19394 16466 26731 24004 17981 17594 25060 31949 23328 20520 21365 29091 16275 13823
17557 19861 13166 18944 21446 18990 13863 14657 14934 21493 12439 22784 16712 22017 18614 11432 8311 7946 8194 8303
8472 8270 8589 8124 6714 7506 7040 8124 6413 7449 7205 7746 5937 7081 7647 3841 10973 11718 11673 9864 3933 4038
4868 11826 9131 7977 5519 12293 11444 13742 10763 20096 16731 9211 10679 21575 12755 11067 11344 9470 9274 10128
14769 13740 7081 14936 9128 18499 7531 17867 17840 16447 10664 21932 16667 8603 8388 15643 11292 14309 15435 10060
4303 5170 5274 5061 5812 4605 4502 3840 5547 5420 6508 5902 4655 5284 4307 4057 7060 5247 17395 13470 13488 14995
11538 11261 5160 3164 5731 4849 11019 10322 5976 8728 5197 9065 10038 8677 10703 9916 16532 9870 6973 15313 16326
17360 12899 21748 16362 17016 18173 10605 20106 18966 18386 13257 13645 15373 13294 16159 10132 9690 12519 12678
14968 18498 15577 15095 13660
"""


if __name__ == "__main__":
    main()
