"""Cluster partitions: admission to the corpus, and the shard's new texts by home cell with their ghosts.

Admission gives the shard its number in the curation order. Its cells are on disk before it is admitted,
and its matches are looked for after, so of two shards at least one sees the other.
"""

import time

import dagster as dg
import numpy as np

from dedup_assets.assets.kmeans_centroids import codebook_in_force, kmeans_centroids
from dedup_assets.assets.stage import StageRun, shard_asset, stage_run
from dedup_assets.compute.hashes import HashIndex, first_occurrences, hash_ids
from dedup_assets.errors import ShardError
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.worker_tasks import assign_shard
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.encoding import settled_dimension
from dedup_assets.storage.ledger import Admission, Codebook, Completion
from dedup_assets.storage.shards import (
    REJECTED,
    AdmittedShard,
    Records,
    corpus_index,
    read_records,
    text_keys,
)


@shard_asset(
    deps=[kmeans_centroids],
    kinds={"numpy", "dask"},
    description="The shard's place in the curation order, and its new texts by home cell with their ghosts.",
)
def cluster_partitions(context: dg.AssetExecutionContext, workspace: WorkspaceResource, dask: DaskCluster) -> None:
    """Admit shards in order: settle which texts are new, lay them out by cell, then record the admission."""
    with stage_run(context, workspace, dask) as run:
        bases = {shard: done.basis for shard, done in run.upstream("kmeans_centroids").items()}
        raw = run.upstream("raw_shards")
        pending = run.unfinished(bases)
        if not pending:
            return
        run.progress.total(sum(raw[shard].facts["records"] for shard in pending), "records")
        with run.workspace.lock("admission"):
            # Another run may have admitted some of them, or refitted, while this one waited.
            pending = run.unfinished(bases)
            codebook = codebook_in_force(run, dask)
            _admit(run, dask, codebook, {shard: raw[shard] for shard in pending})


def _admit(run: StageRun, dask: DaskCluster, codebook: Codebook, shards: dict[str, Completion]) -> None:
    """Admit shards one after the other; their cells are laid out side by side."""
    workspace = run.workspace
    admitted = run.ledger.admissions()
    texts, ids = corpus_index([workspace.admitted(a) for a in admitted])
    number = admitted[-1].number if admitted else 0
    started = time.perf_counter()
    admissions: list[Admission] = []
    facts: list[dict[str, object]] = []
    batches = []
    for shard, raw in shards.items():
        records = read_records(workspace.raw(shard, raw.basis))
        settled, taken = _settle(records, number + 1, texts, ids)
        if taken and workspace.settings.duplicate_ids == "refuse":
            example = records.ids[int(np.flatnonzero(settled.record_texts == REJECTED)[0])].as_py()
            run.fail(
                shard,
                ShardError(
                    f"Shard {shard}: {taken} ids are taken by shards admitted earlier, the first is "
                    f'{example!r}. Make ids unique, or set duplicate_ids = "quarantine" in curation.toml.'
                ),
            )
            continue
        number += 1
        admission = Admission(number, shard, raw.basis, codebook.number, len(settled.new_records), len(records) - taken)
        settled.write(workspace.admitted(admission))
        texts = texts.extended(settled.new_hashes, settled.new_keys)
        ids = ids.extended(settled.id_hashes, np.zeros(len(settled.id_hashes), np.int64))
        admissions.append(admission)
        facts.append(
            {
                "rows": len(records),
                "admission": number,
                "new_texts": admission.texts,
                "copies": admission.records - admission.texts,
                "ids_taken": taken,
                "codebook": codebook.number,
                "cells": codebook.cells,
            }
        )
        batches.append(
            (
                (str(workspace.lancedb), settled_dimension(workspace), workspace.settings.vector_dtype),
                shard,
                settled.new_hashes,
                records.rows[settled.new_records],
                str(workspace.codebook(codebook)),
                workspace.settings.floor,
                str(workspace.cells(codebook, admission)),
                dask.resolved_device(),
            )
        )
    for index, counts in dask.map(assign_shard, batches) if batches else ():
        new = max(1, counts["texts"])
        facts[index]["ghosts"] = counts["ghosts"]
        facts[index]["ghosts_per_text"] = round(counts["ghosts"] / new, 3)
        run.progress.advance(int(facts[index]["rows"]))  # type: ignore[call-overload]
    seconds = time.perf_counter() - started
    total = max(1, sum(a.records for a in admissions))
    entries = [
        (a.shard, a.fingerprint, fact, seconds * a.records / total) for a, fact in zip(admissions, facts, strict=True)
    ]
    run.ledger.admit(admissions, entries, run.stage, run.run_id)
    run.spent.rows += sum(a.records for a in admissions)


def _settle(records: Records, admission: int, texts: HashIndex, ids: HashIndex) -> tuple[AdmittedShard, int]:
    """Which text each record has, which texts are new, and how many ids were taken already."""
    id_hashes = hash_ids(records.ids.to_pylist())
    accepted = ids.find(id_hashes) < 0
    known = texts.find(records.hashes)
    keys = np.full(len(records), REJECTED, np.int64)
    keys[accepted] = known[accepted]
    # A text is named by its first accepted record here, whatever record the keeper order will prefer.
    candidates = np.flatnonzero(accepted & (known < 0))
    first = candidates[first_occurrences(records.hashes[candidates])]
    keys[candidates] = text_keys(admission, records.rows[first])
    new_records = np.unique(first)
    settled = AdmittedShard(
        record_texts=keys,
        new_records=new_records,
        new_hashes=records.hashes[new_records],
        id_hashes=id_hashes[accepted],
    )
    return settled, int(np.count_nonzero(~accepted))
