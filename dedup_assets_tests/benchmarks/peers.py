"""Other ways to find near-copies, each run alone in a process of its own by the benchmark.

Executed as a script, by the interpreter of the peers' environment: knows numpy and the peer's library, nothing
of this project. Arguments and the report are JSON; vectors, pairs and decisions are .npy files.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Found:
    """Pairs met, int64 (m, 2), in any order, and who stays, bool (n,).

    `dense` holds cells whose pairs were decided upon without being listed: their rows, and which are at home there.
    """

    pairs: np.ndarray
    kept: np.ndarray
    dense: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Everything since the last lap was this stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now


def status_kb(name: str) -> int:
    """A figure of /proc/self/status, in KB; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), 0)


def measured(load: Callable[[], Any], work: Callable[[Any, Clock], Found], out: str) -> dict[str, Any]:
    """Load the vectors, do the work, write what it found; seconds, and memory over the loaded vectors."""
    vectors = load()
    before = status_kb("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is the work's own
    load_start = os.getloadavg()[0]
    clock = Clock()
    started, used = clock.last, time.process_time()
    found = work(vectors, clock)
    total, used = time.perf_counter() - started, time.process_time() - used
    peak = status_kb("VmHWM")
    np.save(f"{out}.pairs.npy", np.unique(codes(found.pairs)))
    np.save(f"{out}.kept.npy", found.kept)
    np.savez(f"{out}.dense.npz", *(part for cell in found.dense for part in cell))
    return {
        "seconds": total,
        "cpu_seconds": used,
        "stages": clock.seconds,
        "kb_per_row": max(0, peak - before) / max(1, len(vectors)),
        "peak_mb": peak / 1024,
        "kept": int(found.kept.sum()),
        "load": [load_start, os.getloadavg()[0]],
    }


def halves(path: str, rows: int) -> np.ndarray:
    """The vectors as they are stored: float16, a memory map whose every page is in memory."""
    vectors = np.load(path, mmap_mode="r")[:rows]
    for start in range(0, rows, 65_536):
        vectors[start : start + 65_536, ::64].sum()
    return vectors


def singles(path: str, rows: int) -> np.ndarray:
    """The vectors as a model gives them: float32, in memory."""
    return np.load(path, mmap_mode="r")[:rows].astype(np.float32)


def codes(pairs: np.ndarray) -> np.ndarray:
    """Pairs (m, 2), either way round, as int64 ``smaller << 32 | larger``."""
    pairs = pairs.astype(np.int64)
    return np.minimum(pairs[:, 0], pairs[:, 1]) << 32 | np.maximum(pairs[:, 0], pairs[:, 1])


def greedy(pairs: np.ndarray, n: int) -> np.ndarray:
    """Who stays if each row, in turn, goes when a row that stays matches it: bool (n,)."""
    kept = np.ones(n, bool)
    low, high = np.minimum(pairs[:, 0], pairs[:, 1]), np.maximum(pairs[:, 0], pairs[:, 1])
    for at in np.argsort(high, kind="stable").tolist():
        if kept[low[at]]:
            kept[high[at]] = False
    return kept


def semhash(vectors: np.ndarray, threshold: float, clock: Clock) -> Found:
    """SemHash: an HNSW graph (usearch, its default), then its own selection."""
    from semhash import SemHash

    n = len(vectors)
    met: list[np.ndarray] = []
    records = [str(row) for row in range(n)]  # distinct texts: equal ones would be merged before the index
    clock.lap("records")
    dedup = SemHash.from_embeddings(vectors, records, model=None)
    clock.lap("index")
    query = dedup.index.query_threshold

    def watched(*arguments: Any, **named: Any) -> Any:
        neighbours = query(*arguments, **named)
        met.extend(indices for indices, _ in neighbours)
        clock.lap("query")
        return neighbours

    dedup.index.query_threshold = watched
    result = dedup.self_deduplicate(threshold=threshold)
    clock.lap("select")
    kept = np.zeros(n, bool)
    kept[[int(record) for record in result.selected]] = True
    return Found(_pairs_of(met), kept)


def _pairs_of(neighbours: list[np.ndarray]) -> np.ndarray:
    counts = [len(indices) for indices in neighbours]
    first = np.repeat(np.arange(len(neighbours)), counts)
    second = np.concatenate([np.empty(0, np.int64), *neighbours]).astype(np.int64)
    return np.column_stack([first, second])[(first != second) & (second >= 0)]


def faiss_range(vectors: np.ndarray, threshold: float, clock: Clock) -> Found:
    """FAISS: its k-means as an inverted file of 4·sqrt(n) lists, range search in the 16 nearest of them."""
    import faiss

    n, d = vectors.shape
    lists = max(1, min(n // 39, int(4 * math.sqrt(n))))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    clock.lap("k-means")
    index.add(vectors)
    clock.lap("assign")
    index.nprobe = min(16, lists)
    limits, _, labels = index.range_search(vectors, threshold)
    clock.lap("range search")
    first = np.repeat(np.arange(n), np.diff(limits.astype(np.int64)))
    pairs = np.column_stack([first, labels])[first < labels]
    kept = greedy(pairs, n)
    clock.lap("decisions")
    return Found(pairs, kept)


def faiss_hnsw(vectors: np.ndarray, threshold: float, clock: Clock) -> Found:
    """FAISS: HNSW with 16 links, its default construction, the 100 nearest of each row."""
    import faiss

    n, d = vectors.shape
    index = faiss.IndexHNSWFlat(d, 16, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    clock.lap("index")
    index.hnsw.efSearch = 100
    similar, labels = index.search(vectors, min(100, n))
    clock.lap("query")
    row, at = np.nonzero((similar >= threshold) & (labels >= 0))
    pairs = np.column_stack([row, labels[row, at]])
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    kept = greedy(pairs, n)
    clock.lap("decisions")
    return Found(pairs, kept)


def semdedup(vectors: np.ndarray, threshold: float, clock: Clock, clusters: int = 1000) -> Found:
    """The rule of SemDeDup (arXiv:2303.09540) with the defaults of NeMo Curator: pairs inside a cluster only.

    Inside a cluster rows are ordered by their distance from the centroid ("hard": the farthest first), and a row
    goes if its largest similarity to an earlier one is above the threshold, whether that one stays or not.
    """
    import faiss

    n, d = vectors.shape
    clusters = max(1, min(clusters, n // 39))
    means = faiss.Kmeans(d, clusters, niter=20, spherical=True, seed=0)
    means.train(vectors)
    clock.lap("k-means")
    nearness, home = means.assign(vectors)
    clock.lap("assign")
    order = np.lexsort((np.arange(n), nearness, home))  # within a cluster the farthest first
    bounds = np.searchsorted(home[order], np.arange(clusters + 1))
    kept = np.ones(n, bool)
    pairs = [np.empty((0, 2), np.int64)]
    for cluster in range(clusters):
        rows = order[bounds[cluster] : bounds[cluster + 1]]
        members = vectors[rows]
        for start in range(0, len(rows), 1024):
            stop = min(start + 1024, len(rows))
            earlier = members[:stop] @ members[start:stop].T
            first, second = np.nonzero(np.triu(earlier > threshold, 1 - start))
            kept[rows[start + second]] = False
            pairs.append(np.column_stack([rows[first], rows[start + second]]))
    clock.lap("pairs")
    return Found(np.concatenate(pairs), kept)


def torch_bf16(vectors: np.ndarray, threshold: float, clock: Clock) -> Found:
    """Brute force: all products in bfloat16, proposals decided in float64."""
    return _brute(vectors, threshold, clock, "bfloat16")


def torch_fp32(vectors: np.ndarray, threshold: float, clock: Clock) -> Found:
    """Brute force: all products in float32, proposals decided in float64."""
    return _brute(vectors, threshold, clock, "float32")


def _brute(vectors: np.ndarray, threshold: float, clock: Clock, precision: str) -> Found:
    import torch

    n = len(vectors)
    rows = torch.from_numpy(np.array(vectors)).to(getattr(torch, precision))
    clock.lap("convert")
    slack = 0.012 if precision == "bfloat16" else 1e-4  # of the inputs, the sum and the norms
    parts = [np.empty((0, 2), np.int64)]
    for start in range(0, n, 1024):
        left = rows[start : start + 1024]
        for across in range(start, n, 4096):
            product = left @ rows[across : across + 4096].T
            clock.lap("products")
            if bool((product.max() >= threshold - slack).item()):
                at = torch.nonzero(product >= threshold - slack).numpy() + np.array([start, across])
                parts.append(at[at[:, 0] < at[:, 1]])
            clock.lap("scan")
    pairs = np.concatenate(parts)
    pairs = pairs[true_similarities(vectors, pairs) >= threshold]
    clock.lap("decide")
    kept = greedy(pairs, n)
    clock.lap("decisions")
    return Found(pairs, kept)


def true_similarities(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Cosines of pairs of rows, float64 (m,); 0 for zero rows."""
    out = np.zeros(len(pairs))
    for start in range(0, len(pairs), 16_384):
        part = pairs[start : start + 16_384]
        left, right = vectors[part[:, 0]].astype(np.float64), vectors[part[:, 1]].astype(np.float64)
        norms = np.sqrt((left * left).sum(axis=1) * (right * right).sum(axis=1))
        dots = (left * right).sum(axis=1)
        out[start : start + 16_384] = np.divide(dots, norms, out=np.zeros(len(part)), where=norms > 0)
    return out


PEERS: dict[str, tuple[Callable[..., Found], Callable[[str, int], np.ndarray]]] = {
    "semhash": (semhash, singles),
    "faiss-range": (faiss_range, singles),
    "faiss-hnsw": (faiss_hnsw, singles),
    "semdedup": (semdedup, singles),
    "torch-bf16": (torch_bf16, halves),
    "torch-fp32": (torch_fp32, halves),
}


def main() -> None:
    """Run the peer that the JSON argument names; the report is the last line."""
    job = json.loads(sys.argv[1])
    find, load = PEERS[job["name"]]
    extra = {"clusters": job["semdedup_clusters"]} if job["name"] == "semdedup" else {}
    # Libraries load before memory is read, and a few rows warm them up.
    sample = load(job["vectors"], min(400, job["rows"]))
    find(sample, job["threshold"], Clock(), **extra)
    report = measured(
        lambda: load(job["vectors"], job["rows"]),
        lambda vectors, clock: find(vectors, job["threshold"], clock, **extra),
        job["out"],
    )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
