"""What the seven assets rest on besides each other, as observable sources: the files, the rules, the place.

Dagster compares the version observed last with the one that a result was computed from, and shows what is stale.
"""

from __future__ import annotations

import warnings
from typing import Any

import dagster as dg

from dedup_assets.automation.partitions import shard_partitions
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.data_versions import changed_files, file_versions, place_version, rules_version

SOURCE_FILES, DECISION_RULES, OUTPUT_FOLDER = "source_files", "decision_rules", "output_folder"

INPUTS_OF = {
    "raw_shards": (SOURCE_FILES,),
    "duplicate_ids": (DECISION_RULES,),
    "deduplicated_dataset": (OUTPUT_FOLDER,),
}
"""The sources that an asset rests on, by its name."""


def _source(description: str, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # as in `shard_asset`
        return dg.observable_source_asset(group_name="deduplication", description=description, **options)


@_source(
    "The file of each shard. Its version is that of the content: size and time of a file are looked at, and a file "
    "that changed is read.",
    partitions_def=shard_partitions,
)
def source_files(workspace: WorkspaceResource) -> dg.DataVersionsByPartition:
    """Look at the file of each shard that was read."""
    return dg.DataVersionsByPartition(file_versions(workspace.open()))


@_source(
    "What decides which records are kept: threshold, keeper rule and the other settings of decisions, what was "
    "retracted, rebuilds that were asked for. Another version is another generation of decisions."
)
def decision_rules(workspace: WorkspaceResource) -> dg.DataVersion:
    """The generation of decisions that a curation would leave."""
    space = workspace.open()
    return dg.DataVersion(rules_version(space, changed_files(space.ledger, file_versions(space))))


@_source("Where the deduplicated dataset is published: `output` in curation.toml.")
def output_folder(workspace: WorkspaceResource) -> dg.DataVersion:
    """The folder that is published to."""
    return dg.DataVersion(place_version(workspace.open()))


INPUTS = (source_files, decision_rules, output_folder)
