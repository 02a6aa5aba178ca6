"""Simulates the join's schedule over many workers: cells with measured unevenness, their groups, and the assignment to
workers.

It uses the costs of the model and measures nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scale_costs import (
    BUILD_ROW,
    DIMENSION,
    FLOOR,
    GHOST_ENTRY,
    LANE_BYTES,
    MARK_ROW,
    MATCH_BYTES,
    MATCHES_PER_RECORD,
    PAIR_PRODUCT,
    PAIR_SCAN,
    READ_BYTES,
    ROW_BYTES,
    SKETCH_BLOCK,
    SKETCH_ROW,
    STORED_SKETCH_BYTES,
    block_bytes,
    foreign_rows,
    ghosts_per_record,
)

from dedup_assets.assets.pairwise_similarities import GROUP_COST, GROUPS_PER_LANE
from dedup_assets.compute.kmeans import SAMPLES_PER_CENTROID, choose_cells
from dedup_assets.resources.dask_cluster import WINDOW_PER_THREAD


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


def plan(
    home: np.ndarray, ghosts: np.ndarray, max_bytes: float, min_groups: int = 1, row_bytes: float = ROW_BYTES
) -> list[tuple[int, int]]:
    """`plan_groups` with the rows of a block estimated by `foreign_rows`, because there are no rows to count."""
    total, cost = home.sum(), home * (home + ghosts) + home + ghosts
    target = cost.sum() / max(1, min(min_groups, len(home)))
    groups, first, spent, rows, listed = [], 0, 0.0, 0.0, 0.0
    for cell in range(len(home)):
        h, g = rows + home[cell], listed + ghosts[cell]
        held = block_bytes(h + foreign_rows(g, cell - first + 1, total - h), g, row_bytes)
        if cell > first and (held > max_bytes or spent + cost[cell] / 2 > target):
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
    stored_sketch: bool = False,
) -> Tasks:
    """The cost of each group for a worker. `new` is the share of records that are new: 1 compares everything.

    `stored_sketch`: rows come as the
    sketch that was made once when they were assigned; vectors are read for proposals alone, which is left out.
    """
    records = home.sum()
    first = np.array([a for a, _ in groups])
    width = np.array([b - a for a, b in groups])
    h, g = np.add.reduceat(home, first), np.add.reduceat(ghosts, first)
    within, across = home * home / 2, home * ghosts
    pairs = np.add.reduceat(within * new * (2 - new) + across * new * (2 - new), first)
    foreign = np.array([foreign_rows(*entry) for entry in zip(g, width, records - h, strict=True)])
    rows = h + foreign
    row_bytes = STORED_SKETCH_BYTES if stored_sketch else ROW_BYTES
    making = 0.0 if stored_sketch else rows * SKETCH_ROW + SKETCH_BLOCK
    read = rows * (row_bytes + 8) + 4 * g
    seconds = (
        rows * BUILD_ROW * row_bytes / ROW_BYTES
        + making
        + g * GHOST_ENTRY
        + pairs * (PAIR_PRODUCT + PAIR_SCAN)
        + records * MARK_ROW
        + read / READ_BYTES
    )
    resident = block_bytes(rows, g, row_bytes)
    return Tasks(seconds, rows, read, resident)


@dataclass(frozen=True)
class Schedule:
    """The result: the worker of each task, the end of all work, and the busy time of each worker."""

    worker: np.ndarray
    busy: np.ndarray
    makespan: float

    @property
    def efficiency(self) -> float:
        """Busy time over workers × makespan."""
        return float(self.busy.sum() / (len(self.busy) * self.makespan)) if self.makespan else 1.0


def schedule(seconds: np.ndarray, workers: int, longest_first: bool = True, ahead: int = 1) -> Schedule:
    """Run the tasks on workers of one thread each, the longest first or in the order of the codebook.

    The client keeps `WINDOW_PER_THREAD` tasks per worker in flight; the scheduler gives the oldest to the
    worker that holds fewest, up to one running and `ahead` waiting (1: Dask's worker-saturation of 1.1, rounded
    up); the rest of the window waits for a free worker. No work stealing.
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
    group_bytes: float = LANE_BYTES,
    per_lane: int = GROUPS_PER_LANE,
    longest_first: bool = True,
    new: float = 1.0,
    stored_sketch: bool = False,
) -> dict[str, float]:
    """Plan, simulate and summarise one join."""
    home, ghosts = skewed_cells(records, choose_cells(records, FLOOR))
    row_bytes = STORED_SKETCH_BYTES if stored_sketch else ROW_BYTES
    cost = float((home * (home + ghosts)).sum())
    groups = plan(home, ghosts, group_bytes, min(per_lane * workers, 1 + int(cost / GROUP_COST)), row_bytes)
    tasks = tasks_of(home, ghosts, groups, new, stored_sketch)
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


def limits(records: int) -> dict[str, float]:
    """Bytes that one process must hold with the current code."""
    k = choose_cells(records, FLOOR)
    home, ghosts = skewed_cells(records, k)
    groups = plan(home, ghosts, LANE_BYTES, GROUPS_PER_LANE * 16)
    resident = tasks_of(home, ghosts, groups).resident
    return {
        "centroid_distances": k * k * 4,  # float32, kept from shard to shard
        "hash_indexes": records * 2 * (16 + 8) * 2.0,  # texts and ids; old and new beside each other
        "sampling_hashes": records * (32 + 4 + 8 + 16 + 8),  # hex text, offsets, row ids, hashes, order
        "marks_while_planning": 4.0 * records,
        "block_mean": float(resident.mean()),
        "block_largest": float(resident.max()),
        "client_matches": records * MATCHES_PER_RECORD * MATCH_BYTES,
        "fit_sample": SAMPLES_PER_CENTROID * k * DIMENSION * (2 + 4 + 4 + 2),
    }


# 529 cells, as measured: 200,000 real rows, floor 0.90, in the order of the codebook.

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
