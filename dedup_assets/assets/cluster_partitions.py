"""Cluster partitions: admission to the corpus, and the shard's new texts by home cell with their ghosts.

Admission gives the shard its number in the curation order. Its cells are on disk before it is admitted, and its matches
are computed afterwards. So of two concurrent shards, at least one is compared with the other.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg
import numpy as np

from dedup_assets.assets.failures import affects_all_shards
from dedup_assets.assets.kmeans_centroids import codebook_in_force
from dedup_assets.assets.stage import StageRun, shard_asset, stage_run
from dedup_assets.compute.hashes import HashIndex, first_occurrences, hash_ids
from dedup_assets.corpus.live_texts import LiveTexts, corpus_index
from dedup_assets.encoder.settled import settled_dimension
from dedup_assets.errors import ShardError
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.split_assignment import Layout, lay_out_all
from dedup_assets.resources.worker_tasks import assign_shard, rows_of_shard
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.ledger import Admission, Codebook, Completion
from dedup_assets.storage.locks import Lock
from dedup_assets.storage.shards import REJECTED, RETRACTED_ID, AdmittedShard, Records, read_records, text_keys


@shard_asset(
    deps=["kmeans_centroids"],
    kinds={"numpy", "dask"},
    description="The shard's position in the curation order, and its new texts by home cell with their ghosts.",
)
def cluster_partitions(context: dg.AssetExecutionContext, workspace: WorkspaceResource, dask: DaskCluster) -> None:
    """Admit shards in order: find their new texts, order these by cell, then record the admission."""
    with stage_run(context, workspace, dask) as run:
        input_versions = {shard: done.input_version for shard, done in run.upstream("kmeans_centroids").items()}
        readings = run.ledger.versions("raw_shards")  # a file may have been read again since and not be embedded yet
        raw = {shard: readings[shard, input_version] for shard, input_version in input_versions.items()}
        waiting = set(_unadmitted(run, input_versions))
        run.ledger.recover(run.stage, set(run.shards) - waiting)
        if not waiting:
            return
        run.progress.total(sum(raw[shard].stats["records"] for shard in waiting), "records")
        with run.workspace.lock(Lock.ADMISSION):
            # Another run may have admitted, refitted or retracted while this one waited.
            pending = _unadmitted(run, input_versions)
            codebook = codebook_in_force(run, dask)
            try:
                _admit(run, dask, codebook, {shard: raw[shard] for shard in pending})
            except Exception as problem:
                if affects_all_shards(problem):
                    raise
                for shard in pending:  # the failure belongs to one shard: process each alone, in the same order
                    with run.isolating(shard):
                        _admit(run, dask, codebook, {shard: raw[shard]})


def _unadmitted(run: StageRun, contents: Mapping[str, str]) -> list[str]:
    """Shards of this run that are neither retracted nor admitted with the content that was read or a newer one."""
    live = {a.shard: a.fingerprint for a in run.ledger.live_admissions()}
    latest = {shard: done.input_version for shard, done in run.ledger.completions("raw_shards").items()}
    out = {shard.key for shard in run.ledger.shards() if shard.retracted is not None}
    return [
        shard
        for shard in run.shards
        if shard not in out and live.get(shard, "") not in (contents[shard], latest.get(shard))
    ]


@dataclass(frozen=True)
class _Candidate:
    """A shard about to be admitted."""

    admission: Admission
    settled: AdmittedShard
    rows: np.ndarray
    stats: dict[str, object]


def _admit(run: StageRun, dask: DaskCluster, codebook: Codebook, shards: dict[str, Completion]) -> None:
    """Admit shards in sequence; their cells are computed in parallel."""
    workspace = run.workspace
    started = time.perf_counter()
    candidates = _candidates(run, codebook, shards)
    layouts = []
    for c in candidates:
        # Leftovers of a killed run under these names may depend on texts that were retracted since.
        for folder in (workspace.admitted(c.admission), workspace.cells(codebook, c.admission)):
            shutil.rmtree(folder, ignore_errors=True)
        c.settled.write(workspace.admitted(c.admission))
        table = (str(workspace.lancedb), settled_dimension(workspace), workspace.settings.vector_dtype)
        layouts.append(
            Layout(
                len(c.rows),
                (table, c.admission.shard, c.settled.new_hashes, c.rows),
                str(workspace.codebook(codebook)),
                workspace.settings.floor,
                str(workspace.cells(codebook, c.admission)),
            )
        )
    admissions = [c.admission for c in candidates]
    stats = [c.stats for c in candidates]
    for index, counts in lay_out_all(dask, layouts, assign_shard, rows_of_shard, workspace.root):
        new = max(1, counts["texts"])
        stats[index]["ghosts"] = counts["ghosts"]
        stats[index]["ghosts_per_text"] = round(counts["ghosts"] / new, 3)
        run.progress.advance(int(stats[index]["rows"]))  # type: ignore[call-overload]
    seconds = time.perf_counter() - started
    total = max(1, sum(a.records for a in admissions))
    entries = [
        (a.shard, a.input_version, fact, seconds * a.records / total) for a, fact in zip(admissions, stats, strict=True)
    ]
    run.ledger.admit(admissions, entries, run.stage, run.run_id)
    run.spent.rows += sum(a.records for a in admissions)


def _candidates(run: StageRun, codebook: Codebook, shards: dict[str, Completion]) -> list[_Candidate]:
    """Determine the new texts of each shard, in order. A refused shard is recorded as failed and left out."""
    workspace = run.workspace
    # New content of a shard is compared with the corpus without the shard's old content.
    living = LiveTexts(workspace, without=shards)
    texts, ids, retracted = corpus_index(workspace, living)
    number = living.all[-1].number if living.all else 0
    candidates: list[_Candidate] = []
    for shard, raw in shards.items():
        records = read_records(workspace.raw(shard, raw.input_version))
        settled = _settle(records, number + 1, texts, ids, retracted)
        taken = int(np.count_nonzero(settled.record_texts == REJECTED))
        if taken and workspace.settings.duplicate_ids == "refuse":
            example = records.ids[int(np.flatnonzero(settled.record_texts == REJECTED)[0])].as_py()
            run.fail(
                shard,
                ShardError(
                    f"Shard {shard}: {taken} ids are taken by shards admitted earlier, the first is "
                    f'{example!r}. Make ids unique, or set duplicate_ids = "quarantine" in curation.toml.'
                ),
            )
            if any(a.shard == shard for a in living.all if a.retracted is None):
                # Its old content stays in the corpus, so the other shards must be compared with it.
                return _candidates(run, codebook, {key: done for key, done in shards.items() if key != shard})
            continue
        number += 1
        gone = int(np.count_nonzero(settled.record_texts == RETRACTED_ID))
        accepted = len(records) - taken - gone
        admission = Admission(number, shard, raw.input_version, codebook.number, len(settled.new_records), accepted)
        texts = texts.extended(settled.new_hashes, settled.new_keys)
        ids = ids.extended(settled.id_hashes, np.zeros(len(settled.id_hashes), np.int64))
        stats: dict[str, object] = {
            "rows": len(records),
            "admission": number,
            "new_texts": admission.texts,
            "copies": admission.records - admission.texts,
            "ids_taken": taken,
            "ids_retracted": gone,
            "codebook": codebook.number,
            "cells": codebook.cells,
        }
        candidates.append(_Candidate(admission, settled, records.rows[settled.new_records], stats))
    return candidates


def _settle(records: Records, admission: int, texts: HashIndex, ids: HashIndex, retracted: HashIndex) -> AdmittedShard:
    """Find the text of each record, and the new texts."""
    id_hashes = hash_ids(records.ids.to_pylist())
    gone = retracted.find(id_hashes) >= 0
    accepted = (ids.find(id_hashes) < 0) & ~gone
    known = texts.find(records.hashes)
    keys = np.where(gone, np.int64(RETRACTED_ID), np.int64(REJECTED))
    keys[accepted] = known[accepted]
    # A text gets the key of its first accepted record, whichever record the keeper order prefers.
    candidates = np.flatnonzero(accepted & (known < 0))
    first = candidates[first_occurrences(records.hashes[candidates])]
    keys[candidates] = text_keys(admission, records.rows[first])
    new_records = np.unique(first)
    return AdmittedShard(
        record_texts=keys,
        new_records=new_records,
        new_hashes=records.hashes[new_records],
        id_hashes=id_hashes[accepted],
    )
