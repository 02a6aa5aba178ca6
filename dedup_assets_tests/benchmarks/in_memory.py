"""`deduplicate` on texts against SemHash, both with the same encoder: processor time, and who was decided otherwise.

    python -m dedup_assets_tests.benchmarks.in_memory --rows 24000 --threshold 0.9 --repeats 3

Texts are docstring paragraphs of installed packages, each repeated with other words where there are too few. The
encoder is a table of word vectors, as a static model is. Each contender runs in a process of its own, which imports and
compiles before the clock starts; repeats are interleaved, and figures are medians.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DIMENSION = 256
OURS, SEMHASH = "deduplicate", "semhash"


class WordVectors:
    """The mean of a vector for each word; the vector follows from the word alone. Counts its own seconds."""

    def __init__(self) -> None:
        self.known: dict[str, np.ndarray] = {}
        self.seconds = 0.0

    def encode(self, texts: list[str], **_: Any) -> np.ndarray:
        """Vectors (n, `DIMENSION`) float32."""
        started = time.process_time()
        out = np.empty((len(texts), DIMENSION), np.float32)
        for row, text in enumerate(texts):
            out[row] = np.mean([self._vector(word) for word in text.split() or [""]], axis=0)
        self.seconds += time.process_time() - started
        return out

    def _vector(self, word: str) -> np.ndarray:
        if word not in self.known:
            seed = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")
            self.known[word] = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
        return self.known[word]


def ours(texts: list[str], threshold: float, model: WordVectors) -> list[str]:
    """The texts that stay."""
    import dedup_assets as da

    return da.deduplicate(texts, model=model, threshold=threshold, progress=False).selected


def semhash(texts: list[str], threshold: float, model: WordVectors) -> list[str]:
    """The texts that stay."""
    from semhash import SemHash

    return SemHash.from_records(texts, model=model).self_deduplicate(threshold=threshold).selected


CONTENDERS: dict[str, Callable[[list[str], float, WordVectors], list[str]]] = {OURS: ours, SEMHASH: semhash}


def job(name: str, file: str, threshold: float) -> None:
    """Run one contender; the report is the last line."""
    texts = json.loads(Path(file).read_text())
    CONTENDERS[name](texts[:2_500], threshold, WordVectors())
    model = WordVectors()
    clock, used = time.perf_counter(), time.process_time()
    kept = set(CONTENDERS[name](texts, threshold, model))
    report = {
        "seconds": time.perf_counter() - clock,
        "cpu_seconds": time.process_time() - used,
        "encoder_seconds": model.seconds,
        "kept": [text in kept for text in texts],
    }
    print(json.dumps(report))


def gathered(rows: int) -> list[str]:
    """Distinct texts; where there are too few, again with other words at the end."""
    from dedup_assets_tests.benchmarks.exactness import paragraphs

    found = [text[:400] for text in paragraphs(rows)]
    texts = dict.fromkeys(found)
    turn = 0
    while len(texts) < rows:
        turn += 1
        texts |= dict.fromkeys(f"{text} {turn}-th {hash_word(text, turn)}" for text in found)
    return list(texts)[:rows]


def hash_word(text: str, turn: int) -> str:
    """A word that follows from a text and a number."""
    return hashlib.blake2b(f"{turn} {text}".encode("utf-8", "replace"), digest_size=4).hexdigest()


def by_every_pair(texts: list[str], threshold: float) -> np.ndarray:
    """Who stays when every pair is compared, in float64, on the vectors as they are stored: bool (n,)."""
    from dedup_assets.compute.similarity import unit_rows
    from dedup_assets_tests.benchmarks.exactness import brute_force
    from dedup_assets_tests.benchmarks.peers import greedy

    vectors = unit_rows(WordVectors().encode(texts)).astype(np.float16)
    return greedy(np.column_stack(brute_force(vectors, threshold)), len(texts))


def main(arguments: list[str] | None = None) -> int:
    """Run and print a table; the exit code is 1 where this package decided otherwise than comparing every pair."""
    from dedup_assets_tests.benchmarks import corpus
    from dedup_assets_tests.benchmarks.measure import peers_python, printed_by

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=24_000)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without SemHash")
    parser.add_argument("--peers-venv", type=Path, default=corpus.CACHE / "peers")
    options = parser.parse_args(arguments)
    names = [OURS] if options.alone else [OURS, SEMHASH]
    texts = gathered(options.rows)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts))
        for _ in range(options.repeats):
            for name in names:
                python = sys.executable if name == OURS else peers_python(options.peers_venv, print)
                command = [python, __file__, "--job", name, str(file), str(options.threshold)]
                runs[name].append(printed_by(command))
    wanted = by_every_pair(texts, options.threshold)
    first = runs[OURS][0]
    print("| contender | seconds | CPU s | of which encoder | CPU × | kept | decided otherwise than by every pair |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, done in runs.items():
        spent = [statistics.median(one[key] for one in done) for key in ("seconds", "cpu_seconds", "encoder_seconds")]
        ratio = statistics.median(
            one["cpu_seconds"] / other["cpu_seconds"] for one, other in zip(done, runs[OURS], strict=True)
        )
        kept = np.array(done[0]["kept"])
        figures = [
            *(f"{value:.2f}" for value in spent),
            f"{ratio:.2f}",
            f"{kept.sum():,}",
            f"{(kept != wanted).sum():,}",
        ]
        print(f"| {name} | {' | '.join(figures)} |")
    return int((np.array(first["kept"]) != wanted).any())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        job(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    else:
        sys.exit(main())
