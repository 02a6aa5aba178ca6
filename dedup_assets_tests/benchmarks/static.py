"""Times a static encoder against `StaticModel.encode` of model2vec, interleaved: processor time, and the least cosine.

    python -m dedup_assets_tests.benchmarks.static DATA/debian_descriptions/*

Files are Parquet or JSON lines (.gz) with a column `text`. Every run of ours begins without a known word.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dedup_assets.encoder.distilled import require_distilled
from dedup_assets.encoder.models import locate_model
from dedup_assets.encoder.static_folder import load_static, static_files
from dedup_assets_tests.benchmarks.encoder import docstrings


def texts_of(files: list[Path]) -> list[str]:
    """All texts of the files that are not empty."""
    texts: list[str] = []
    for file in files:
        if file.suffix == ".parquet":
            texts += pq.read_table(file)["text"].to_pylist()
        else:
            with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
                texts += [json.loads(line)["text"] for line in lines]
    return [text for text in texts if text and text.strip()]


def run(model: str, texts: list[str], repeats: int) -> dict[str, Any]:
    """Medians of seconds on the clock and of processor time, their ratio, and the least cosine."""
    from model2vec import StaticModel

    location = locate_model(model)
    folder = Path(location.folder)
    if location.source:
        require_distilled(model, folder, Path(location.source))
    files = static_files(folder)
    if files is None:
        raise SystemExit(f"{model} is no static model")
    peer = StaticModel.from_pretrained(folder)
    load_static(folder, files).encode(texts[:100])  # kernels are compiled or read at first use
    peer.encode(texts[:100])
    spent: dict[str, list[tuple[float, float]]] = {"ours": [], "encode": []}
    least = 1.0
    for _ in range(repeats):
        encoder = load_static(folder, files)
        before = time.perf_counter(), time.process_time()
        ours = encoder.encode(texts).vectors
        spent["ours"].append((time.perf_counter() - before[0], time.process_time() - before[1]))
        before = time.perf_counter(), time.process_time()
        theirs = np.asarray(peer.encode(texts), np.float32)
        spent["encode"].append((time.perf_counter() - before[0], time.process_time() - before[1]))
        norms = np.linalg.norm(theirs, axis=1)
        least = min(least, float(((ours * theirs).sum(1)[norms > 0] / norms[norms > 0]).min()))
    ratios = [b[1] / a[1] for a, b in zip(spent["ours"], spent["encode"], strict=True)]
    return {
        "model": model,
        "texts": len(texts),
        "characters": sum(map(len, texts)) / len(texts),
        "by_words": encoder.by_words,
        "seconds": {name: statistics.median(s for s, _ in each) for name, each in spent.items()},
        "processor_seconds": {name: statistics.median(p for _, p in each) for name, each in spent.items()},
        "processor_ratio": statistics.median(ratios),
        "least_cosine": least,
    }


def main() -> None:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="docstrings of the standard library where none is given")
    parser.add_argument("--model", default="static:sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    report = run(arguments.model, texts_of(arguments.files) or docstrings(5000), arguments.repeats)
    if arguments.json:
        print(json.dumps(report))
        return
    print(f"{report['texts']:,} texts of {report['characters']:.0f} characters, {report['model']}")
    for name in ("ours", "encode"):
        print(f"{name:8}{report['seconds'][name]:8.2f} s {report['processor_seconds'][name]:8.2f} s of processor")
    print(f"{report['processor_ratio']:.2f} x, least cosine {report['least_cosine']:.7f}")


if __name__ == "__main__":
    main()
