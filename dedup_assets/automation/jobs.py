"""The jobs."""

from __future__ import annotations

import dagster as dg

from dedup_assets.assets.stage import RECURATE, STAGES
from dedup_assets.cancellation import cancellable_executor
from dedup_assets.checks.asset_checks import CHECKS

# In process: the chain of seven assets is short and Dask does the parallel work, so a process per step would only add
# its start, about four seconds each.
curate_new_shards = dg.define_asset_job(
    "curate_new_shards",
    # Selected by name, here and below: in merged definitions, other downstream assets are not part of the job.
    selection=dg.AssetSelection.assets(*STAGES),
    executor_def=cancellable_executor,
    description="All seven assets for some shards: from files to the deduplicated dataset.",
)

redecide = dg.define_asset_job(
    "redecide",
    selection=dg.AssetSelection.assets("duplicate_ids", "deduplicated_dataset"),
    executor_def=cancellable_executor,
    description="New decisions from stored matches: no model, no join. For a new threshold or keeper rule.",
)

recurate_corpus = dg.define_asset_job(
    "recurate_corpus",
    # Without the two assets that read files and texts: the stored corpus is curated again. The assets between centroids
    # and decisions keep the order, and have nothing to do.
    selection=dg.AssetSelection.assets(*STAGES[2:]),
    executor_def=cancellable_executor,
    tags={RECURATE: "true"},
    description="Everything decided again in one order over all records, under new centroids, as a new generation "
    "beside the old one; nothing is embedded again. Any shards may be chosen: the result covers all.",
)

audit_recall = dg.define_asset_job(
    "audit_recall",
    selection=dg.AssetSelection.checks(*(check.key for check in CHECKS)),
    executor_def=cancellable_executor,
    description="All checks on the whole corpus, with samples of 1,000 or as many as `sample` says: measured recall, "
    "evidence for removals, conservation of rows, drift. Changes nothing.",
)
