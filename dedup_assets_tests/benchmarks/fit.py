"""How near are the generated vectors to real ones? A table of what a join depends on, real beside generated.

python -m dedup_assets_tests.benchmarks.fit --vectors FILE.npy --rows 200000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dedup_assets.compute.cells import assign
from dedup_assets.compute.in_memory import exact_matches
from dedup_assets.compute.kmeans import choose_cells, fit_rows
from dedup_assets_tests.benchmarks.generator import generate

LEVELS = (0.80, 0.85, 0.90, 0.95, 0.98, 0.99)
RANKS = (1, 10, 100, 1000)
EIGENVALUES = (0, 4, 16, 64, 128, 256)


def traits(vectors: np.ndarray, threads: int = 2) -> dict[str, float]:
    """Spectrum, similarities at ranks, duplicates at levels, and what the join at 0.90 has to do."""
    n = len(vectors)
    rng = np.random.default_rng(0)
    found: dict[str, float] = {}
    sample = vectors[rng.choice(n, min(n, 20_000), replace=False)].astype(np.float32)
    found["length of the mean"] = float(np.linalg.norm(sample.mean(axis=0)))
    eigenvalues = np.linalg.eigvalsh(np.cov(sample.T))[::-1]
    found |= {f"eigenvalue {at}": float(eigenvalues[at]) for at in EIGENVALUES if at < len(eigenvalues)}

    queries = vectors[rng.choice(n, min(n, 500), replace=False)].astype(np.float32)
    similar = np.concatenate([queries @ vectors[s : s + 65_536].astype(np.float32).T for s in range(0, n, 65_536)], 1)
    similar = -np.sort(-similar, axis=1)
    for rank in RANKS:
        if rank < n:
            for part in (0.1, 0.5, 0.9):
                found[f"similarity at rank {rank}, quantile {part}"] = float(np.quantile(similar[:, rank], part))

    matches = exact_matches(vectors, min(LEVELS), threads=threads)
    best = np.zeros(n)
    np.maximum.at(best, matches.i, matches.similarity)
    np.maximum.at(best, matches.j, matches.similarity)
    for level in LEVELS:
        found[f"rows with a match at {level}"] = float((best >= level).mean())
        found[f"pairs per row at {level}"] = float((matches.similarity >= level).sum() / n)

    centroids = fit_rows(vectors, choose_cells(n, 0.9))
    cells = assign(vectors, centroids, 0.9, threads=threads)
    homes, ghosts = np.bincount(cells.home, minlength=len(centroids)), np.diff(cells.ghost_offsets)
    found["ghosts per row"] = len(cells.ghost_rows) / n
    found["pairs to compare per row"] = float((homes * (homes / 2 + ghosts)).sum() / n)
    found["largest cell over mean"] = float(homes.max() / homes.mean())
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200_000)
    options = parser.parse_args()
    real = np.load(options.vectors, mmap_mode="r")[: options.rows]
    generated = np.empty(real.shape, np.float16)
    generate(generated)
    wanted, got = traits(real), traits(generated)
    print("| trait | real | generated |\n| --- | --- | --- |")
    for name, value in wanted.items():
        print(f"| {name} | {value:.4g} | {got[name]:.4g} |")


if __name__ == "__main__":
    main()
