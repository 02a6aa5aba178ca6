"""The cost of a corpus beyond one machine: a cost model with measured constants, and a simulated schedule.

    python deploy/simulate_scale.py                    # tables
    python deploy/simulate_scale.py --json             # the same as one JSON object; equal on every call
    python deploy/simulate_scale.py --measure FILE.npy # measure again what the constants were taken from

Needs no workspace, model or GPU. Each constant, and `scale.md`, says what is measured and what is assumed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for the modules in this folder, from any working folder

from scale_costs import PLANTS, Plant, best_cells, predict, work
from scale_measure import check, measure
from scale_schedule import limits, scenario


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
            {**scenario(n, w), "efficiency_in_order": scenario(n, w, longest_first=False)["efficiency"]}
            for n in (200_000, 10**6, 10**7, 10**8, 10**9)
            for w in (8, 64)
        ],
        "what_if": list(_what_if()),
    }


def _what_if() -> Iterator[dict[str, object]]:
    cases: dict[str, dict[str, object]] = {
        "as written: 1 GiB, 4 groups per worker, longest first": {},
        "in the order of the codebook": {"longest_first": False},
        "8 groups per worker": {"per_lane": 8},
        "groups of 64 MiB": {"group_bytes": 64 << 20},
        "groups of 256 MiB": {"group_bytes": 256 << 20},
        "groups of 4 GiB": {"group_bytes": 4 << 30},
        "stored sketches": {"stored_sketch": True},
        "as written, 1 % new": {"new": 0.01},
        "stored sketches, 1 % new": {"stored_sketch": True, "new": 0.01},
    }
    for records in (10**6, 10**7, 10**8):
        for name, options in cases.items():
            yield {"what": name, **scenario(records, 64, **options)}  # type: ignore[arg-type]


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
    """Print the requested tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--measure", type=Path, metavar="FILE", help="vectors (n, 384), *.npy")
    parser.add_argument("--group-bytes", type=int, default=0, help="bound of a group while measuring; 0: one group")
    parser.add_argument("--rows", type=int, default=200_000, help="rows to measure on")
    options = parser.parse_args(arguments)
    if options.measure:
        vectors = np.array(np.load(options.measure, mmap_mode="r")[: options.rows])
        print(json.dumps(measure(vectors, options.group_bytes)))
        return
    found = results()
    if options.json:
        print(json.dumps(found))
        return
    for name, lines in found.items():
        print(f"\n{name}\n\n{table(lines)}")  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
