"""Results as tables for people. Knows the benchmark's results; measures nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What a figure cannot be read without."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
        flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    except OSError:
        models, flags = [], []
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "units": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("numpy", "torch", "numba")},
    }


COLUMNS = (
    ("contender", "contender", "{}"),
    ("seconds", "seconds", "{:.2f}"),
    ("cpu_seconds", "CPU s", "{:.2f}"),
    ("ratio", "× ours", "{:.2f}"),
    ("cpu_ratio", "CPU ×", "{:.2f}"),
    ("recall", "recall", "{:.4f}"),
    ("precision", "precision", "{:.4f}"),
    ("pairs", "pairs", "{:,}"),
    ("kept", "kept", "{:,}"),
    ("differ", "decided otherwise", "{:,}"),
    ("repeatable", "same again", "{}"),
    ("kb_per_row", "KB/row", "{:.2f}"),
)

EXTRAPOLATED = ("seconds", "cpu_seconds", "ratio", "cpu_ratio")


def table(result: dict[str, Any]) -> str:
    """One corpus: a Markdown table, contenders in the order they ran, and their stages."""
    rows = [[title for _, title, _ in COLUMNS], ["---"] * len(COLUMNS)]
    for entry in result["contenders"]:
        rows.append([_cell(entry, key, form) for key, _, form in COLUMNS])
    lines = [
        f"{result['rows']:,} rows, {result['data']}, threshold {result['threshold']}, "
        f"{result['judged']}, "
        f"load {result['load'][0]:.1f} to {result['load'][1]:.1f} on {os.cpu_count()} cores",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
    for entry in result["contenders"]:
        if entry.get("stages"):
            stages = ", ".join(f"{stage} {spent:.2f}" for stage, spent in entry["stages"].items())
            lines.append(f"{entry['contender']}: {stages}")
        if entry.get("failed"):
            lines.append(f"{entry['contender']}: {entry['failed']}")
    return "\n".join(lines)


def _cell(entry: dict[str, Any], key: str, form: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = form.format(value)
    return f"{text} (extrapolated)" if key in EXTRAPOLATED and entry.get("extrapolated") else text


def profile_table(entry: dict[str, Any], rows: int) -> str:
    """Where the processor time of the join goes, on one thread."""
    total = entry["cpu_seconds"]
    lines = [f"profile of {rows:,} rows on one thread, {total:.2f} s of processor time", "", "| what | s | share |"]
    lines.append("| --- | --- | --- |")
    for name, spent in sorted(entry["profile"].items(), key=lambda item: -item[1]):
        lines.append(f"| {name} | {spent:.2f} | {spent / total:.1%} |")
    lines.append(f"\nproducts and their scans: {entry['products_share']:.1%}")
    return "\n".join(lines)
