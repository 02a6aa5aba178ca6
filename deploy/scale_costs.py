"""The cost of a curation by stage: constants, each with its measurement or assumption, and the model.

It works with counts and seconds; `scale_schedule` adds the sizes of cells and the schedule of tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dedup_assets.assets.pairwise_similarities import GROUP_COST, GROUPS_PER_LANE
from dedup_assets.compute.cell_groups import LISTING_BYTES, SKETCH_BYTES
from dedup_assets.compute.kmeans import ITERATIONS, SAMPLES_PER_CENTROID, choose_cells

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

BUILD_ROW = 1.1e-6
"""Per row copied from the map into a block: 3.2 s for 3.46 million rows, 5.7 s for 4.07 million (550 to 830 MB/s)."""

SKETCH_ROW, SKETCH_BLOCK = 1.7e-6, 0.024
"""Per row of a block for norms and sketch: 6.8 s more for 3.26 million rows more, in 58 blocks instead of one. Per
block for the principal directions."""

GHOST_ENTRY = 150e-9
"""Per ghost listed in a block: 63 ns to gather its sketch, the rest to order the listing."""

PAIR_PRODUCT, PAIR_SCAN = 0.69e-9, 0.20e-9
"""Per pair compared, 128 columns: product, and scan with decisions. 3.74 billion pairs in 2.58 and 0.75 s."""

MARK_ROW = 0.15e-9
"""Per row of the *corpus* and group of cells: a mark for each row of a shard says whether the block needs it."""

OPEN_SHARD = 0.45e-3
"""Per shard and worker: five memory maps are opened, once."""

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

UNEVEN = 1.3
"""Foreign rows of groups that memory bounds over those of groups of equal cells: where ghosts are many, groups are
narrow, and narrow groups hold more foreign rows. 200,000 rows in groups of 64 MiB held 16.3 foreign rows per home row
where cells of one size would hold 12.3."""

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
"""Measured. Seconds per k² and shard: distances between all centroids are made again for each shard (k = 4,000:
0.71 s; k = 2,000: 0.22 s)."""

LANE_BYTES = 1 << 30
"""Memory for the gathered rows of a join task: a quarter of 64 GB free memory, divided among 16 tasks."""

ROW_BYTES = 2 * DIMENSION
STORED_SKETCH_BYTES = 2 * 128
SHARD_ROWS = 1_000_000
"""Records of a shard in the predictions; with smaller shards, costs per shard grow faster."""


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


def block_bytes(rows: float, listed: float, row_bytes: float = ROW_BYTES) -> float:
    """What `plan_groups` bounds: rows with all that is kept of each, and the listing."""
    return rows * (row_bytes + SKETCH_BYTES) + listed * LISTING_BYTES


def widest_group(records: float, cells: float, ghosts: float, bound: float) -> float:
    """Cells in a group whose block keeps the bound; all of them where they fit, one where even that is too large."""
    per_cell = records / cells

    def held(width: float) -> float:
        home = per_cell * width
        return block_bytes(home + UNEVEN * foreign_rows(home * ghosts, width, records - home), home * ghosts)

    low, high = 1.0, float(cells)
    if held(high) <= bound:
        return high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) <= bound else (low, middle)
    return low


@dataclass(frozen=True)
class Plant:
    """Machines. `fused` assumes what is not written: blocks gathered and sketched on the GPU, in 16 GiB groups.

    `bound` is what a task may gather, where that is not what the plant's memory allows. Two cores are one process,
    in which one task has both; elsewhere each core, or GPU, has a task.
    """

    name: str
    cores: int
    gpus: int = 0
    gpu: str = "H100"
    fused: bool = False
    bound: float = 0.0

    @property
    def speed(self) -> float:
        """Cores' worth of work a second."""
        return self.cores if self.cores <= 2 else self.cores * CORE_EFFICIENCY

    @property
    def lanes(self) -> int:
        """Tasks of the join at once."""
        return self.gpus or (1 if self.cores <= 2 else self.cores)

    @property
    def group_bytes(self) -> float:
        """What one of them may gather."""
        if self.bound:
            return self.bound
        return (16 << 30) if self.fused else LANE_BYTES * (2 if self.lanes == 1 else 1)


