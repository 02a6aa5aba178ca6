"""Duplicate ids: one decision for every record, with the keeper and the similarity where it is removed.

Append mode decides one admission at a time and never touches an earlier one. Rebuild mode, and a change of
the decision settings, make a new generation of decisions beside the old one.
"""

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg
import numpy as np

from dedup_assets.assets.pairwise_similarities import STAGE as MATCHING
from dedup_assets.assets.pairwise_similarities import match_shards, pairwise_similarities
from dedup_assets.assets.stage import StageRun, shard_asset, stage_run
from dedup_assets.compute.curation import BatchDecisions, TextDecisions, decide_batch
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.curation_order import LoadedShard, append_order_of, load_shard, rebuild_order_of
from dedup_assets.storage.decisions import DecidedShard, DecisionStore
from dedup_assets.storage.dense import DenseTexts
from dedup_assets.storage.ledger import Admission, Entry, Generation
from dedup_assets.storage.shards import admission_of
from dedup_assets.storage.tables import read_pairs
from dedup_assets.storage.workspace import Workspace

STAGE = "duplicate_ids"


@shard_asset(
    deps=[pairwise_similarities],
    kinds={"numba", "parquet"},
    description="For every record: kept, or removed by which keeper at what similarity, exact or semantic.",
)
def duplicate_ids(context: dg.AssetExecutionContext, workspace: WorkspaceResource, dask: DaskCluster) -> None:
    """Decide the shards of this run, after every shard admitted before them."""
    with stage_run(context, workspace, dask) as run:
        run.upstream("pairwise_similarities")
        with run.workspace.lock("decisions"):
            decide_shards(run, dask)


def decide_shards(run: StageRun, dask: DaskCluster) -> None:
    """Bring the decisions up to date for the shards of this run. The caller holds the decision lock."""
    settings = run.workspace.settings
    fingerprint = settings.fingerprint("decisions")
    admissions = run.ledger.admissions()
    generation = run.ledger.generation()
    decided = run.ledger.completions(STAGE)
    wanted = max(a.number for a in admissions if a.shard in set(run.shards))
    same = generation is not None and generation.fingerprint == fingerprint
    if settings.mode == "rebuild":
        targets = admissions
        current = generation if same and generation and generation.admissions == len(admissions) else None
    else:
        # What an earlier generation decided stays decided, so a new one covers at least as much.
        covered = max((a.number for a in admissions if a.shard in decided), default=0)
        targets = [a for a in admissions if a.number <= max(wanted, covered)]
        current = generation if same else None
    is_new_generation = current is None
    if current is None:
        number = 1 if generation is None else generation.number + 1
        current = Generation(number, fingerprint, settings.mode, len(targets))
    basis = {a.shard: decision_basis(a, current) for a in targets}
    pending = [a for a in targets if a.shard not in decided or decided[a.shard].basis != basis[a.shard]]
    if not pending:
        return
    _ensure_matches(run, dask, pending)
    run.progress.total(sum(a.records for a in pending), "records")
    batches = [pending] if settings.mode == "rebuild" else [[a] for a in pending]
    store = DecisionStore(run.workspace, current.number, admissions)
    entries: list[Entry] = []
    for batch in batches:
        started = time.perf_counter()
        decided_batch = _decide(run.workspace, store, batch)
        seconds = time.perf_counter() - started
        total = max(1, sum(a.records for a in batch))
        for a, facts in zip(batch, decided_batch, strict=True):
            facts["generation"] = current.number
            entries.append((a.shard, basis[a.shard], facts, seconds * a.records / total))
        run.spent.rows += sum(a.records for a in batch)
        run.progress.advance(sum(a.records for a in batch))
        if not is_new_generation:
            run.ledger.complete(STAGE, entries, run.run_id)
            entries = []
    if is_new_generation:
        run.ledger.add_generation(current, entries, STAGE, run.run_id)


def decision_basis(admission: Admission, generation: Generation) -> str:
    """What a shard's decisions rest on: its content, and the generation."""
    return f"{admission.fingerprint}/{generation.number}-{generation.fingerprint[:16]}"


def _ensure_matches(run: StageRun, dask: DaskCluster, admissions: Sequence[Admission]) -> None:
    """Find the matches of shards that were admitted by a run that did not get further.

    Whoever comes to decide helps: the result is the same whoever computes it, and nobody waits for a run
    that may be dead.
    """
    matched = run.ledger.completions(MATCHING)
    missing = [a.shard for a in admissions if a.shard not in matched or matched[a.shard].basis != a.fingerprint]
    if missing:
        match_shards(run, dask, missing)


def _decide(workspace: Workspace, store: DecisionStore, batch: Sequence[Admission]) -> list[dict[str, Any]]:
    """Decide the records of a batch, publish the decisions of its shards, return facts of each."""
    settings = workspace.settings
    shards = [load_shard(workspace, a) for a in batch]
    record_texts = np.concatenate([s.texts for s in shards])
    order = rebuild_order_of(workspace, shards) if settings.mode == "rebuild" else append_order_of(workspace, shards[0])
    columns = [read_pairs(workspace.pairs(a.shard), settings.threshold) for a in batch]
    pairs = tuple(np.concatenate([part[i] for part in columns]) for i in range(3))
    dense = DenseTexts(workspace, {a: part[3] for a, part in zip(batch, columns, strict=True)})
    cells = dense.cells()
    numbers = np.array([a.number for a in batch])
    referred = np.unique(np.concatenate([record_texts, pairs[0], pairs[1], *(cell.members for cell in cells)]))
    outside = referred[~np.isin(admission_of(referred), numbers)]
    earlier = store.texts(outside) if settings.mode == "append" else TextDecisions.empty()
    decisions = decide_batch(
        record_texts,
        order,
        (pairs[0], pairs[1], pairs[2]),
        settings.threshold,
        earlier,
        settings.keeper_rule,
        cells,
        dense.vectors,
    )
    return _publish(store, shards, decisions)


def _publish(store: DecisionStore, shards: Sequence[LoadedShard], decisions: BatchDecisions) -> list[dict[str, Any]]:
    """Write the decisions of each shard of a batch; returns facts of each."""
    rows = np.concatenate([shard.rows for shard in shards])
    ids = [record_id for shard in shards for record_id in shard.ids.to_pylist()]
    # Keepers may stand in any shard of the batch: all representatives are known before a shard is written.
    store.remember(decisions.texts, rows[decisions.representative], [ids[i] for i in decisions.representative])
    facts: list[dict[str, Any]] = []
    start = 0
    for shard in shards:
        stop = start + len(shard)
        part = slice(start, stop)
        own = admission_of(decisions.texts.keys) == shard.admission.number
        store.write(
            DecidedShard(
                admission=shard.admission,
                rows=shard.rows,
                ids=shard.ids,
                kept=decisions.kept[part],
                keeper=decisions.keeper[part],
                similarity=decisions.similarity[part],
                exact=decisions.exact[part],
                texts=decisions.texts.keys[own],
            )
        )
        removed = ~decisions.kept[part]
        exact = decisions.exact[part]
        earlier = removed & (admission_of(decisions.keeper[part]) != shard.admission.number)
        facts.append(
            {
                "rows": len(shard),
                "kept": int(decisions.kept[part].sum()),
                "removed": int(removed.sum()),
                "removed_exact": int(exact.sum()),
                "removed_semantic": int((removed & ~exact).sum()),
                "removed_for_other_shards": int(earlier.sum()),
                "duplicate_ratio": round(float(removed.mean()), 4) if len(shard) else 0.0,
                "threshold": store.threshold,
            }
        )
        start = stop
    return facts
