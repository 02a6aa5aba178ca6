"""Facts of a finished stage as Dagster metadata: numbers that Dagster charts, links and text beside them."""

from __future__ import annotations

from typing import Any

import dagster as dg

from dedup_assets.storage.ledger import Completion
from dedup_assets.storage.workspace import Workspace


def materialisation_metadata(workspace: Workspace, completion: Completion) -> dict[str, Any]:
    """Metadata of one shard at one stage, from its completion record."""
    metadata: dict[str, Any] = {
        "seconds": dg.MetadataValue.float(round(completion.seconds, 4)),
        "settings_fingerprint": workspace.settings.fingerprint(),
        "basis": completion.basis,
        "computed_in_run": dg.MetadataValue.dagster_run(completion.run_id)
        if completion.run_id
        else dg.MetadataValue.text("outside a run"),
    }
    for name, value in completion.facts.items():
        metadata[name] = _value(name, value)
    rows = completion.facts.get("rows")
    if isinstance(rows, int):
        metadata["dagster/partition_row_count"] = rows
        if completion.seconds > 0:
            metadata["rows_per_second"] = round(rows / completion.seconds, 1)
    return metadata


def _value(name: str, value: Any) -> Any:
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float):
        return dg.MetadataValue.float(value)
    if isinstance(value, str):
        return dg.MetadataValue.path(value) if name.endswith(("_file", "_folder")) else value
    return dg.MetadataValue.json(value)
