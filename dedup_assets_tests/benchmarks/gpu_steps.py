"""The steps of the run on a GPU: each measures one thing and returns plain figures. Needs torch, numpy and numba.

Vectors are made on the device, so their upload is in no time but that of the memory check.
"""

from __future__ import annotations

import math
import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from dedup_assets.compute.cells import assign
from dedup_assets.compute.device.rows import DeviceRows, cosines, low_rows
from dedup_assets.compute.in_memory import RowMatches, decide_rows
from dedup_assets.compute.join import CellBlock, match_cells, unique_matches
from dedup_assets.compute.kmeans import choose_cells, fit_centroids, fit_rows
from dedup_assets_tests.gpu import parity
from dedup_assets_tests.gpu.generate import generated

QUERIES = 64
"""Rows compared with all others in float64, to put the recall beside the time."""


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def environment(device: str) -> dict[str, Any]:
    """Hardware and versions."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform(), "device": device}
    for package in ("torch", "numpy", "numba", "transformers", "cuml-cu13", "dask-cuda", "rmm-cu13"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
            answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
            found["driver, power limit, clock"] = answer.stdout.strip()
    return found


def ceiling(device: str, size: int, seconds: float) -> dict[str, float]:
    """TFLOP/s of the library's own product of two square matrices."""
    found = {}
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = a @ b
        wait(device)
        repeats, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            for _ in range(10):
                torch.mm(a, b, out=out)
            wait(device)
            repeats += 10
        found[name] = round(2 * size**3 * repeats / (time.perf_counter() - started) / 1e12, 3)
    return found


