"""Is the join exact on real embeddings, and what does each stage cost? Prints recall beside the time.

    python -m dedup_assets_tests.benchmarks.exactness --rows 20000 --threshold 0.9

Texts are the paragraphs of the docstrings of installed packages, embedded by the package's own encoder; or
vectors come from a file: ``--vectors FILE.npy``, (n, d) float16 or float32.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import json
import re
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from dedup_assets.compute.in_memory import decide_rows, exact_matches
from dedup_assets.compute.precision import native_precision


def paragraphs(wanted: int) -> list[str]:
    """Distinct docstring paragraphs of installed packages, in the order of their files."""
    found: dict[str, None] = {}
    for path in sorted(_sources()):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for part in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                    if len(part.strip()) >= 30:  # shorter ones are headings and underlines
                        found.setdefault(part.strip())
        if len(found) >= wanted:
            break
    return list(found)[:wanted]


def _sources() -> set[Path]:
    files = {
        Path(str(entry.locate()))
        for package in importlib.metadata.distributions()
        for entry in package.files or ()
        if entry.suffix == ".py"
    }
    return files | set(Path(ast.__file__).parent.rglob("*.py"))


def real_vectors(rows: int) -> np.ndarray:
    """Embeddings of docstring paragraphs, float16 (n, d) with n <= rows."""
    from dedup_assets.encoder.models import load_encoder, locate_model

    encoder = load_encoder(locate_model("sentence-transformers/all-MiniLM-L6-v2"))
    return encoder.encode(paragraphs(rows)).vectors.astype(np.float16)


def brute_force(vectors: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs i < j at or above the threshold: float64 products of all pairs by numpy, in tiles of rows.

    Shares no code with the join. Exact for float16 rows, where float64 sums are never rounded.
    """
    wide = vectors.astype(np.float64)
    squares = (wide * wide).sum(axis=1)
    found_i, found_j = [], []
    step = max(1, (64 << 20) // (8 * max(1, len(vectors))))  # 64 MB of products at a time
    for start in range(0, len(vectors), step):
        dots = wide[start : start + step] @ wide[start:].T
        norms = np.sqrt(squares[start : start + step, None] * squares[None, start:])
        cosine = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
        i, j = np.nonzero(np.triu(cosine >= threshold, 1))
        found_i.append(i + start)
        found_j.append(j + start)
    return np.concatenate(found_i), np.concatenate(found_j)


def measure(vectors: np.ndarray, threshold: float, clusters: int | None, threads: int) -> dict:
    """Seconds of each stage of the join, and what brute force says of its matches."""
    n = len(vectors)
    exact_matches(vectors[: min(n, 5000)], threshold, clusters=4, threads=threads)  # compile
    stats: dict[str, float] = {}
    matches = exact_matches(vectors, threshold, clusters=clusters, threads=threads, stats=stats)
    kept = decide_rows(vectors, matches, threshold, stats=stats).kept
    seconds = {name.removeprefix("seconds_"): spent for name, spent in stats.items() if name.startswith("seconds_")}
    total = sum(seconds.values())
    started = time.perf_counter()
    i, j = brute_force(vectors, threshold)
    seconds["brute force"] = time.perf_counter() - started
    found, wanted = matches.i * n + matches.j, i.astype(np.int64) * n + j
    return {
        "rows": n,
        "dimension": vectors.shape[1],
        "dtype": str(vectors.dtype),
        "threshold": threshold,
        "cells": int(stats["cells"]),
        "precision": native_precision("cpu"),
        "ghosts_per_row": stats["ghosts"] / max(1, n),
        "matches": len(matches),
        "missed": len(np.setdiff1d(wanted, found)),
        "extra": len(np.setdiff1d(found, wanted)),
        "kept": int(kept.sum()),
        "seconds": {**seconds, "total without brute force": total},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit code is 1 if a match was missed or made up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--clusters", type=int, help="number of cells; chosen from the rows by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--vectors", type=Path, help="a .npy file, instead of embedding docstrings")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(arguments)
    vectors = np.load(options.vectors, mmap_mode="r")[: options.rows] if options.vectors else real_vectors(options.rows)
    result = measure(np.ascontiguousarray(vectors), options.threshold, options.clusters, options.threads)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            if name == "seconds":
                for stage, spent in value.items():
                    print(f"{stage:<28}{spent:>12.3f} s")
            else:
                print(f"{name:<28}{value:>12.2f}" if isinstance(value, float) else f"{name:<28}{value:>12}")
    return int(result["missed"] + result["extra"] > 0)


if __name__ == "__main__":
    sys.exit(main())
