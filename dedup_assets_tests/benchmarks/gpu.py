"""Everything there is to check and measure on a GPU, in one command and within a budget of seconds.

    python -m dedup_assets_tests.benchmarks.gpu --device cuda --budget 480 --json gpu.json --table gpu.md

Parts come in order of worth, and after each the JSON file is written again, so a run that is cut short still tells.
Needs torch, numpy and numba; transformers for embedding; what else is installed is used, and what is skipped is said
at the start. `--device cpu --small` runs the same on CPU tensors. `gpu_wheels` gathers what a machine without network
needs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dedup_assets_tests.benchmarks import gpu_installed, gpu_steps
from dedup_assets_tests.gpu import parity

BAR = 250_000
"""Rows per second after embedding, exact, on one H200: what is aimed at."""

PUBLISHED = 90_000
"""Rows per second and GPU that NeMo Curator publishes for 768 dimensions at 0.01 on 8 H100, inexact."""


@dataclass(frozen=True)
class Part:
    """One thing to run: what it is called, seconds it should take on an H200, and packages it cannot do without."""

    name: str
    expected: float
    work: Callable[[], Any]
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]


class Run:
    """Parts with a common budget; what came out of them."""

    def __init__(self, device: str, budget: float, file: Path | None = None) -> None:
        self.device, self.deadline, self.file = device, time.monotonic() + budget, file
        self.results: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def plan(self, parts: Sequence[Part]) -> list[Part]:
        """The parts that can run, in order; says which cannot, and which will find no time if all take what they
        should."""
        possible, spent = [], 0.0
        for part in parts:
            if missing := part.missing():
                self._skip(part.name, f"not installed: {', '.join(missing)}")
                continue
            possible.append(part)
            spent += part.expected
            if spent > self.left:
                print(f"{part.name}: probably no time left, {spent:.0f} s expected up to its end", flush=True)
        return possible

    def step(self, part: Part) -> None:
        """Run a part that fits into what is left."""
        name = part.name
        if part.expected > self.left:
            self._skip(name, f"would take about {part.expected:.0f} s, {max(0, self.left):.0f} s are left")
            return
        started = time.monotonic()
        try:
            self.results[name] = part.work()
        except Exception as problem:  # one failed part must not cost the others
            self.failed[name] = f"{type(problem).__name__}: {problem}"
            print(f"{name}: FAILED, {self.failed[name]}", flush=True)
        else:
            print(f"{name}: {time.monotonic() - started:.1f} s: {self.results[name]}", flush=True)
        self._write()

    def _skip(self, name: str, why: str) -> None:
        self.skipped[name] = why
        print(f"{name}: skipped, {why}", flush=True)
        self._write()

    def _write(self) -> None:
        if self.file is not None:
            outcome = {"results": self.results, "skipped": self.skipped, "failed": self.failed}
            partial = self.file.with_name(self.file.name + ".partial")
            partial.write_text(json.dumps(outcome, indent=2, ensure_ascii=False))
            partial.replace(self.file)  # a run that is cut short leaves what it had


def parts_of(run: Run, small: bool) -> list[Part]:
    """Every part, the most telling first."""
    device, on_gpu = run.device, run.device.startswith("cuda")
    peaks: dict[str, float] = {}

    def ceiling() -> dict[str, float]:
        size, seconds = (8192, 1.5) if on_gpu else (256, 0.1)
        peaks.update(gpu_steps.ceiling(device, size, seconds))
        return peaks

    def rows(n: int, d: int, epsilon: float, expected: float, **options: Any) -> Part:
        def work() -> dict[str, Any]:
            peak = peaks.get("fp16", float("inf"))
            return gpu_steps.after_embedding(device, n, d, epsilon, peak, run.deadline, **options)

        extra = "".join(f", {name} {value}" for name, value in options.items())
        return Part(f"{n:,} rows, {d}-d, ε {epsilon}{extra}", expected, work)

    def tenth() -> dict[str, Any]:
        total = torch.cuda.get_device_properties(device).total_memory
        with parity.little_memory(device, total // 10):
            found = gpu_steps.after_embedding(device, 1_000_000, 384, 0.05, float("inf"), run.deadline)
        return {"given_gib": round(total / 10 / 2**30, 1), **found}

    def texts(words: int) -> Part:
        count, seconds = (16_384, 5.0) if on_gpu else (8, 0.1)
        return Part(
            f"encoder, {words} words",
            20,
            lambda: gpu_steps.embedding(device, count, seconds, words),
            ("transformers",),
        )

    checks = [
        Part(f"parity: {name}", 15, lambda check=check, given=given: check(*given))  # type: ignore[misc]
        for name, check, given in parity.checks(device, small)
    ]
    warm = 20_000 if on_gpu else 1_500  # kernels are compiled and libraries set up
    n, d, clusters = (1_500, 48, 10) if small else (1_000_000, 384, 1000)
    parts = [
        Part("environment", 5, lambda: gpu_steps.environment(device)),
        Part("smoke", 25, rows(warm, d, 0.05, 0).work),
        Part("ceiling", 6, ceiling),
        *checks,
        rows(n, d, 0.05, 15),
    ]
    if on_gpu and not small:
        parts.append(Part("memory: a tenth of the GPU", 25, tenth))
    parts += [
        rows(n, d, 0.05, 15, appended=0.01),
        texts(60 if small else 130),
        *(() if small else (rows(5_000_000, 384, 0.05, 40), texts(12), texts(60))),
        rows(n, d, 0.10, 30, cells=12 if small else 12_000),
        *(() if small else (rows(20_000_000, 384, 0.05, 120),)),
        Part("fit of centroids", 10, lambda: gpu_steps.fits(device, 48 * clusters, d, clusters)),
        Part("NeMo Curator's rule with torch", 20, lambda: gpu_steps.inside_clusters(device, n, d, 0.05, clusters)),
        Part("SemHash", 60, lambda: gpu_steps.semhash(min(n, 50_000), d, 0.05), ("semhash",)),
    ]
    return parts + [Part(*part) for part in gpu_installed.parts(device, small)]


def run_all(device: str, budget: float, small: bool, file: Path | None = None) -> Run:
    """Every part that can run and fits the budget."""
    run = Run(device, budget, file)
    for part in run.plan(parts_of(run, small)):
        run.step(part)
    return run


def table(run: Run) -> str:
    """What was measured, in Markdown."""
    there = run.results.get("environment", {})
    lines = [
        f"{there.get('gpu', there.get('device'))}, driver {there.get('driver, power limit, clock', '-')}, CUDA "
        f"{there.get('cuda', '-')}, torch {there.get('torch')}, Python {there.get('python')}. Products of 8192 × "
        f"8192: {run.results.get('ceiling')} TFLOP/s. ",
        "",
        "| rows | d | ε | rows/s | norms | fit | assign | pairs | decide | matches | missed of sampled | extra "
        "| of the ceiling | in its stages | GPU GiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    appended = []
    for name, found in run.results.items():
        if "rows," not in name:
            continue
        if found["recall"] is None:
            appended.append(f"- {name}: {found['rows_per_s']:,} new rows/s, {found['matches']:,} matches")
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
    lines += appended
    others = ("encoder", "memory", "fit", "NeMo", "SemHash", *gpu_installed.NAMES)
    lines += [f"- {name}: {found}" for name, found in run.results.items() if name.startswith(others)]
    lines += [f"- FAILED {name}: {text}" for name, text in run.failed.items()]
    lines += [f"- skipped {name}: {text}" for name, text in run.skipped.items()]
    lines += ["", f"Aimed at: {BAR:,} rows/s, exact. NeMo Curator publishes {PUBLISHED:,} per H100, inexact."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run, print and write; 1 where a step failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--small", action="store_true", help="sizes that a CPU does in a minute")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args(arguments)
    device = "cpu:0" if options.device == "cpu" else options.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        print(f"--device {device}: torch {torch.__version__} finds no usable GPU; --device cpu --small runs without")
        return 2
    run = run_all(device, options.budget, options.small, options.json)
    text = table(run)
    print(text)
    if options.table:
        options.table.write_text(text)
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
