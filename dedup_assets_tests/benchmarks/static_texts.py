"""Texts with a static model: `deduplicate`, and `dedup-assets curate` between Parquet files, beside SemHash in memory.

    python -m dedup_assets_tests.benchmarks.static_texts DATA/*/data.parquet --rows 100000

Files are Parquet or JSON lines (.gz) with a column `text`. Where they hold too few texts, they are repeated with noise:
of each a twentieth to six tenths of the words are others. Each contender runs in a process of its own, with the same
model; repeats are interleaved. Its processor time is counted from texts to decisions, with libraries loaded; for
`curate` that of the whole command, from its start, with everything that it writes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

OURS, CURATE, SEMHASH = "deduplicate", "curate", "semhash"
WARMING = 2_500


def noisy(texts: list[str], rows: int, seed: int = 0) -> list[str]:
    """So many distinct texts: the given ones, then repeated with other words in them."""
    found = dict.fromkeys(texts)
    words = sorted({word for text in texts for word in text.split()})
    rng = np.random.default_rng(seed)
    while len(found) < rows:
        for text in texts:
            own = np.array(text.split(), dtype=object)
            changed = rng.random(len(own)) < rng.uniform(0.05, 0.6)
            own[changed] = [words[at] for at in rng.integers(0, len(words), int(changed.sum()))]
            found[" ".join(own)] = None
            if len(found) >= rows:
                break
    return list(found)[:rows]


def _ours(texts: list[str], model: str, threshold: float) -> tuple[list[int], Any]:
    import dedup_assets as da

    result = da.deduplicate([{"id": at, "text": text} for at, text in enumerate(texts)], model=model,
                            threshold=threshold, progress=False)  # fmt: skip
    return [record["id"] for record in result.selected], result


def _semhash(texts: list[str], model: Any, threshold: float) -> tuple[list[int], Any]:
    from semhash import SemHash

    selected = set(SemHash.from_records(texts, model=model).self_deduplicate(threshold=threshold).selected)
    return [at for at, text in enumerate(texts) if text in selected], None


def job(name: str, file: str, model: str, threshold: float) -> None:
    """Run one contender in this process; the report is the last line."""
    texts = json.loads(Path(file).read_text())
    call: Any = _ours
    loaded: Any = model
    if name == SEMHASH:
        from model2vec import StaticModel

        call, loaded = _semhash, StaticModel.from_pretrained(model)
    call(texts[:WARMING], loaded, threshold)
    clock, used = time.perf_counter(), time.process_time()
    kept, _ = call(texts, loaded, threshold)
    spent = {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - used}
    print(json.dumps({**spent, "kept": kept}))


def curated(texts: list[str], model: str, threshold: float, folder: Path) -> dict[str, Any]:
    """The command, as a process: seconds, processor seconds, and who is kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    pq.write_table(pa.table({"id": list(map(str, range(len(texts)))), "text": texts}), folder / "texts.parquet")
    command = "from dedup_assets.cli import run; run()"
    given = ["curate", str(folder / "texts.parquet"), "--workspace", str(folder / "ws"), "--model", model]
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", command, *given, "--threshold", str(threshold)], check=True, capture_output=True
    )
    seconds, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    kept = pq.read_table(folder / "ws" / "output" / "deduplicated", columns=["id"])["id"].to_pylist()
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": spent, "kept": list(map(int, kept))}


def recall(texts: list[str], model: str, threshold: float) -> float:
    """Of all pairs that a float64 product finds for 2,000 texts (for each, where there are few), the share that the
    join of `deduplicate` finds."""
    import dedup_assets as da
    from dedup_assets_tests.benchmarks import peers
    from dedup_assets_tests.benchmarks.measure import truth

    vectors = _ours(texts, model, threshold)[1]._compared.vectors
    pairs = da.find_matches(vectors, threshold=threshold, progress=False)
    found = np.unique(peers.codes(np.column_stack([pairs[name].to_numpy() for name in ("a", "b")])))
    return truth(vectors, threshold).judge(found)[0]


def main(arguments: list[str] | None = None) -> int:
    """Run and print a table; the exit code is 1 where `curate` and `deduplicate` keep different records."""
    from dedup_assets.encoder.distilled import require_distilled
    from dedup_assets.encoder.models import locate_model
    from dedup_assets_tests.benchmarks import corpus
    from dedup_assets_tests.benchmarks.encoder import docstrings
    from dedup_assets_tests.benchmarks.measure import peers_python, printed_by
    from dedup_assets_tests.benchmarks.static import texts_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="docstrings of the standard library where none is given")
    parser.add_argument("--rows", type=int, default=24_000)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="static:sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--alone", action="store_true", help="without SemHash")
    parser.add_argument("--peers-venv", type=Path, default=corpus.CACHE / "peers")
    options = parser.parse_args(arguments)
    location = locate_model(options.model)
    if location.source:
        require_distilled(options.model, Path(location.folder), Path(location.source))
    texts = noisy(texts_of(options.files) or docstrings(5000), options.rows)
    names = [OURS, CURATE] if options.alone else [OURS, CURATE, SEMHASH]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts))
        for turn in range(options.repeats):
            for name in names:
                if name == CURATE:
                    target = Path(folder) / f"curated-{turn}"
                    runs[name].append(curated(texts, options.model, options.threshold, target))
                    continue
                python = sys.executable if name == OURS else peers_python(options.peers_venv, print)
                where = options.model if name == OURS else location.folder
                command = [python, __file__, "--job", name, str(file), where, str(options.threshold)]
                runs[name].append(printed_by(command))
    wanted = set(runs[OURS][0]["kept"])
    print(f"{len(texts):,} texts of {sum(map(len, texts)) / len(texts):.0f} characters, {options.model}\n")
    print("| contender | seconds | CPU s | CPU × deduplicate | CPU × curate | kept | decided otherwise |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, done in runs.items():
        figures = [f"{statistics.median(one[key] for one in done):.2f}" for key in ("seconds", "cpu_seconds")]
        for other in (OURS, CURATE):
            pairs = zip(done, runs[other], strict=True)
            figures.append(f"{statistics.median(a['cpu_seconds'] / b['cpu_seconds'] for a, b in pairs):.2f}")
        kept = set(done[0]["kept"])
        print(f"| {name} | {' | '.join(figures)} | {len(kept):,} | {len(kept ^ wanted):,} |")
    print(f"\nrecall of deduplicate: {recall(texts, options.model, options.threshold):.4f}")
    return int(set(runs[CURATE][0]["kept"]) != wanted)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        job(sys.argv[2], sys.argv[3], sys.argv[4], float(sys.argv[5]))
    else:
        sys.exit(main())
