"""The deduplicated dataset: kept records in the input's own schema, duplicates, quarantine, manifest."""

import time
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import dagster as dg

from dedup_assets.assets.duplicate_ids import STAGE as DECIDING
from dedup_assets.assets.duplicate_ids import duplicate_ids
from dedup_assets.assets.stage import StageRun, shard_asset, stage_run
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.ledger import Admission, Entry, Generation
from dedup_assets.storage.output import (
    PublishedShard,
    publication_basis,
    publish_changes,
    publish_manifest,
    publish_shard,
)

STAGE = "deduplicated_dataset"


@shard_asset(
    deps=[duplicate_ids],
    kinds={"parquet"},
    description="The kept records in the input's own columns, types and order, with the duplicates and the "
    "quarantine beside them and a manifest over all shards.",
)
def deduplicated_dataset(context: dg.AssetExecutionContext, workspace: WorkspaceResource) -> None:
    """Publish every decided shard whose published files rest on other decisions than those in force."""
    with stage_run(context, workspace) as run:
        run.upstream("duplicate_ids")
        with run.workspace.lock("decisions"):
            publish_decided(run)


def publish_decided(run: StageRun) -> None:
    """Bring the output up to date with the generation in force. The caller holds the decision lock."""
    workspace = run.workspace
    generation = run.ledger.generation()
    assert generation is not None, "duplicate_ids makes a generation before it completes"
    decided = run.ledger.completions(DECIDING)
    raw = run.ledger.completions("raw_shards")
    published = run.ledger.completions(STAGE)
    wanted = set(run.shards)
    # Shards of this run, and those that are published under decisions no longer in force.
    targets = [a for a in run.ledger.admissions() if a.shard in decided and (a.shard in wanted or a.shard in published)]
    basis = {a.shard: publication_basis(workspace, decided[a.shard].basis) for a in targets}
    pending = [a for a in targets if a.shard not in published or published[a.shard].basis != basis[a.shard]]
    run.progress.total(sum(a.records for a in pending), "records")
    facts = {a.shard: published[a.shard].facts for a in targets if a not in pending}
    entries: list[Entry] = []
    for a in pending:
        started = time.perf_counter()
        read = raw[a.shard].facts
        result = publish_shard(workspace, a, generation, read["rows"], read["quarantined_by_reason"])
        facts[a.shard] = _facts(run, a, generation, result)
        entries.append((a.shard, basis[a.shard], facts[a.shard], time.perf_counter() - started))
        run.spent.rows += result.rows
        run.progress.advance(a.records)
    if pending and generation.number > 1:
        _publish_changes(run, generation, targets)
    sources = {a.shard: PurePosixPath(raw[a.shard].facts["source_file"]).name for a in targets}
    publish_manifest(workspace, generation, [(a, sources[a.shard], _manifest_entry(facts[a.shard])) for a in targets])
    # Last of all: a run killed before this publishes the same files and the same manifest again.
    run.ledger.complete(STAGE, entries, run.run_id)


def _publish_changes(run: StageRun, generation: Generation, targets: list[Admission]) -> None:
    """List what this generation changed of the one before, for the shards that both decided."""
    before = generation.number - 1
    both = [
        a.shard
        for a in targets
        if all(run.workspace.decisions(number, "records", a.shard).is_file() for number in (before, generation.number))
    ]
    publish_changes(run.workspace, before, generation.number, both)


def _facts(run: StageRun, a: Admission, generation: Generation, result: PublishedShard) -> dict[str, Any]:
    output = run.workspace.output
    return {
        "rows": result.rows,
        "kept": result.kept,
        "removed_exact": result.removed_exact,
        "removed_semantic": result.removed_semantic,
        "quarantined": result.quarantined,
        "quarantined_by_reason": result.quarantined_by_reason,
        "duplicate_ratio": round(result.removed / result.rows, 4) if result.rows else 0.0,
        "admission": a.number,
        "generation": generation.number,
        "checksums": result.files,
        "deduplicated_file": str(output / "deduplicated" / f"{a.shard}.parquet"),
        "duplicates_file": str(output / "duplicates" / f"{a.shard}.parquet"),
        "quarantine_file": str(output / "quarantine" / f"{a.shard}.parquet"),
    }


def _manifest_entry(facts: Mapping[str, Any]) -> dict[str, Any]:
    names = ("kept", "removed_exact", "removed_semantic", "quarantined", "quarantined_by_reason", "checksums")
    return {"rows_in": facts["rows"], **{name: facts[name] for name in names}}
