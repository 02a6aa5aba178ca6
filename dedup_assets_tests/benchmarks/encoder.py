"""Times the encoder against SentenceTransformer.encode, interleaved, on docstrings of the standard library.

    python -m dedup_assets_tests.benchmarks.encoder --texts 2000

Prints medians, ratios and the least cosine to the reference's vectors; `--json` prints one object. The reference is
sentence-transformers with its defaults where it is installed, else the loop that it runs, written out here.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import platform
import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dedup_assets.encoder.encoder import Encoder
from dedup_assets.encoder.folder import read_folder
from dedup_assets.encoder.models import locate_model
from dedup_assets.encoder.parts import load_parts


def docstrings(count: int) -> list[str]:
    """`count` distinct docstrings of the standard library, shuffled with a fixed seed."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts or len(found) > 20 * count:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # test data that is broken on purpose
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text:
                    found.setdefault(text)
    texts = list(found)
    order = np.random.default_rng(0).permutation(len(texts))[:count]
    return [texts[i] for i in order]


def plain_loop(model: Any, tokenizer: Any, texts: list[str], max_length: int) -> np.ndarray:
    """What SentenceTransformer.encode does: 32 texts at a time, sorted by characters, padded to the longest, float32.

    Returns unit vectors, float32 (n, d), mean pooling.
    """
    import torch

    order = np.argsort([-len(t) for t in texts], kind="stable")
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        batch = tokenizer(
            [texts[i] for i in rows],
            padding=True,
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
            weight = batch["attention_mask"][..., None].float()
            mean = (hidden * weight).sum(1) / weight.sum(1)
            vectors[rows] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return vectors


PLAIN, PEER = "plain float32 loop", "sentence-transformers"


def run(name: str, texts: list[str], repeats: int) -> dict[str, Any]:
    """Seconds on the clock and of processor time (medians of interleaved runs), ratios and least cosines.

    The reference of ratios and cosines is sentence-transformers, or the plain loop without it.
    """
    import torch

    location = locate_model(name)
    found = read_folder(Path(location.folder))
    pooling, max_length = found.pooling, found.window
    if pooling != "mean":
        raise SystemExit(f"{name} pools by {pooling!r}; the plain loop knows only 'mean': take another --model")

    model, tokenizer = load_parts(location.folder)
    model.eval()
    contenders: dict[str, Callable[[], np.ndarray]] = {PLAIN: lambda: plain_loop(model, tokenizer, texts, max_length)}
    if importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        peer = SentenceTransformer(location.folder, device="cpu")
        contenders[PEER] = lambda: np.asarray(peer.encode(texts, normalize_embeddings=True, show_progress_bar=False))
    automatic = Encoder(*load_parts(location.folder), max_length=max_length)
    contenders[f"encoder {automatic.precision}"] = lambda: automatic.encode(texts).vectors
    if automatic.precision != "float32":
        single = Encoder(*load_parts(location.folder), max_length=max_length, precision="float32")
        contenders["encoder float32"] = lambda: single.encode(texts).vectors

    clock: dict[str, list[float]] = {label: [] for label in contenders}
    processor: dict[str, list[float]] = {label: [] for label in contenders}
    vectors: dict[str, np.ndarray] = {}
    for label, work in contenders.items():  # a run that is not counted: kernels are made at first use
        vectors[label] = work()
    for _ in range(repeats):
        for label, work in contenders.items():
            started, used = time.perf_counter(), time.process_time()
            work()
            clock[label].append(time.perf_counter() - started)
            processor[label].append(time.process_time() - used)

    reference = PEER if PEER in contenders else PLAIN

    def ratio(seconds: dict[str, list[float]], label: str) -> float:
        # Of neighbours in time, then the median: other load on the machine cancels.
        return statistics.median(r / s for r, s in zip(seconds[reference], seconds[label], strict=True))

    return {
        "model": name,
        "texts": len(texts),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "reference": reference,
        "results": {
            label: {
                "seconds": statistics.median(clock[label]),
                "processor_seconds": statistics.median(processor[label]),
                "texts_per_second": len(texts) / statistics.median(clock[label]),
                "ratio": ratio(clock, label),
                "processor_ratio": ratio(processor, label),
                "min_cosine": float((vectors[label] * vectors[reference]).sum(axis=1).min()),
            }
            for label in contenders
        },
    }


def main() -> None:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    report = run(arguments.model, docstrings(arguments.texts), arguments.repeats)
    if arguments.json:
        print(json.dumps(report))
        return
    print(f"{report['texts']} docstrings, {report['threads']} threads, torch {report['torch']}")
    print(f"ratios and cosines to {report['reference']}")
    print(f"{'':24}{'seconds':>9}{'CPU s':>8}{'texts/s':>9}{'ratio':>7}{'CPU':>7}{'min cosine':>12}")
    for label, row in report["results"].items():
        print(
            f"{label:24}{row['seconds']:9.2f}{row['processor_seconds']:8.2f}{row['texts_per_second']:9.0f}"
            f"{row['ratio']:7.2f}{row['processor_ratio']:7.2f}{row['min_cosine']:12.6f}"
        )


if __name__ == "__main__":
    main()
