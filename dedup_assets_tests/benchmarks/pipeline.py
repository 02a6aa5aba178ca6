"""The pipeline with the vectors given: seconds by stage, what orchestration adds, memory, beside the bare join.

    python -m dedup_assets_tests.benchmarks.pipeline --sizes 20x1000 100x1000 300x1000 1x200000 --vectors FILE.npy

A size is SHARDSxROWS. Each runs as one call of `curate` in a process of its own; the bare join is `ours`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dedup_assets_tests.benchmarks import corpus, report
from dedup_assets_tests.benchmarks.measure import OURS, Job, run
from dedup_assets_tests.benchmarks.peers import status_kb

JOINING = ("kmeans_centroids", "cluster_partitions", "pairwise_similarities", "duplicate_ids")
"""The stages that together do what the bare join does: fit, assignment with ghosts, pairs, decisions."""

COLUMNS = (
    ("shards", "{:,}"),
    ("rows", "{:,}"),
    ("wall", "{:.2f}"),
    ("CPU", "{:.2f}"),
    ("stages", "{:.2f}"),
    ("overhead", "{:.2f}"),
    ("pairwise", "{:.2f}"),
    ("bare pairs", "{:.2f}"),
    ("×", "{:.2f}"),
    ("join CPU", "{:.2f}"),
    ("bare CPU", "{:.2f}"),
    ("CPU ×", "{:.2f}"),
    ("peak MB", "{:,.0f}"),
    ("pairs", "{:,}"),
)


def write_shards(vectors: Path, shards: int, rows: int, folder: Path) -> None:
    """Parquet files of so many rows: an id, a text that nothing else has, and the vector."""
    given = np.load(vectors, mmap_mode="r")
    if len(given) < shards * rows:
        raise SystemExit(f"{vectors} holds {len(given)} rows, {shards} shards of {rows} were asked for")
    for shard in range(shards):
        part = np.asarray(given[shard * rows : (shard + 1) * rows])
        numbers = range(shard * rows, (shard + 1) * rows)
        table = pa.table(
            {
                "id": [f"r{number}" for number in numbers],
                "text": [f"record number {number}" for number in numbers],
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1]),
            }
        )
        pq.write_table(table, folder / f"shard-{shard:05}.parquet")


class ProcessorTime:
    """Listens to the stages: processor seconds of this process, all threads, by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def stage_started(self, stage: str) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) - time.process_time()

    def stage_finished(self, stage: str) -> None:
        self.seconds[stage] += time.process_time()

    def stage_total(self, stage: str, total: int, unit: str) -> None:
        """Not of interest."""

    def stage_advanced(self, stage: str, amount: int) -> None:
        """Not of interest."""


def curate_once(order: dict[str, Any]) -> dict[str, Any]:
    """One curation from files to published output; run in a process that does nothing else."""
    import dedup_assets as da

    processor = ProcessorTime()
    started, used = time.perf_counter(), time.process_time()
    done = da.curate(
        order["shards"],
        workspace=order["workspace"],
        embedding_column="vector",
        floor=order["threshold"],
        threshold=order["threshold"],
        listener=processor,
        **order["options"],
    )
    wall, cpu = time.perf_counter() - started, time.process_time() - used
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    stages = {stage: spent["seconds"] for stage, spent in done.summary["stages"].items()}
    return {
        "seconds": wall,
        "cpu_seconds": cpu + children.ru_utime + children.ru_stime,
        "stages": stages,
        "stages_cpu": processor.seconds,
        # With what `curate` imports before its own clock starts.
        "overhead_seconds": wall - sum(stages.values()),
        "peak_mb": status_kb("VmHWM") / 1024,
        "pairs": len(done.pairs.to_arrow(["id_a"])),
        "kept": done.summary["kept"],
    }


