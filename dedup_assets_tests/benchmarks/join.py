"""The join against its peers: seconds, memory, recall and decisions, on the same vectors, in one run.

    python -m dedup_assets_tests.benchmarks.join --rows 50000 200000 --threshold 0.9 --peers semhash faiss

Every contender runs in a process of its own; repeats are interleaved, figures are medians and ratios are taken
between neighbours in time. Peers from PyPI live in an environment of their own, made on first use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dedup_assets_tests.benchmarks import corpus, report
from dedup_assets_tests.benchmarks.measure import FAMILIES, OURS, Job, exponent, extrapolated, peers_python, run, truth

Seconds = dict[str, dict[int, tuple[float, float]]]
"""By contender and rows: seconds on the clock, seconds of the processor."""


def compare(job: Job, names: list[str], arguments: argparse.Namespace, before: Seconds, data: str) -> dict[str, Any]:
    """All contenders on one corpus. ``before`` has the seconds of smaller sizes, and gets those of this one."""
    load = [os.getloadavg()[0]]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(arguments.repeats):
        for name in names:
            failed = any("failed" in done for done in runs[name])
            if failed or (name != OURS and repeat >= (arguments.peer_repeats or arguments.repeats)):
                continue
            runs[name].append(run(name, job, lambda: peers_python(arguments.peers_venv, _say)))
            _say(f"{name}: {runs[name][-1].get('failed') or round(runs[name][-1]['seconds'], 2)}")
    load.append(os.getloadavg()[0])
    vectors = np.load(job.vectors, mmap_mode="r")[: job.rows]
    known = None if arguments.no_recall else truth(vectors, job.threshold)
    reference = next((done["decisions"] for done in runs[OURS] if "failed" not in done), None)
    entries = []
    for name in names:
        good = [done for done in runs[name] if "failed" not in done]
        entry: dict[str, Any] = {"contender": name}
        if not good:
            entry |= {
                "failed": runs[name][-1]["failed"],
                **_guess(before.get(name, {}), before.get(OURS, {}), job.rows),
            }
            entries.append(entry)
            continue
        for key in ("seconds", "cpu_seconds", "kb_per_row", "peak_mb"):
            entry[key] = statistics.median(done[key] for done in good)
        for key, ratio in (("seconds", "ratio"), ("cpu_seconds", "cpu_ratio")):
            both = list(zip(good, (done for done in runs[OURS] if "failed" not in done), strict=False))
            entry[ratio] = statistics.median(a[key] / b[key] for a, b in both) if both else None
        middle = sorted(good, key=lambda done: done["seconds"])[len(good) // 2]
        entry |= {"stages": middle["stages"], "pairs": len(good[0]["codes"]), "kept": good[0]["kept"]}
        entry["all_seconds"] = [done["seconds"] for done in good]
        entry["load"] = [done["load"] for done in good]
        if known is not None:
            entry["recall"], entry["precision"] = known.judge(good[0]["codes"], good[0]["dense"])
        if reference is not None:
            entry["differ"] = int((good[0]["decisions"] != reference).sum())
        if len(good) > 1:
            prints = {_print_of(done) for done in good}
            entry["repeatable"] = len(prints) == 1
            entry["fingerprints"] = sorted(prints)
        before.setdefault(name, {})[job.rows] = (entry["seconds"], entry["cpu_seconds"])
        entries.append(entry)
    judged = "not judged"
    if known is not None:
        asked = "all pairs" if known.queries is None else f"{int(known.queries.sum()):,} queries"
        judged = f"{asked} against brute force"
    return {
        "rows": job.rows,
        "data": data,
        "threshold": job.threshold,
        "judged": judged,
        "load": load,
        "contenders": entries,
    }


def _print_of(done: dict[str, Any]) -> str:
    """Fingerprint of the pairs and decisions of a run."""
    return hashlib.blake2b(done["codes"].tobytes() + done["decisions"].tobytes(), digest_size=8).hexdigest()


def _guess(measured: dict[int, tuple[float, float]], ours: dict[int, tuple[float, float]], rows: int) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    # The time of ours at this size is known by now: it runs first.
    for at, (key, ratio) in enumerate((("seconds", "ratio"), ("cpu_seconds", "cpu_ratio"))):
        guess = extrapolated(list(measured), [spent[at] for spent in measured.values()], rows)
        if guess is not None:
            entry |= {key: guess[0], f"{key}_exponent": guess[1], "extrapolated": True}
            entry[ratio] = guess[0] / ours[rows][at] if rows in ours else None
    return entry


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000])
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--peers", nargs="*", default=[], choices=[*FAMILIES, *sum(FAMILIES.values(), ())])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-repeats", type=int, help="fewer repeats for the peers; as many as ours by default")
    parser.add_argument("--data", choices=["auto", "real", "generated", "dense"], default="auto",
                        help="auto: real up to 200,000 rows, generated above")  # fmt: skip
    parser.add_argument("--vectors", type=Path, help="a .npy file of float16 rows, instead of --data")
    parser.add_argument("--cache", type=Path, default=corpus.CACHE)
    parser.add_argument("--peers-venv", type=Path, default=corpus.CACHE / "peers")
    parser.add_argument("--peer-timeout", type=float, default=1800.0, help="seconds until a contender is stopped")
    parser.add_argument("--memory-gb", type=float, default=0.6 * _memory() / 1e9, help="what a contender may take")
    parser.add_argument("--semdedup-clusters", type=int, default=1000, help="NeMo Curator's default is 1,000")
    parser.add_argument("--profile", action="store_true", help="also say where the join's time goes, on one thread")
    parser.add_argument("--no-recall", action="store_true", help="times only")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args(arguments)


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def main(arguments: list[str] | None = None) -> int:
    """Run and print; the exit code is 1 where the join missed a pair or made one up."""
    options = parse(arguments)
    names = [OURS, *dict.fromkeys(name for peer in options.peers for name in FAMILIES.get(peer, (peer,)))]
    results: list[dict[str, Any]] = []
    before: Seconds = {}
    exact = True
    print(json.dumps(report.machine()))
    for rows in options.rows:
        kind = options.data if options.data != "auto" else ("real" if rows <= 200_000 else "generated")
        vectors = options.vectors or corpus.corpus(kind, rows, options.cache, _say)
        held = len(np.load(vectors, mmap_mode="r"))
        if held < rows:
            raise SystemExit(f"{vectors} holds {held} rows, {rows} were asked for")
        memory = int(options.memory_gb * 1e9)
        job = Job(vectors, rows, options.threshold, options.peer_timeout, memory, options.semdedup_clusters)
        result = compare(job, names, options, before, "real" if options.vectors else kind)
        ours = result["contenders"][0]
        exact &= (ours.get("recall", 1.0), ours.get("precision", 1.0)) == (1.0, 1.0) and "failed" not in ours
        print("\n" + report.table(result), flush=True)
        if options.profile:
            done = run(OURS, job, lambda: "", profile=True)
            result["profile"] = {key: done.get(key) for key in ("profile", "products_share", "cpu_seconds", "failed")}
            print("\n" + (done.get("failed") or report.profile_table(done, rows)), flush=True)
        results.append(result)
    growth = {}
    for name, sizes in before.items():
        if len(sizes) > 1:
            wall, processor = (exponent(list(sizes), [spent[at] for spent in sizes.values()]) for at in (0, 1))
            growth[name] = {"seconds": wall, "cpu_seconds": processor}
            print(f"\ntime exponent of {name}, {min(sizes):,} to {max(sizes):,} rows: {wall:.2f}, CPU {processor:.2f}")
    if options.json:
        content = {"machine": report.machine(), "results": results, "exponents": growth}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
