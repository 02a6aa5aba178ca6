"""The inputs of the seven assets as observable sources: source files, decision rules, output folder.

Dagster compares the last observed version with the input version of a result, and shows stale results.
"""

from __future__ import annotations

import warnings
from typing import Any

import dagster as dg

from dedup_assets.corpus.data_versions import changed_files, file_versions, place_version, rules_version
from dedup_assets.names import Names
from dedup_assets.storage.workspace import Workspace

SOURCE_FILES, DECISION_RULES, OUTPUT_FOLDER = "source_files", "decision_rules", "output_folder"

INPUTS_OF = {
    "raw_shards": (SOURCE_FILES,),
    "duplicate_ids": (DECISION_RULES,),
    "deduplicated_dataset": (OUTPUT_FOLDER,),
}
"""The sources that an asset depends on, by its name."""


def define_inputs(names: Names) -> list[dg.SourceAsset]:
    """The three sources of one workspace."""

    def source(description: str, **options: Any) -> Any:
        return dg.observable_source_asset(
            group_name="deduplication",
            description=description,
            required_resource_keys={names.workspace},
            **options,
        )

    def opened(context: dg.OpExecutionContext) -> Workspace:
        return getattr(context.resources, names.workspace).open()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # as in `ShardAsset`

        @source(
            "The file of each shard. Its version is that of its content. A file is read only if its size or time "
            "changed.",
            partitions_def=dg.DynamicPartitionsDefinition(name=names.partitions),
        )
        def source_files(context) -> dg.DataVersionsByPartition:
            return dg.DataVersionsByPartition(file_versions(opened(context)))

        @source(
            "The inputs of decisions: threshold, keeper rule and other settings, retractions, and requested rebuilds. "
            "Another version is another generation of decisions."
        )
        def decision_rules(context) -> dg.DataVersion:
            space = opened(context)
            return dg.DataVersion(rules_version(space, changed_files(space.ledger, file_versions(space))))

        @source("Where the deduplicated dataset is published: `output` in curation.toml.")
        def output_folder(context) -> dg.DataVersion:
            return dg.DataVersion(place_version(opened(context)))

    return [source_files, decision_rules, output_folder]
