"""Materialisations with their data versions, shard by shard.

Dagster gives all partitions of a run over a range the same data version, so each would become stale when another
changes. Therefore the stages report every shard separately with its own version.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

from dedup_assets.assets.inputs import DECISION_RULES, INPUTS_OF, OUTPUT_FOLDER, SOURCE_FILES
from dedup_assets.corpus.data_versions import (
    RETRACTED,
    WITHDRAWN,
    changed_files,
    data_version,
    parent_version,
    place_version,
    place_version_in,
    rules_version,
    rules_version_in,
)
from dedup_assets.storage.ledger import FORMAT, STAGES, Completion
from dedup_assets.storage.workspace import Workspace

CODE_VERSION = str(FORMAT)
"""Results of one format of the workspace are comparable; a workspace of another format is refused."""

REPORTED: Mapping[str, Any] = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
"""Metadata of an output whose step has logged its events itself, so that Dagster adds none. Dagster's observable
sources with a data version for each partition do the same."""

_BEFORE_ALL = "1"
"""Pointer to an event before all others, so that any present event counts as new."""

_MATERIALIZATION, _OBSERVATION = dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION


class Lineage:
    """The versions of a workspace's results and of their inputs, as Dagster's tags.

    Parameters
    ----------
    workspace : Workspace
    instance : DagsterInstance
    shards : collection of str
        The shards that will be queried.
    """

    def __init__(self, workspace: Workspace, instance: dg.DagsterInstance, shards: Collection[str]) -> None:
        self._workspace = workspace
        self._instance = instance
        self._shards = set(shards)
        self._done: dict[str, dict[str, Completion]] = {}
        self._pointers: dict[str, Mapping[str, int]] = {}

    def done(self, stage: str) -> dict[str, Completion]:
        """The completions of a stage in the ledger at the first call, by shard."""
        if stage not in self._done:
            self._done[stage] = self._workspace.ledger.completions(stage)
        return self._done[stage]

    def finished(self, stage: str, shard: str, metadata: Mapping[str, Any]) -> dg.AssetMaterialization:
        """The materialisation of a shard that is finished in the ledger. Its inputs must be reported first."""
        input_version = self.done(stage)[shard].input_version
        tags = {
            DATA_VERSION_TAG: data_version(stage, input_version),
            DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
            CODE_VERSION_TAG: CODE_VERSION,
        }
        for parent, version, pointer in self._parents(stage, shard, input_version):
            key = dg.AssetKey(parent)
            tags[get_input_data_version_tag(key)] = version
            tags[get_input_event_pointer_tag(key)] = pointer
        return dg.AssetMaterialization(stage, partition=shard, metadata=dict(metadata), tags=tags)

    def void(self, stage: str, shard: str) -> dg.AssetMaterialization:
        """A materialisation that makes the recorded result of a shard stale, because it is void and has no successor
        yet."""
        parent = INPUTS_OF[stage][0] if stage == STAGES[0] else STAGES[STAGES.index(stage) - 1]
        key = dg.AssetKey(parent)
        tags = {
            DATA_VERSION_TAG: WITHDRAWN,
            DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
            CODE_VERSION_TAG: CODE_VERSION,
            get_input_data_version_tag(key): WITHDRAWN,
            get_input_event_pointer_tag(key): _BEFORE_ALL,
        }
        return dg.AssetMaterialization(stage, partition=shard, metadata={"withdrawn": True}, tags=tags)

    def _parents(self, stage: str, shard: str, input_version: str) -> Iterator[tuple[str, str, str]]:
        """Name, version and pointer of each input of a result."""
        before = parent_version(stage, input_version)
        parent, now = SOURCE_FILES, self._files.get(shard, before)
        if stage != STAGES[0]:
            parent = STAGES[STAGES.index(stage) - 1]
            done = self.done(parent).get(shard)
            now = "" if done is None else data_version(parent, done.input_version)
        yield parent, before, self._pointer(parent, shard) if now == before else _BEFORE_ALL
        if stage == "duplicate_ids":
            yield DECISION_RULES, rules_version_in(input_version), NULL_EVENT_POINTER
        if stage == "deduplicated_dataset":
            yield OUTPUT_FOLDER, place_version_in(input_version), NULL_EVENT_POINTER

    @cached_property
    def _files(self) -> dict[str, str]:
        return observed_files(self._instance, self._shards)

    def _pointer(self, parent: str, shard: str) -> str:
        if parent not in self._pointers:
            kind = _OBSERVATION if parent == SOURCE_FILES else _MATERIALIZATION
            self._pointers[parent] = self._instance.event_log_storage.get_latest_storage_id_by_partition(
                dg.AssetKey(parent), kind, self._shards
            )
        return str(self._pointers[parent].get(shard, NULL_EVENT_POINTER))


def retracted(stage: str, shard: str, reason: str) -> dg.AssetMaterialization:
    """The materialisation of a shard that is not in the corpus. It has no inputs and is never stale."""
    return dg.AssetMaterialization(
        stage,
        partition=shard,
        metadata={"retracted": reason, "dagster/partition_row_count": 0},
        tags={DATA_VERSION_TAG: RETRACTED, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"},
    )


def reported_versions(instance: dg.DagsterInstance, stage: str) -> dict[str, str]:
    """The version of each partition of an asset in Dagster."""
    return _latest(instance, stage, _MATERIALIZATION, None)


def reported_shards(instance: dg.DagsterInstance, stage: str, shards: Collection[str]) -> set[str]:
    """The given shards that have a materialisation in Dagster."""
    storage = instance.event_log_storage
    return set(storage.get_latest_storage_id_by_partition(dg.AssetKey(stage), _MATERIALIZATION, set(shards)))


def observed_files(instance: dg.DagsterInstance, shards: Collection[str] | None = None) -> dict[str, str]:
    """The last observed version of the file of each shard."""
    return _latest(instance, SOURCE_FILES, _OBSERVATION, shards)


def observations(
    workspace: Workspace, instance: dg.DagsterInstance, files: Mapping[str, str]
) -> Iterator[dg.AssetObservation]:
    """The observations that Dagster lacks.

    Parameters
    ----------
    workspace
    instance
    files
        Current versions of files, by shard. A shard that was read and whose file was never observed counts as observed
        when it was read.
    """
    known = observed_files(instance)
    done = workspace.ledger.completions(STAGES[0])
    found = {shard: read.input_version for shard, read in done.items() if shard not in known} | dict(files)
    for shard, version in found.items():
        if known.get(shard) != version:
            yield dg.AssetObservation(SOURCE_FILES, partition=shard, tags={DATA_VERSION_TAG: version})
    changed = changed_files(workspace.ledger, known | found)
    for name, version in (
        (DECISION_RULES, rules_version(workspace, changed)),
        (OUTPUT_FOLDER, place_version(workspace)),
    ):
        record = instance.get_latest_data_version_record(dg.AssetKey(name), is_source=True)
        seen = None if record is None else extract_data_version_from_entry(record.event_log_entry)
        if seen is None or seen.value != version:
            yield dg.AssetObservation(name, tags={DATA_VERSION_TAG: version})


def _latest(
    instance: dg.DagsterInstance, name: str, kind: dg.DagsterEventType, shards: Collection[str] | None
) -> dict[str, str]:
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        dg.AssetKey(name), kind, [DATA_VERSION_TAG], None if shards is None else list(shards)
    )
    return {shard: found[DATA_VERSION_TAG] for shard, found in tags.items() if DATA_VERSION_TAG in found}
