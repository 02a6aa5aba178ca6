"""K-means centroids: the current codebook, fitted with the first shard, after the corpus outgrew it, or on request.

Centroids affect the cost of a join and never its result, so a refit makes no shard stale.
"""

import hashlib
import time

import dagster as dg
import numpy as np

from dedup_assets.assets.stage import StageRun, shard_asset, stage_run
from dedup_assets.compute.kmeans import choose_cells, fit_centroids, sample_size
from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.encoder.settled import open_table, settled_dimension
from dedup_assets.resources.centroids import fit_on_gpus
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.split_assignment import Layout, lay_out_all
from dedup_assets.resources.worker_tasks import reassign_shard, rows_of_cells
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.cells import read_centroids, write_centroids
from dedup_assets.storage.ledger import Codebook
from dedup_assets.storage.locks import Lock
from dedup_assets.storage.workspace import Workspace

REFIT_GROWTH = 2.0
"""Refit when the corpus holds more than this many times the texts the codebook was fitted for. Assigning
everything again at every doubling costs, over the life of a corpus, at most one more assignment per text:
the amortised growth of an array."""

SMALL_FIT = 10_000_000
"""Sampled rows times centroids up to which a CPU fits in about a second, so that no GPU is used: up to about 450 cells,
a corpus of a few hundred thousand texts."""

FIT_ROWS = 2_000
"""Texts of a shard used to measure how well the codebook fits it: the standard error of the mean is about 0.002."""


@shard_asset(
    deps=["embeddings"],
    kinds={"torch", "cuml"},
    description="The codebook for this shard. Stale or badly trained centroids cost time, never a match.",
)
def kmeans_centroids(context: dg.AssetExecutionContext, workspace: WorkspaceResource, dask: DaskCluster) -> None:
    """Fit a codebook if there is none or the corpus outgrew it, and report how well it fits each shard."""
    with stage_run(context, workspace, dask) as run:
        embedded = run.upstream("embeddings")
        input_versions = {shard: done.input_version for shard, done in embedded.items()}
        pending = run.unfinished(input_versions)
        if not pending and not _refit_requested(run):
            return
        with run.workspace.lock(Lock.ADMISSION):
            codebook = codebook_in_force(run, dask)
        centroids = read_centroids(run.workspace.codebook(codebook))
        run.progress.total(len(pending), "shards")
        for shard in pending:
            with run.isolating(shard):
                started = time.perf_counter()
                rows = embedded[shard].stats["rows"]
                stats = {
                    "rows": rows,
                    "codebook": codebook.number,
                    "cells": codebook.cells,
                    "fitted_for_texts": codebook.corpus_texts,
                    "mean_similarity_to_centroid": _fit(run.workspace, shard, centroids),
                    **{f"codebook_{name}": value for name, value in codebook.stats.items()},
                }
                run.complete(shard, input_versions[shard], stats, time.perf_counter() - started)
                run.spent.rows += rows
            run.progress.advance(1)


def codebook_in_force(run: StageRun, dask: DaskCluster) -> Codebook:
    """The current codebook, after a fit if one is due. The caller holds the admission lock."""
    workspace = run.workspace
    settings = workspace.settings
    current = run.ledger.codebook()
    has_vectors = settled_dimension(workspace) is not None and not settings.exact_only
    texts = len(open_table(workspace)) if has_vectors else 0
    wanted = min(settings.clusters or choose_cells(texts, settings.floor), max(1, texts))
    if current is not None:
        outgrown = texts > REFIT_GROWTH * current.corpus_texts
        asked_for = settings.clusters > 0 and current.cells != wanted
        if not outgrown and not asked_for and not _refit_requested(run):
            return current
    started = time.perf_counter()
    centroids, stats = _fitted(workspace, dask, texts, wanted)
    stats["fit_seconds"] = round(time.perf_counter() - started, 3)
    digest = hashlib.blake2b(centroids.tobytes(), digest_size=4).hexdigest()
    number = 1 if current is None else current.number + 1
    codebook = Codebook(number, digest, len(centroids), texts, stats)
    write_centroids(workspace.codebook(codebook), centroids)
    if current is not None:
        _reassign_admitted(run, dask, current, codebook)
    # Only now: two shards are compared under one codebook, so every admitted shard needs its cells first.
    run.ledger.add_codebook(codebook)
    return codebook


def _refit_requested(run: StageRun) -> bool:
    """Whether a requested rebuild still waits for a fit."""
    return any(request.codebook is None for request in run.ledger.rebuilds())


def _fitted(workspace: Workspace, dask: DaskCluster, texts: int, cells: int) -> tuple[np.ndarray, dict[str, object]]:
    if texts == 0:
        # Empty shards can be admitted before any vector is known; the first text causes a refit.
        dimension = settled_dimension(workspace) or 1
        return np.eye(1, dimension, dtype=np.float32), {"sample": 0, "fitted_with": "nothing"}
    sample = open_table(workspace).sample(sample_size(texts, cells), workspace.settings.seed)
    if len(sample) * cells > SMALL_FIT and dask.resolved_device() == "cuda":
        centroids, fitted_with = dask.watching(
            lambda client: fit_on_gpus(client, sample, cells, workspace.settings.seed)
        )
    else:
        with dask.all_cores():
            centroids = fit_centroids(sample, cells, seed=workspace.settings.seed, device="cpu")
        fitted_with = "torch"
    return centroids, {"sample": len(sample), "fitted_with": fitted_with}


def _reassign_admitted(run: StageRun, dask: DaskCluster, old: Codebook, new: Codebook) -> None:
    """Assign every admitted shard with a live text to the cells of a new codebook, before it becomes current."""
    workspace = run.workspace
    centroids = str(workspace.codebook(new))
    layouts = [
        Layout(
            a.texts, (str(workspace.cells(old, a)),), centroids, workspace.settings.floor, str(workspace.cells(new, a))
        )
        for a in LiveTexts(workspace).visible
    ]
    for _ in lay_out_all(dask, layouts, reassign_shard, rows_of_cells, workspace.root):
        pass


def _fit(workspace: Workspace, shard: str, centroids: np.ndarray) -> float:
    """Mean cosine of a shard's texts to their nearest centroid, over up to `FIT_ROWS` of them."""
    if settled_dimension(workspace) is None:
        return 0.0
    vectors = open_table(workspace).first_vectors(shard, FIT_ROWS).astype(np.float32)
    return round(float((vectors @ centroids.T).max(axis=1).mean()), 4) if len(vectors) else 0.0
