"""Some of the assets for some of the shards, as the UI runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from dedup_assets.api import register
from dedup_assets.assets import SHARD_ASSETS
from dedup_assets.assets.stage import STAGES, ShardAsset
from dedup_assets.names import Names
from dedup_assets.partitions import register_partitions
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.workspace import Workspace


def materialise(
    assets: Sequence[ShardAsset], instance: dg.DagsterInstance, space: Workspace, keys: Sequence[str]
) -> dg.ExecuteInProcessResult:
    """Materialise assets for one shard, or for a range of shards in one run."""
    one = {"partition_key": keys[0]} if len(keys) == 1 else {}
    several = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    return dg.materialize(
        [asset.define(Names.of(space.root)) for asset in assets],
        instance=instance,
        resources=resources_of(space),
        tags={} if one else several,
        **one,
    )


def resources_of(space: Workspace) -> dict[str, object]:
    """The resources of a workspace by their keys."""
    names = Names.of(space.root)
    return {names.workspace: WorkspaceResource(path=str(space.root)), names.dask: DaskCluster()}


def run_config(root: Path, **config: str) -> dict[str, object]:
    """The run config that names a workspace."""
    return {"resources": {Names.of(root).workspace: {"config": {"path": str(root), **config}}}}


def add_partitions(instance: dg.DagsterInstance, space: Workspace, keys: Sequence[str]) -> list[str]:
    """Add shards as partitions of a workspace."""
    return register_partitions(instance, partition_set(space.root), keys)


def partition_set(root: Path) -> str:
    """The name of a workspace's partitions."""
    return Names.of(root).partitions


def curate_up_to(stage: str, path: Path, workspace: Path, role: str = "corpus", first: str = STAGES[0]) -> None:
    """Process one more file up to a stage, and leave the others unchanged."""
    register(path, workspace=workspace, role=role)
    space = Workspace.open(workspace)
    with dg.DagsterInstance.ephemeral() as instance:
        add_partitions(instance, space, [path.stem])
        materialise(SHARD_ASSETS[STAGES.index(first) : STAGES.index(stage) + 1], instance, space, [path.stem])
