"""Where everything is wired for Dagster. Merges, nothing else.

The workspace is named by DEDUP_ASSETS_WORKSPACE (default `dedup-workspace` in the current folder), a
running Dask scheduler by DEDUP_ASSETS_SCHEDULER.

Can be merged with other people's definitions: jobs select our assets by name, and what could be called the same
elsewhere has the workspace in its name. `dedup_assets.location` is what a location of its own serves.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import dagster as dg

from dedup_assets.assets import SHARD_ASSETS
from dedup_assets.assets.inputs import define_inputs
from dedup_assets.automation.jobs import audit_recall, curate_new_shards, recurate_corpus, redecide
from dedup_assets.automation.schedules import weekly_recuration_schedule
from dedup_assets.automation.sensors import arriving_shards_sensor
from dedup_assets.automation.upkeep import define_maintain_store
from dedup_assets.checks.asset_checks import define_checks
from dedup_assets.names import DEFAULT_WORKSPACE, Names
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.workspace import load_settings_or_default

SCHEDULER = "DEDUP_ASSETS_SCHEDULER"


def definitions_for(workspace: str | Path) -> dg.Definitions:
    """Everything for one workspace, with its settings as they are now."""
    settings = load_settings_or_default(workspace)
    return _definitions(str(workspace), os.environ.get(SCHEDULER, ""), settings.watch_seconds, settings.recurate_cron)


@lru_cache(maxsize=4)
def _definitions(workspace: str, scheduler: str, watch_seconds: int, recurate_cron: str) -> dg.Definitions:
    names = Names.of(workspace)
    return dg.Definitions(
        assets=[*(asset.define(names) for asset in SHARD_ASSETS), *define_inputs(names)],
        asset_checks=[define_checks(names)],
        jobs=[audit_recall, curate_new_shards, define_maintain_store(names), recurate_corpus, redecide],
        sensors=[arriving_shards_sensor(names, watch_seconds)],
        schedules=[weekly_recuration_schedule(names, recurate_cron)],
        resources={
            names.workspace: WorkspaceResource(path=workspace),
            names.dask: DaskCluster(scheduler=scheduler),
        },
    )


defs = definitions_for(os.environ.get("DEDUP_ASSETS_WORKSPACE", DEFAULT_WORKSPACE))
