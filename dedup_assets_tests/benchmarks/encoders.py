"""How well encoders tell duplicates from other pairs: what people give up with a static model.

    python -m dedup_assets_tests.benchmarks.encoders DATA/*/pairs.parquet

A file of pairs has `id_a`, `id_b` and `label` (1: the same); the texts lie beside it in `data.parquet` with `id` and
`text`. Where both labels occur, the labelled pairs are ranked by similarity; where only the same are named, all pairs
of the records are, and what is not named counts as different. Printed are average precision, and precision and recall
at the threshold where their harmonic mean is best.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dedup_assets.encoder.models import load_encoder, locate_model

TRANSFORMER = "sentence-transformers/all-MiniLM-L6-v2"
BEST_OF = 6000
"""Records of a file of which all pairs are ranked, at most; of larger ones the first so many."""


def average_precision(similarity: np.ndarray, same: np.ndarray) -> tuple[float, float, float, float]:
    """Average precision, and the threshold of the best F1 with its precision and recall.

    `similarity` (n,) and `same` (n,) bool of pairs. Pairs of one similarity are taken together, so that their order
    changes nothing.
    """
    order = np.argsort(-similarity, kind="stable")
    ranked = similarity[order]
    hits = np.cumsum(same[order], dtype=np.float64)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1))
    area = float((np.diff(recall, prepend=0.0) * precision).sum())
    return area, float(ranked[last[best]]), float(precision[best]), float(recall[best])


def labelled(file: Path) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Texts, and of the pairs to rank the two texts' numbers and whether they are the same."""
    data, pairs = pq.read_table(file.with_name("data.parquet")), pq.read_table(file)
    texts = data["text"].to_pylist()
    place = {key: at for at, key in enumerate(data["id"].to_pylist())}
    first = np.array([place[key] for key in pairs["id_a"].to_pylist()])
    second = np.array([place[key] for key in pairs["id_b"].to_pylist()])
    same = np.array(pairs["label"].to_pylist()) == 1
    if not same.all():
        return texts, first, second, same
    texts = texts[:BEST_OF]
    known = np.zeros((len(texts), len(texts)), bool)
    inside = (first < len(texts)) & (second < len(texts))
    known[first[inside], second[inside]] = known[second[inside], first[inside]] = True
    first, second = np.triu_indices(len(texts), 1)
    return texts, first, second, known[first, second]


def similarities(vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines (n,) of pairs of unit vectors, a part at a time."""
    parts = [
        np.einsum("ij,ij->i", vectors[first[at : at + 65536]], vectors[second[at : at + 65536]])
        for at in range(0, len(first), 65536)
    ]
    return np.concatenate(parts)


def measure(file: Path, models: list[str]) -> dict[str, Any]:
    """One row of the table."""
    texts, first, second, same = labelled(file)
    row: dict[str, Any] = {"file": file.parent.name, "pairs": len(same), "same": int(same.sum()), "models": {}}
    for name in models:
        vectors = load_encoder(locate_model(name)).encode(texts).vectors
        found = average_precision(similarities(vectors, first, second), same)
        row["models"][name] = dict(zip(("average_precision", "threshold", "precision", "recall"), found, strict=True))
    return row


def main() -> None:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pairs", nargs="+", type=Path)
    parser.add_argument("--models", nargs="+", default=[f"static:{TRANSFORMER}", TRANSFORMER])
    parser.add_argument("--json", action="store_true", help="print one JSON object a file")
    arguments = parser.parse_args()
    if not arguments.json:
        print(
            "| pairs | the same | "
            + " | ".join(f"{name}: AP, precision / recall (at)" for name in arguments.models)
            + " |"
        )
        print("|---|---|" + "---|" * len(arguments.models))
    for file in arguments.pairs:
        row = measure(file, arguments.models)
        if arguments.json:
            print(json.dumps(row), flush=True)
            continue
        cells = [
            f"{m['average_precision']:.2f}, {m['precision']:.2f} / {m['recall']:.2f} ({m['threshold']:.2f})"
            for m in row["models"].values()
        ]
        print(f"| {row['file']}: {row['pairs']:,} | {row['same']:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