PLANTS = (
    Plant("2 cores", 2),
    Plant("16 cores", 16),
    Plant("1 H100, 16 cores", 16, 1),
    Plant("8 H100, 128 cores", 128, 8),
    Plant("8 H100, 128 cores, blocks on the GPU", 128, 8, fused=True),
    Plant("8 H200, 128 cores, blocks on the GPU", 128, 8, "H200", fused=True),
)


def work(
    records: float, cells: int | None = None, growth: float = 0.0, group_bytes: float = 2 * LANE_BYTES, lanes: int = 1
) -> dict[str, float]:
    """Amounts of work for a corpus curated at once: counts, not seconds."""
    k = cells or choose_cells(int(records), FLOOR)
    m = ghosts_per_record(k, growth)
    per_cell = records / k
    pairs = records * per_cell * (0.5 + m) * SKEW
    width = widest_group(records, k, m, group_bytes)
    if lanes > 1:
        width = min(width, k / min(GROUPS_PER_LANE * lanes, 1 + 2 * pairs / GROUP_COST))
    home = per_cell * width
    block = home + UNEVEN * foreign_rows(home * m, width, records - home)
    groups = k / width
    shards = max(1.0, records / SHARD_ROWS)
    return {
        "records": records,
        "cells": k,
        "ghosts_per_record": m,
        "pairs": pairs,
        "groups": groups,
        "shards": shards,
        "rows_in_blocks": block * groups,
        "block_rows": block,
        "disk_bytes": bytes_on_disk(records, k, m, shards),
        "read_bytes": block * groups * (ROW_BYTES + 8) + 4 * m * records,
    }


def predict(plant: Plant, records: float, cells: int | None = None, growth: float = 0.0) -> dict[str, float]:
    """Seconds by stage on a plant, everything new; `client` and `admission` run on one core whatever the plant."""
    w = work(records, cells, growth, plant.group_bytes, plant.lanes)
    k, m = w["cells"], w["ghosts_per_record"]
    fit_rows = ITERATIONS * min(records, SAMPLES_PER_CENTROID * k)
    blocks = w["rows_in_blocks"] * (BUILD_ROW + SKETCH_ROW) + w["groups"] * SKETCH_BLOCK
    listing = m * records * GHOST_ENTRY
    marks = w["groups"] * records * MARK_ROW + plant.lanes * w["shards"] * OPEN_SHARD
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
        lanes = plant.gpus  # a task has one host thread besides its GPU
        if plant.fused:
            blocks = plant.gpus * w["rows_in_blocks"] * ROW_BYTES / (HOST_LINK * plant.gpus)
            listing = marks = 0.0
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
        "marks": marks / lanes,
        "pairs": pairs,
        "read": min(w["read_bytes"], w["disk_bytes"] if w["disk_bytes"] < CACHE_BYTES else math.inf) / READ_BYTES,
        "client": matches * (MATCH_SORT + MATCH_WRITE),
        # Two indexes, texts and ids, sorted whole for every shard: the mean one is half as long as the last.
        "admission": 2 * w["shards"] * (records + SHARD_ROWS) / 2 * index_row(records),
    }
    return {**seconds, "total": sum(seconds.values())}


def best_cells(records: float) -> dict[str, float]:
    """The number of cells with the lowest modelled cost on CPU cores, and the relative cost of the rule's choice."""
    single = Plant("1 core", 1)

    def join_seconds(k: int) -> float:
        told = predict(single, records, k)
        return sum(told[name] for name in ("fit", "assign", "blocks", "marks", "pairs"))

    chosen = choose_cells(int(records), FLOOR)
    tried = [max(1, round(chosen * 2 ** (step / 4))) for step in range(-8, 17)]
    best = min(tried, key=join_seconds)
    return {"records": records, "chosen": chosen, "best": best, "ratio": join_seconds(chosen) / join_seconds(best)}
