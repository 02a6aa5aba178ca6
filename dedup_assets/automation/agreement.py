"""Brings Dagster's partitions and materialisations in line with the ledger, which is authoritative.

`differences` is pure: it compares both states. `agree` carries out the changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from dedup_assets.assets.lineage import Lineage, observations, reported_versions, retracted
from dedup_assets.assets.metadata import RunMetadata
from dedup_assets.corpus.data_versions import (
    RETRACTED,
    WITHDRAWN,
    changed_files,
    file_versions,
    finished_versions,
)
from dedup_assets.names import Names
from dedup_assets.partitions import register_partitions
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.workspace import Workspace


@dataclass(frozen=True)
class Differences:
    """What Dagster lacks, and what it has that does not belong to this workspace.

    Attributes
    ----------
    missing : list of str
        Shards without a partition, in the order of their registration.
    unreported : mapping
        By stage, shards for which Dagster has no version or another one than the ledger, in that order.
    void : mapping
        By stage, shards for which Dagster has a version and the ledger has no valid one.
    strangers : list of str
        Partitions that are not shards.
    changed : list of str
        Shards whose files changed since they were read, if files were checked.
    """

    missing: list[str] = field(default_factory=list)
    unreported: dict[str, list[str]] = field(default_factory=dict)
    void: dict[str, list[str]] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unreported or self.void)


def differences(
    shards: Sequence[str],
    finished: Mapping[str, Mapping[str, str]],
    partitions: Collection[str],
    reported: Mapping[str, Mapping[str, str]],
) -> Differences:
    """Compare the ledger with Dagster.

    Results computed from a reported result are reported after it: Dagster may have lost the history by which it
    compares the two.

    Parameters
    ----------
    shards
        Registered shards, in order.
    finished
        By stage, in pipeline order, the data versions of the finished shards.
    partitions
        Dagster's partitions.
    reported
        By stage, the data versions in Dagster.
    """
    known, registered = set(partitions), set(shards)
    due: set[str] = set()
    unreported: dict[str, list[str]] = {}
    void: dict[str, list[str]] = {}
    for stage, versions in finished.items():
        has = reported.get(stage, {})
        due |= {shard for shard, version in versions.items() if has.get(shard) != version}
        unreported[stage] = [shard for shard in shards if shard in due and shard in versions]
        void[stage] = [s for s in shards if s in has and s not in versions and has[s] != WITHDRAWN]
    return Differences(
        [shard for shard in shards if shard not in known],
        {stage: found for stage, found in unreported.items() if found},
        {stage: found for stage, found in void.items() if found},
        [key for key in partitions if key not in registered],
    )


def agree(workspace: Workspace, instance: dg.DagsterInstance, look_at_files: bool = False) -> Differences:
    """Add missing partitions to Dagster, and report missing materialisations and observations; returns the differences.

    Deleted partitions and wiped materialisations return, because the ledger says that they are published. A partition
    that is red only because a run over it was interrupted, although all its work is finished, becomes green.
    """
    # Dagster is read first: a stage finished between the two reads is then reported twice, and never as void.
    name = Names.of(workspace.root).partitions
    partitions = list(instance.get_dynamic_partitions(name))
    ledger = workspace.ledger
    shards = ledger.shards()
    register_partitions(instance, name, [shard.key for shard in shards])  # otherwise Dagster has no status for them
    failing = set(ledger.failures())
    reported = {stage: _current_versions(instance, name, stage, failing) for stage in STAGES}
    versions = finished_versions(ledger)
    found = differences([shard.key for shard in shards], versions, partitions, reported)
    files = file_versions(workspace) if look_at_files else {}
    found.changed.extend(changed_files(ledger, files))
    for observation in observations(workspace, instance, files):
        instance.report_runless_asset_event(observation)
    due = {shard for stages in (found.unreported, found.void) for keys in stages.values() for shard in keys}
    lineage = Lineage(workspace, instance, due)
    reasons = {shard.key: shard.retracted or "" for shard in shards}
    for stage in STAGES:
        keys = found.unreported.get(stage, [])
        for shard in keys:
            if versions[stage][shard] == RETRACTED:
                instance.report_runless_asset_event(retracted(stage, shard, reasons[shard]))
        standing = [shard for shard in keys if versions[stage][shard] != RETRACTED]
        for shard, metadata in RunMetadata(workspace, stage, standing) if standing else ():
            if shard in lineage.done(stage):  # not retracted meanwhile
                instance.report_runless_asset_event(lineage.finished(stage, shard, metadata))
        for shard in found.void.get(stage, ()):
            instance.report_runless_asset_event(lineage.void(stage, shard))
    return found


def _current_versions(instance: dg.DagsterInstance, name: str, stage: str, failing: Collection[str]) -> dict[str, str]:
    """The version of each partition of an asset in Dagster, without partitions shown as failed whose shard is not
    `failing`.

    The failed ones come from the status cache that the UI keeps and extends.
    """
    partitions = dg.DynamicPartitionsDefinition(name=name)
    status = get_and_update_asset_status_cache_value(instance, dg.AssetKey(stage), partitions)
    red: set[str] = set()
    if status is not None:
        red.update(status.deserialize_failed_partition_subsets(partitions).get_partition_keys())
    versions = reported_versions(instance, stage)
    return {shard: version for shard, version in versions.items() if shard not in red or shard in failing}