def measure(size: tuple[int, int], vectors: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One size: the pipeline, and beside it the bare join of the same rows unless it was left out."""
    shards, rows = size
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        inputs = Path(folder) / "in"
        inputs.mkdir()
        write_shards(vectors, shards, rows, inputs)
        order = {
            "shards": str(inputs),
            "workspace": str(Path(folder) / "ws"),
            "threshold": options.threshold,
            "options": dict(item.split("=", 1) for item in options.set),
        }
        code = "import json, sys; from dedup_assets_tests.benchmarks import pipeline; "
        code += "print(json.dumps(pipeline.curate_once(json.loads(sys.argv[1]))))"
        done = subprocess.run([sys.executable, "-c", code, json.dumps(order)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"curate failed for {shards} shards of {rows} rows:\n{done.stderr[-2000:]}")
    result = {"shards": shards, "rows": shards * rows, **json.loads(done.stdout.strip().splitlines()[-1])}
    if not options.no_bare:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        bare = run(OURS, Job(vectors, shards * rows, options.threshold, 3600.0, memory), lambda: "")
        if "failed" in bare:
            raise SystemExit(f"the bare join of {shards * rows} rows failed: {bare['failed']}")
        result["bare"] = {name: bare[name] for name in ("seconds", "cpu_seconds", "stages")}
        result["bare"]["pairs"] = len(bare["codes"])
        # The pipeline names cells of near-copies instead of listing them; nothing else may differ.
        result["same_pairs"] = result["bare"]["pairs"] == result["pairs"]
    return result


def line(result: dict[str, Any]) -> dict[str, Any]:
    """What the table shows of a result."""
    shown = {
        "shards": result["shards"],
        "rows": result["rows"],
        "wall": result["seconds"],
        "CPU": result["cpu_seconds"],
        "stages": sum(result["stages"].values()),
        "overhead": result["overhead_seconds"],
        "pairwise": result["stages"]["pairwise_similarities"],
        "join CPU": sum(result["stages_cpu"].get(stage, 0.0) for stage in JOINING),
        "peak MB": result["peak_mb"],
        "pairs": result["pairs"],
    }
    if "bare" in result:
        pairs, processor = result["bare"]["stages"]["pairs"], result["bare"]["cpu_seconds"]
        shown |= {"bare pairs": pairs, "×": shown["pairwise"] / pairs}
        shown |= {"bare CPU": processor, "CPU ×": shown["join CPU"] / processor}
    return shown


def table(results: list[dict[str, Any]]) -> str:
    """All sizes as Markdown, then the stages of each."""
    rows = [[title for title, _ in COLUMNS], ["---"] * len(COLUMNS)]
    for result in results:
        shown = line(result)
        rows.append([form.format(shown[title]) if title in shown else "" for title, form in COLUMNS])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.append("")
    for result in results:
        name = f"{result['shards']} shards, {result['rows']:,} rows"
        for kind, seconds in (("seconds", result["stages"]), ("CPU s", result["stages_cpu"])):
            lines.append(f"{name}, {kind}: " + ", ".join(f"{stage} {spent:.2f}" for stage, spent in seconds.items()))
    return "\n".join(lines)


def per_further_shard(results: list[dict[str, Any]]) -> dict[str, float]:
    """What a further shard adds to wall and overhead, between sizes with shards of one length."""
    found = {}
    lengths = {result["rows"] // result["shards"] for result in results}
    for length in sorted(lengths):
        alike = sorted((r for r in results if r["rows"] // r["shards"] == length), key=lambda r: r["shards"])
        for few, many in itertools.pairwise(alike):
            more = many["shards"] - few["shards"]
            if more:
                name = f"{few['shards']} to {many['shards']} shards of {length}"
                found[f"{name}, overhead"] = (many["overhead_seconds"] - few["overhead_seconds"]) / more
                found[f"{name}, all"] = (many["seconds"] - few["seconds"]) / more
    return found


def _size(text: str) -> tuple[int, int]:
    shards, _, rows = text.partition("x")
    if not (shards.isdecimal() and rows.isdecimal() and int(shards) and int(rows)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected SHARDSxROWS, such as 20x1000")
    return int(shards), int(rows)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=_size, nargs="+", default=[(20, 1000)], metavar="SHARDSxROWS")
    parser.add_argument("--threshold", type=float, default=0.9, help="threshold and floor")
    parser.add_argument("--vectors", type=Path, help="a .npy file of float16 rows, instead of generated ones")
    parser.add_argument("--cache", type=Path, default=corpus.CACHE)
    parser.add_argument("--scratch", type=Path, help="where shards and workspaces are made and removed")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=TEXT", help="settings, such as memory_limit=1GB")
    parser.add_argument("--no-bare", action="store_true", help="leave the bare join out")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run and print; the exit code is 1 where the pipeline and the bare join list different numbers of pairs."""
    options = parse(arguments)
    print(json.dumps(report.machine()))
    results = []
    for shards, rows in options.sizes:
        vectors = options.vectors or corpus.corpus("generated", shards * rows, options.cache, _say)
        results.append(measure((shards, rows), vectors, options))
        _say(f"{shards} x {rows}: {results[-1]['seconds']:.1f} s, overhead {results[-1]['overhead_seconds']:.2f} s")
    further = per_further_shard(results)
    print("\n" + table(results))
    for name, seconds in further.items():
        print(f"per further shard, {name}: {seconds:.3f} s")
    if options.json:
        content = {"machine": report.machine(), "results": results, "per_further_shard": further}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if all(result.get("same_pairs", True) for result in results) else 1


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
