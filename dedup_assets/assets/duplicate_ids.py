"""Duplicate ids: one decision for every record, with the keeper and the similarity where it is removed.

Appending decides one admission at a time and never changes an earlier one. Every other change (settings, a retraction,
a late reference, a rebuild) makes a new generation of decisions beside the old one.
"""

import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from dedup_assets.assets.pairwise_similarities import find_matches_of, match_shards
from dedup_assets.assets.stage import StageRun, shard_asset, stage_run
from dedup_assets.compute.curation import BatchDecisions, TextDecisions, decide_batch
from dedup_assets.corpus.curation_order import LoadedShard, curation_order, load_shard
from dedup_assets.corpus.generations import Plan, decision_version, plan_decisions
from dedup_assets.corpus.guarded_texts import guards_in_force, require_texts
from dedup_assets.corpus.live_texts import LiveTexts, reference_texts
from dedup_assets.corpus.retraction import forget_dead_pairs
from dedup_assets.ingest.record_spec import ingest_spec
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.decisions import DecidedShard, DecisionStore, Representatives
from dedup_assets.storage.dense_texts import dense_cells
from dedup_assets.storage.ledger import REFERENCE, Admission, Entry
from dedup_assets.storage.shards import ROW_BITS, admission_of
from dedup_assets.storage.tables import read_pairs
from dedup_assets.storage.text_vectors import TextVectors

STAGE = "duplicate_ids"


@shard_asset(
    deps=["pairwise_similarities", "decision_rules"],
    kinds={"numba", "parquet"},
    description="For every record: kept, or removed by which keeper at what similarity, exact or semantic.",
)
def duplicate_ids(context: dg.AssetExecutionContext, workspace: WorkspaceResource, dask: DaskCluster) -> None:
    """Decide the shards of this run, after every shard admitted before them."""
    with stage_run(context, workspace, dask) as run:
        run.require("pairwise_similarities")
        with run.deciding():
            decide_shards(run, dask)


def decide_shards(run: StageRun, dask: DaskCluster) -> None:
    """Update the decisions for the shards of this run, without failing shards. The caller holds the decision lock."""
    run.without_failing(lambda: _decide_shards(run, dask))


def _decide_shards(run: StageRun, dask: DaskCluster) -> None:
    decided = run.ledger.completions(STAGE)
    living = LiveTexts(run.workspace)
    plan = plan_decisions(run.ledger, run.workspace.settings, decided, living.live, living.retractions, run.shards)
    if plan is None:
        return
    pending = plan.pending
    owners = [*pending, *_gone_owners(plan, living)]
    _ensure_matches(run, dask, owners)
    if plan.is_new:
        # A killed run may have left decisions under this number, of admissions that were retracted since.
        shutil.rmtree(run.workspace.generation(plan.generation.number), ignore_errors=True)
        if living.retractions:
            forget_dead_pairs(run.workspace, living)
    run.progress.total(sum(a.records for a in pending), "records")
    decider = _Decider(run, plan, living)
    entries: list[Entry] = []
    for batch in plan.batches:
        started = time.perf_counter()
        with run.attributing_to(batch[0].shard) if len(batch) == 1 else nullcontext():
            stats = decider.decide(batch)
        seconds = time.perf_counter() - started
        total = max(1, sum(a.records for a in batch))
        entries += [
            (a.shard, decision_version(a, plan.generation), stats[a.number], seconds * a.records / total) for a in batch
        ]
        run.spent.rows += sum(a.records for a in batch)
        run.progress.advance(sum(a.records for a in batch))
        if not plan.is_new:
            run.ledger.complete(STAGE, entries, run.run_id)
            entries = []
    if plan.is_new:
        run.ledger.add_generation(plan.generation, entries, STAGE, run.run_id, plan.answers)


def _gone_owners(plan: Plan, living: LiveTexts) -> list[Admission]:
    """Retracted admissions whose matches are needed: some of their texts are live in the shards of a new generation."""
    return [a for a in living.visible if a.retracted is not None] if plan.is_new else []


def _ensure_matches(run: StageRun, dask: DaskCluster, admissions: Iterable[Admission]) -> None:
    """Compute the matches of shards whose own run stopped after their admission.

    The deciding run computes them, so it need not wait for a run that may be dead; any run gives the same result. A
    file of matches is published atomically under the name of its admission.
    """
    missing = [a for a in admissions if not run.workspace.pairs(a).is_file()]
    if missing:
        find_matches_of(run, dask, [a.shard for a in missing if a.retracted is None])
        match_shards(run, dask, [a for a in missing if a.retracted is not None])
        run.record_stage("pairwise_similarities", [a.shard for a in missing if a.retracted is None])


