"""Where everything is wired for Dagster. Merges, nothing else.

The workspace is named by DEDUP_ASSETS_WORKSPACE (default `dedup-workspace` in the current folder), a
running Dask scheduler by DEDUP_ASSETS_SCHEDULER.
"""

from __future__ import annotations

import os

import dagster as dg

from dedup_assets.assets import SHARD_ASSETS
from dedup_assets.automation.cancelling import cancellable_executor
from dedup_assets.automation.jobs import audit_recall, curate_new_shards, recurate_corpus, redecide
from dedup_assets.automation.schedules import weekly_recuration_schedule
from dedup_assets.automation.sensors import arriving_shards_sensor
from dedup_assets.automation.source_links import with_code_references
from dedup_assets.automation.upkeep import maintain_store
from dedup_assets.checks.asset_checks import corpus_checks
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.workspace import settings_as_they_are

WORKSPACE = os.environ.get("DEDUP_ASSETS_WORKSPACE", "dedup-workspace")
SETTINGS = settings_as_they_are(WORKSPACE)

defs = dg.Definitions(
    assets=with_code_references(SHARD_ASSETS),
    asset_checks=[corpus_checks],
    jobs=[audit_recall, curate_new_shards, maintain_store, recurate_corpus, redecide],
    sensors=[arriving_shards_sensor(SETTINGS.watch_seconds)],
    schedules=[weekly_recuration_schedule(SETTINGS.recurate_cron)],
    resources={
        "workspace": WorkspaceResource(path=WORKSPACE),
        "dask": DaskCluster(scheduler=os.environ.get("DEDUP_ASSETS_SCHEDULER", "")),
    },
    executor=cancellable_executor,
)