def embedding(device: str, count: int, seconds: float, words: int = 130) -> dict[str, Any]:
    """Documents per second of so many words, cut to 128 tokens, tokenising included."""
    from dedup_assets.encoder.encoder import Encoder

    parts = parity.encoder_parts()
    if parts is None:
        raise RuntimeError("transformers is not installed")
    encoder = Encoder(*parts[:2], max_length=128, device=device)
    if not device.startswith("cuda"):
        encoder._tokens = 1024
    texts = [" ".join(f"word{(n * 31 + at) % 30_000}" for at in range(words)) for n in range(count)]
    encoder.encode(texts[: count // 4])
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        encoded = encoder.encode(texts)
        done += count
    elapsed = time.perf_counter() - started
    tokens = float(encoded.tokens.mean())
    return {"docs_per_s": round(done / elapsed), "tokens": tokens, "model": parts[2], "precision": encoder.precision}


def recall(rows: DeviceRows, floor: float, i: np.ndarray, j: np.ndarray) -> dict[str, Any]:
    """Found among all matches of some queries, and how many found ones are none; by a float64 product."""
    n = len(rows)
    queries = np.sort(np.random.default_rng(0).choice(n, min(QUERIES, n), replace=False))
    sample = rows.take(queries)
    left = sample.unit(slice(0, len(queries)))
    squares = rows.squares.cpu().numpy()
    wanted: set[tuple[int, int]] = set()
    for start in range(0, n, 1 << 16):
        at = torch.nonzero(left @ rows.unit(slice(start, start + (1 << 16))).T >= floor - 1e-6).cpu().numpy()
        p, q = queries[at[:, 0]], at[:, 1] + start
        p, q = p[p != q], q[p != q]
        _, sums = rows.near(torch.from_numpy(p).to(left.device), torch.from_numpy(q).to(left.device), -2.0)
        true = cosines(sums.cpu().numpy(), squares[p], squares[q]) >= floor
        wanted |= set(zip(np.minimum(p, q)[true].tolist(), np.maximum(p, q)[true].tolist(), strict=True))
    concerned = np.isin(i, queries) | np.isin(j, queries)
    found = set(zip(i[concerned].tolist(), j[concerned].tolist(), strict=True))
    return {"wanted": len(wanted), "missed": len(wanted - found), "extra": len(found - wanted)}


def after_embedding(
    device: str,
    n: int,
    d: int,
    epsilon: float,
    peak: float,
    deadline: float,
    cells: int | None = None,
    appended: float = 1.0,
) -> dict[str, Any]:
    """Fit, assignment, pairs and decisions of generated vectors that lie on the device; seconds of each.

    With a share appended, only pairs with the last rows of that share are found, and rows per second are of them.
    """
    floor = 1.0 - epsilon
    new = np.arange(n) >= n - math.ceil(appended * n)
    stored = generated(n, d, device, seed=n + d)
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    wait(device)
    seconds: dict[str, float] = {}
    started = last = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        wait(device)
        now = time.perf_counter()
        seconds[name], last = now - last, now

    rows = DeviceRows.of(stored, device)
    lap("norms")
    cells = cells or choose_cells(n, floor)
    centroids = fit_rows(rows, cells)
    lap("fit")
    assigned = assign(rows, centroids, floor)
    home_rows, home_offsets = assigned.home_rows()
    lap("assign")
    block = CellBlock(
        rows,  # type: ignore[arg-type]
        home_offsets,
        home_rows,
        assigned.ghost_offsets,
        assigned.ghost_rows,
        new,
    )
    parts = []
    for part in match_cells(block, floor, device=device):
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError("the budget ended during the join")
    lap("pairs")
    matches = unique_matches(parts)
    # Every match is listed: no vector is needed to decide.
    decided = decide_rows(np.empty((n, 0)), RowMatches(matches.i, matches.j, matches.similarity), floor)
    lap("decide")
    total = last - started
    homes = np.diff(home_offsets).astype(np.float64)
    pairs = float((homes * (homes - 1) / 2 + homes * np.diff(assigned.ghost_offsets)).sum())
    width = low_rows(rows.take(np.arange(min(n, 8192)))).rows.shape[1]
    product_seconds = (2.0 * n * cells * d + 2.0 * pairs * width) / (peak * 1e12)
    memory = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0
    return {
        "rows": n,
        "dimension": d,
        "epsilon": epsilon,
        "new_rows": int(new.sum()),
        "rows_per_s": round(int(new.sum()) / (total if appended == 1.0 else seconds["pairs"] + seconds["decide"])),
        "seconds": {name: round(value, 3) for name, value in seconds.items()} | {"total": round(total, 3)},
        "cells": cells,
        "ghosts_per_row": round(len(assigned.ghost_rows) / n, 2),
        "pairs_compared": pairs,
        "sketch": width,
        "matches": len(matches),
        "removed": int((~decided.kept).sum()),
        # Useful products at the measured ceiling, as a share of the whole time and of the two stages with them.
        "share_of_ceiling": round(product_seconds / total, 4),
        "share_in_stages": round(product_seconds / (seconds["assign"] + seconds["pairs"]), 4),
        "gpu_memory_gib": round(memory / 2**30, 2),
        "recall": recall(rows, floor, matches.i, matches.j) if appended == 1.0 else None,
    }


def fits(device: str, n: int, d: int, cells: int) -> dict[str, Any]:
    """Seconds that torch and, where it is installed, cuML take to fit the same number of centroids."""
    sample = generated(n, d, device, seed=5)
    wait(device)
    found: dict[str, Any] = {"rows": n, "cells": cells}
    started = time.perf_counter()
    fit_centroids(DeviceRows.of(sample, device), cells)
    found["torch"] = round(time.perf_counter() - started, 3)
    if find_spec("cuml") is not None and device.startswith("cuda"):
        import cupy
        from cuml.cluster import KMeans

        from dedup_assets.resources.centroids import _options

        rows = cupy.asarray(sample.float())
        started = time.perf_counter()
        KMeans(**_options(cells, 0)).fit(rows)
        cupy.cuda.Device().synchronize()
        found["cuml"] = round(time.perf_counter() - started, 3)
    return found


def inside_clusters(device: str, n: int, d: int, epsilon: float, clusters: int) -> dict[str, Any]:
    """The work of NeMo Curator's semantic deduplication by its rule, with torch: a fit of 20 rounds, and in each
    cluster all products of a row with the rows before it. Inexact: pairs in two clusters are not met."""
    rows = DeviceRows.of(generated(n, d, device, seed=n + d), device)
    wait(device)
    started = time.perf_counter()
    sample = rows.take(np.arange(0, n, max(1, n // (48 * clusters))))
    book = torch.from_numpy(fit_centroids(sample, clusters, iterations=20)).to(device)
    unit = rows.stored.float() / rows.stored.float().norm(dim=1, keepdim=True).clamp_min(1e-12)
    home = torch.cat([(part @ book.T).argmax(dim=1) for part in unit.split(1 << 16)])
    order = torch.argsort(home, stable=True)
    removed = 0
    for members in order.split(torch.bincount(home, minlength=len(book)).tolist()):
        if len(members):
            inside = unit[members]
            for start in range(0, len(members), 8192):
                products = torch.triu(inside @ inside[start : start + 8192].T, diagonal=1 - start)
                removed += int((products.amax(dim=0) > 1.0 - epsilon).sum())
    wait(device)
    seconds = time.perf_counter() - started
    return {"rows": n, "seconds": round(seconds, 3), "rows_per_s": round(n / seconds), "removed": removed}


def semhash(n: int, d: int, epsilon: float) -> dict[str, Any]:
    """SemHash on the CPU, with the vectors given."""
    from dedup_assets_tests.benchmarks.peers import PEERS, Clock

    vectors = generated(n, d, "cpu", seed=n + d).float().numpy()
    clock, started = Clock(), time.perf_counter()
    found = PEERS["semhash"][0](vectors, 1.0 - epsilon, clock)
    seconds = time.perf_counter() - started
    return {"rows": n, "seconds": round(seconds, 3), "rows_per_s": round(n / seconds), "kept": int(found.kept.sum())}
