"""The deduplicated dataset: kept records in the input's own schema, duplicates, quarantine, manifest.

Files of a generation are added and never removed. A new generation is published beside the current one and then becomes
current in one step.
"""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import dagster as dg

from dedup_assets.ahead import ahead
from dedup_assets.assets.duplicate_ids import STAGE as DECIDING
from dedup_assets.assets.duplicate_ids import decide_shards
from dedup_assets.assets.stage import StageRun, shard_asset, stage_run
from dedup_assets.corpus.generation_changes import is_known, publish_changes
from dedup_assets.corpus.generations import decision_version
from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.corpus.output import (
    EarlierOutput,
    PublishedShard,
    claim_output,
    publication_version,
    publish_kept,
    publish_manifest,
    publish_shard,
    published_generation,
    remove_unlisted_files,
    switch_to,
)
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.memory import file_threads
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.ledger import Admission, Entry, Generation

STAGE = "deduplicated_dataset"


@shard_asset(
    deps=["duplicate_ids", "output_folder"],
    kinds={"parquet"},
    description="The kept records in the input's own columns, types and order, with the duplicates and the "
    "quarantine beside them and a manifest over all shards.",
)
def deduplicated_dataset(context: dg.AssetExecutionContext, workspace: WorkspaceResource, dask: DaskCluster) -> None:
    """Publish every decided shard whose published files rest on other decisions than those in force."""
    with stage_run(context, workspace, dask) as run:
        run.require("duplicate_ids")
        with run.deciding():
            run.without_failing(lambda: publish_decided(run, dask))


def publish_decided(run: StageRun, dask: DaskCluster) -> None:
    """Bring the output up to date with the generation in force. The caller holds the decision lock.

    Files first, then the manifest, the list of changes, the switch of the link that readers follow, and last the
    ledger's record: a run killed before that publishes the same files again, and the same manifest.
    """
    workspace = run.workspace
    while True:
        decide_shards(run, dask)
        generation = run.ledger.generation()
        if generation is None:
            return  # every shard of this run was retracted before anything was decided
        decided = run.ledger.completions(DECIDING)
        published = run.ledger.completions(STAGE)
        # Read last: it contains every decided shard that was not retracted since. A retracted shard may hold keepers:
        # all is decided again before anything is published without it. Later retractions are for the next decision.
        living = LiveTexts(workspace)
        if living.retractions == generation.retractions:
            break
    raw = run.ledger.versions("raw_shards")
    # Not only the shards of this run: a removed record names a keeper, which may be in any shard decided before, and is
    # never published without it.
    decisions = {shard: done.input_version for shard, done in decided.items()}
    targets = [a for a in living.live if decisions.get(a.shard) == decision_version(a, generation)]
    input_versions = {a.shard: publication_version(workspace, decisions[a.shard]) for a in targets}
    pending = [
        a for a in targets if a.shard not in published or published[a.shard].input_version != input_versions[a.shard]
    ]
    claim_output(workspace)
    before = published_generation(workspace)
    if len(pending) == len(targets):  # this generation is published here for the first time
        remove_unlisted_files(workspace, generation, [a.shard for a in targets])
    earlier = EarlierOutput(workspace, generation)
    run.progress.total(sum(a.records for a in pending), "records")
    stats = {a.shard: published[a.shard].stats for a in targets if a not in pending}
    entries: list[Entry] = []
    started = time.perf_counter()
    keep = partial(publish_kept, workspace, generation, earlier)
    with ahead(keep, pending, file_threads(workspace.settings)) as writing:
        for a, kept_file in writing:
            read = raw[a.shard, a.fingerprint].stats
            counted = read["rows"], read["quarantined_by_reason"]
            with run.attributing_to(a.shard):
                result = publish_shard(workspace, a, generation, living, earlier, *counted, kept_file())
            stats[a.shard] = _stats(run, a, generation, result)
            # Several are written concurrently: each is charged the time since the previous one finished.
            started, before_it = time.perf_counter(), started
            entries.append((a.shard, input_versions[a.shard], stats[a.shard], started - before_it))
            run.spent.rows += result.rows
            run.progress.advance(a.records)
    sources = {a.shard: _source_name(raw[a.shard, a.fingerprint].stats) for a in targets}
    publish_manifest(workspace, generation, [(a, sources[a.shard], stats[a.shard]) for a in targets])
    if before is not None and before != generation.number and is_known(workspace, before):
        publish_changes(workspace, before, generation, targets)
    switch_to(workspace, generation)
    run.ledger.complete(STAGE, entries, run.run_id)


def _source_name(read: Mapping[str, Any]) -> str:
    """The name of a shard's file in its source; readings of earlier versions know the last part of it."""
    return read.get("source_name") or PurePosixPath(read["source_file"]).name


def _stats(run: StageRun, a: Admission, generation: Generation, result: PublishedShard) -> dict[str, Any]:
    folder = run.workspace.output_generation(generation.number)
    files = {f"{part}_file": str(folder / part / f"{a.shard}.parquet") for part in result.files}
    return {
        "rows": result.rows,
        "kept": result.kept,
        "reference": result.reference,
        "removed_exact": result.removed_exact,
        "removed_semantic": result.removed_semantic,
        "quarantined": result.quarantined,
        "quarantined_by_reason": result.quarantined_by_reason,
        "duplicate_ratio": round(result.removed / result.rows, 4) if result.rows else 0.0,
        "admission": a.number,
        "generation": generation.number,
        "checksums": result.files,
        **files,
    }