class _Decider:
    """Decides the batches of a plan in sequence."""

    def __init__(self, run: StageRun, plan: Plan, living: LiveTexts) -> None:
        self.run = run
        self.workspace = run.workspace
        self.plan = plan
        self.living = living
        self.store = DecisionStore(run.workspace, plan.generation.number)
        self.vectors = TextVectors(run.workspace)
        self.decided = plan.decided
        self.gone = _gone_owners(plan, living)
        self.covers = guards_in_force(run.workspace, living)

    @cached_property
    def references(self) -> np.ndarray:
        """Keys of the texts of live references."""
        return reference_texts(self.workspace, self.living)

    def decide(self, batch: Sequence[Admission]) -> dict[int, dict[str, Any]]:
        """Decide the records of a batch and publish the decisions of its shards; stats by admission number."""
        settings = self.workspace.settings
        shards = []
        for a in batch:
            with self.run.attributing_to(a.shard):
                if self.covers:
                    require_texts(self.workspace.raw(a.shard, a.fingerprint), a.shard, ingest_spec(settings))
                shards.append(load_shard(self.workspace, a, self.living))
        record_texts = np.concatenate([s.texts for s in shards])
        # Matches of retracted admissions are among texts that this generation decides with its first batch.
        owners = [*batch, *(self.gone if self.decided == 0 else ())]
        columns = []
        for a in owners:
            with self.run.attributing_to(a.shard):
                columns.append(read_pairs(self.workspace.pairs(a), settings.threshold))
        pairs = tuple(np.concatenate([part[i] for part in columns]) for i in range(3))
        named = {a: part[3] for a, part in zip(owners, columns, strict=True)}
        cells = dense_cells(self.workspace, named, self.living.visible)
        referred = np.unique(np.concatenate([record_texts, pairs[0], pairs[1], *(cell.members for cell in cells)]))
        own = np.isin(admission_of(referred), [a.number for a in batch])
        # The batch's own texts count as undecided, even if a killed run left decisions on disk.
        earlier = self.store.texts(referred[~own]) if self.decided else TextDecisions.empty()
        decisions = decide_batch(
            record_texts,
            curation_order(self.workspace, shards, self.plan.generation.rebuilt, earlier.keys),
            (pairs[0], pairs[1], pairs[2]),
            settings.threshold,
            earlier,
            settings.keeper_rule,
            cells,
            self.vectors,
            reference=np.concatenate([np.full(len(s), s.is_reference) for s in shards]),
            only=self.references if settings.against == "references" else None,
            covers=self.covers,
            first_place=self.decided << ROW_BITS,
        )
        self.decided += len(batch)
        return self._publish(shards, decisions)

    def _publish(self, shards: Sequence[LoadedShard], decisions: BatchDecisions) -> dict[int, dict[str, Any]]:
        """Write the decisions of each shard of a batch; returns the stats of each."""
        at = decisions.representative
        numbers = np.concatenate([np.full(len(shard), shard.admission.number) for shard in shards])
        rows = np.concatenate([shard.rows for shard in shards])
        ids = [record_id for shard in shards for record_id in shard.ids.to_pylist()]
        representatives = Representatives(numbers[at], rows[at], pa.array([ids[i] for i in at], pa.string()))
        # Keepers may be in any shard of the batch, so all representatives are known before a shard is written.
        self.store.write_texts(self.store.remember(decisions.texts, representatives))
        stats: dict[int, dict[str, Any]] = {}
        start = 0
        for shard in shards:
            stop = start + len(shard)
            part = slice(start, stop)
            decided = DecidedShard(
                admission=shard.admission,
                rows=shard.rows,
                ids=shard.ids,
                kept=decisions.kept[part],
                keeper=decisions.keeper[part],
                similarity=decisions.similarity[part],
                exact=decisions.exact[part],
            )
            with self.run.attributing_to(shard.admission.shard):
                elsewhere = self.store.write_records(decided)
            stats[shard.admission.number] = self._stats(shard, ~decisions.kept[part], decisions.exact[part], elsewhere)
            start = stop
        return stats

    def _stats(self, shard: LoadedShard, removed: np.ndarray, exact: np.ndarray, elsewhere: int) -> dict[str, Any]:
        guards = self.workspace.settings.guards
        reference = len(shard) if shard.admission.role == REFERENCE else 0
        return {
            "rows": len(shard),
            "reference": reference,
            "kept": len(shard) - int(removed.sum()) - reference,
            "removed": int(removed.sum()),
            "removed_exact": int(exact.sum()),
            "removed_semantic": int((removed & ~exact).sum()),
            "removed_for_other_shards": elsewhere,
            "duplicate_ratio": round(float(removed.mean()), 4) if len(shard) else 0.0,
            "threshold": self.workspace.settings.threshold,
            **({"guards": ", ".join(guards)} if guards else {}),
            "generation": self.plan.generation.number,
        }
