"""Where everything is wired for Dagster. Merges, nothing else.

The workspace is named by DEDUP_ASSETS_WORKSPACE (default `dedup-workspace` in the current folder), a
running Dask scheduler by DEDUP_ASSETS_SCHEDULER.
"""

from __future__ import annotations

import os

import dagster as dg

from dedup_assets.assets import SHARD_ASSETS
from dedup_assets.automation.jobs import curate_new_shards, redecide
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.workspace import WorkspaceResource

defs = dg.Definitions(
    assets=list(SHARD_ASSETS),
    jobs=[curate_new_shards, redecide],
    resources={
        "workspace": WorkspaceResource(path=os.environ.get("DEDUP_ASSETS_WORKSPACE", "dedup-workspace")),
        "dask": DaskCluster(scheduler=os.environ.get("DEDUP_ASSETS_SCHEDULER", "")),
    },
    executor=dg.in_process_executor,
)
