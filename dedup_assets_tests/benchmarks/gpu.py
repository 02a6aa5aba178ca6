"""Everything there is to check and measure on a GPU, in one command and within a budget of seconds.

    python -m dedup_assets_tests.benchmarks.gpu --device cuda --budget 480 --json gpu.json --table gpu.md

Needs torch, numpy and numba; transformers for embedding; no Dask, Dagster or cuML. A step that does not fit into
what is left of the budget is skipped with a reason. `--device cpu:0 --tiny` runs the same on CPU tensors.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dedup_assets.compute.cells import assign
from dedup_assets.compute.decisions import leader_cover
from dedup_assets.compute.device_rows import DeviceRows, cosines, low_rows
from dedup_assets.compute.join import CellBlock, match_cells, unique_matches
from dedup_assets.compute.kmeans import choose_cells, fit_centroids, sample_size
from dedup_assets_tests.gpu import parity
from dedup_assets_tests.gpu.generate import generated

BAR = 250_000
"""Rows per second after embedding, exact, on one H200: what is aimed at."""

PUBLISHED = 90_000
"""Rows per second and GPU that NeMo Curator publishes for 768 dimensions at 0.01 on 8 H100, inexact."""

SIZES = ((1_000_000, 768, 0.01), (1_000_000, 384, 0.05), (1_000_000, 384, 0.01), (1_000_000, 768, 0.05))
LARGE = ((5_000_000, 768, 0.01), (5_000_000, 384, 0.05), (5_000_000, 384, 0.01), (5_000_000, 768, 0.05))
"""Rows, dimension and ε; those with the bar first."""

QUERIES = 64
"""Rows compared with all others in float64, to put the recall beside the time."""


class Run:
    """Steps with a common budget; what came out of them."""

    def __init__(self, device: str, budget: float) -> None:
        self.device, self.deadline = device, time.monotonic() + budget
        self.results: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def step(self, name: str, expected: float, work: Callable[[], Any]) -> Any:
        """Run a step that should take so many seconds; None where it is skipped or fails."""
        if expected > self.left:
            self.skipped[name] = f"would take about {expected:.0f} s, {max(0, self.left):.0f} s are left"
            print(f"{name}: skipped, {self.skipped[name]}", flush=True)
            return None
        started = time.monotonic()
        try:
            self.results[name] = work()
        except Exception as problem:  # one failed step must not cost the others
            self.failed[name] = f"{type(problem).__name__}: {problem}"
            print(f"{name}: FAILED, {self.failed[name]}", flush=True)
            return None
        print(f"{name}: {time.monotonic() - started:.1f} s: {self.results[name]}", flush=True)
        return self.results[name]


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


def embedding(device: str, count: int, seconds: float) -> dict[str, Any]:
    """Documents per second of 128 tokens, tokenising included."""
    from dedup_assets.compute.encoder import Encoder

    parts = parity.encoder_parts()
    if parts is None:
        raise RuntimeError("transformers is not installed")
    encoder = Encoder(*parts[:2], max_length=128, device=device)
    if not device.startswith("cuda"):
        encoder._tokens = 1024
    texts = [text + " word1" * 130 for text in parity.texts_of(count, 100)]  # all are cut to the window
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


def after_embedding(device: str, n: int, d: int, epsilon: float, peak: float, deadline: float) -> dict[str, Any]:
    """Fit, assignment, pairs and decisions of generated vectors that lie on the device; seconds of each."""
    floor = 1.0 - epsilon
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
    cells = choose_cells(n, floor)
    chosen = np.sort(np.random.default_rng(0).choice(n, sample_size(n, cells), replace=False))
    centroids = fit_centroids(rows.take(chosen), cells) if cells > 1 else np.eye(1, d, dtype=np.float32)
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
        np.ones(n, bool),
    )
    parts = []
    for part in match_cells(block, floor, device=device):
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError("the budget ended during the join")
    lap("pairs")
    matches = unique_matches(parts)
    decided = leader_cover(matches.i, matches.j, matches.similarity, n, floor)
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
        "rows_per_s": round(n / total),
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
        "recall": recall(rows, floor, matches.i, matches.j),
    }


def run_all(device: str, budget: float, tiny: bool) -> Run:
    """Every step; the short and the important ones first."""
    run = Run(device, budget)
    on_gpu = device.startswith("cuda")
    run.step("environment", 5, lambda: environment(device))
    peaks = run.step("ceiling", 6, lambda: ceiling(device, 8192 if on_gpu else 256, 1.5 if on_gpu else 0.1))
    peak = peaks["fp16"] if peaks else float("inf")
    warm = 20_000 if on_gpu else 3_000  # kernels are compiled and libraries set up
    run.step("warm-up", 20, lambda: after_embedding(device, warm, 384 if on_gpu else 48, 0.05, peak, run.deadline))
    sizes = ((2_500, 48, 0.05), (2_500, 64, 0.01)) if tiny else SIZES
    taken = 15.0

    def measure(n: int, d: int, epsilon: float, expected: float) -> None:
        nonlocal taken
        started = time.monotonic()
        name = f"{n:,} rows, {d}-d, ε {epsilon}"
        if run.step(name, expected, lambda: after_embedding(device, n, d, epsilon, peak, run.deadline)):
            taken = time.monotonic() - started

    measure(*sizes[0], taken)
    run.step("embedding", 40, lambda: embedding(device, 16_384 if on_gpu else 8, 15 if on_gpu else 0.1))
    for name, check, arguments in parity.checks(device, tiny):
        run.step(f"parity: {name}", 15, lambda check=check, arguments=arguments: check(*arguments))
    for size in sizes[1:]:
        measure(*size, 1.5 * taken + 2)
    for size in () if tiny else LARGE:
        measure(*size, (8 if size is LARGE[0] else 1.5) * taken)
    return run


def table(run: Run) -> str:
    """What was measured, in Markdown."""
    there = run.results.get("environment", {})
    lines = [
        f"{there.get('gpu', there.get('device'))}, driver {there.get('driver, power limit, clock', '-')}, CUDA "
        f"{there.get('cuda', '-')}, torch {there.get('torch')}, Python {there.get('python')}. Products of 8192 × "
        f"8192: {run.results.get('ceiling')} TFLOP/s. Embedding: {run.results.get('embedding')}.",
        "",
        "| rows | d | ε | rows/s | norms | fit | assign | pairs | decide | matches | missed of sampled | extra "
        "| of the ceiling | in its stages | GPU GiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in run.results.items():
        if "rows," not in name:
            continue
        times = " | ".join(f"{found['seconds'][part]:.2f}" for part in ("norms", "fit", "assign", "pairs", "decide"))
        lines.append(
            f"| {found['rows']:,} | {found['dimension']} | {found['epsilon']} | {found['rows_per_s']:,} | {times} | "
            f"{found['matches']:,} | {found['recall']['missed']} of {found['recall']['wanted']} | "
            f"{found['recall']['extra']} | {found['share_of_ceiling']:.1%} | {found['share_in_stages']:.1%} | "
            f"{found['gpu_memory_gib']} |"
        )
    checked = [name for name in run.results if name.startswith("parity")]
    lines += ["", f"Parity with the CPU: {len(checked)} checks passed."]
    lines += [f"- FAILED {name}: {text}" for name, text in run.failed.items()]
    lines += [f"- skipped {name}: {text}" for name, text in run.skipped.items()]
    lines += ["", f"Aimed at: {BAR:,} rows/s, exact. NeMo Curator publishes {PUBLISHED:,} per H100, inexact."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run, print and write; 1 where a step failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU does in a minute")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args(arguments)
    device = "cpu:0" if options.device == "cpu" else options.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        print(f"--device {device}: torch {torch.__version__} finds no usable GPU; --device cpu --tiny runs without")
        return 2
    run = run_all(device, options.budget, options.tiny)
    text = table(run)
    print(text)
    if options.table:
        options.table.write_text(text)
    if options.json:
        outcome = {"results": run.results, "skipped": run.skipped, "failed": run.failed}
        options.json.write_text(json.dumps(outcome, indent=2, ensure_ascii=False))
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
