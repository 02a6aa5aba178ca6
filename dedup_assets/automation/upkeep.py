"""The job `maintain_store`: `dedup-assets maintain` from the UI or on a schedule."""

from typing import Any

import dagster as dg

from dedup_assets.cancellation import cancellable_executor
from dedup_assets.corpus.maintenance import maintain
from dedup_assets.names import Names

MAINTAIN_STORE = "maintain_store"


def define_maintain_store(names: Names) -> dg.JobDefinition:
    """The job for one workspace. Its only step waits for running stages and keeps others from starting."""

    @dg.op(
        required_resource_keys={names.workspace},
        description="Removes what nothing that is current refers to, and compacts the table of embeddings.",
    )
    def run_maintenance(context) -> None:  # Dagster reads annotations, but not as strings
        freed = maintain(getattr(context.resources, names.workspace).open())
        metadata: dict[str, Any] = {"bytes_freed": freed.total}
        metadata |= {f"{kind} (entries)": count for kind, count in freed.counts.items()}
        if freed.waits:
            metadata["waits"] = freed.waits
        context.add_output_metadata(metadata)
        context.log.info(f"{freed.total} bytes freed. {freed.waits}".strip())

    @dg.job(
        name=MAINTAIN_STORE,
        executor_def=cancellable_executor,
        description="Deletes data that no current result needs: superseded versions of the table of embeddings, "
        "vectors of texts that are gone, cells of retired centroids, readings and matches of retracted content, "
        "leftovers of killed runs. Changes no result.",
    )
    def maintain_store() -> None:
        run_maintenance()

    return maintain_store
