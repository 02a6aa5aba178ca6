"""Dagster's list of shards and of what is done, brought in line with the ledger, which is right.

`differences` is pure: from what both know to what is to be done. `agree` does it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from dedup_assets.automation.partitions import SHARDS, register_partitions, shard_partitions
from dedup_assets.report.metadata import RunMetadata
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.workspace import Workspace


@dataclass(frozen=True)
class Differences:
    """What Dagster does not know yet, and what it knows that is none of this workspace's.

    Attributes
    ----------
    missing : list of str
        Shards that are no partitions, in the order in which they were registered.
    unreported : mapping
        By stage, shards that are finished and not materialised, in that order.
    strangers : list of str
        Partitions that are no shards.
    """

    missing: list[str] = field(default_factory=list)
    unreported: dict[str, list[str]] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unreported)


def differences(
    shards: Sequence[str],
    finished: Mapping[str, Collection[str]],
    partitions: Collection[str],
    materialised: Mapping[str, Collection[str]],
) -> Differences:
    """Hold the ledger against Dagster.

    Parameters
    ----------
    shards
        Registered shards, in order.
    finished
        By stage, the shards that count and are finished.
    partitions
        Dagster's partitions.
    materialised
        By stage, the partitions of which Dagster has a materialisation.
    """
    known, registered = set(partitions), set(shards)
    due = {stage: set(done).difference(materialised.get(stage, ())) for stage, done in finished.items()}
    unreported = {stage: [shard for shard in shards if shard in waiting] for stage, waiting in due.items()}
    return Differences(
        [shard for shard in shards if shard not in known],
        {stage: found for stage, found in unreported.items() if found},
        [key for key in partitions if key not in registered],
    )


def agree(workspace: Workspace, instance: dg.DagsterInstance) -> Differences:
    """Add the partitions and report the materialisations that Dagster lacks; returns what there was to do.

    A deleted partition comes back, and so does what was wiped: what stands in the ledger is published. A partition
    that is red only because a run over it broke off, while all that it was to do is finished, is green again.
    """
    ledger = workspace.ledger
    shards = ledger.shards()
    live = {shard.key for shard in shards if shard.retracted is None}
    partitions = list(instance.get_dynamic_partitions(SHARDS))
    register_partitions(instance, [shard.key for shard in shards])  # Dagster has no status of what is no partition
    failing = ledger.failures()
    found = differences(
        [shard.key for shard in shards],
        {stage: live.intersection(ledger.completions(stage)) for stage in STAGES},
        partitions,
        {stage: _standing(instance, stage, failing) for stage in STAGES},
    )
    for stage, finished in found.unreported.items():
        for shard, metadata in RunMetadata(workspace, stage, finished):
            instance.report_runless_asset_event(dg.AssetMaterialization(stage, partition=shard, metadata=metadata))
    return found


def _standing(instance: dg.DagsterInstance, stage: str, failing: Collection[str]) -> set[str]:
    """The partitions of an asset with a materialisation that Dagster shows as such, by the status that the UI keeps
    and goes on with, so that the whole history is not read each time. One that is red is none of them, unless its shard
    did fail."""
    status = get_and_update_asset_status_cache_value(instance, dg.AssetKey(stage), shard_partitions)
    if status is None:
        return set()
    green = set(status.deserialize_materialized_partition_subsets(shard_partitions).get_partition_keys())
    red = set(status.deserialize_failed_partition_subsets(shard_partitions).get_partition_keys())
    return green - (red - set(failing))
