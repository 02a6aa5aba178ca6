"""The schedule of re-curation."""

from __future__ import annotations

import dagster as dg

from dedup_assets.automation.jobs import recurate_corpus
from dedup_assets.errors import DedupError
from dedup_assets.names import Names
from dedup_assets.partitions import range_tags, spans
from dedup_assets.storage.ledger import STAGES

SUNDAYS = "0 3 * * 0"
"""The time if the schedule is switched on in the UI without a setting."""


def weekly_recuration_schedule(names: Names, cron: str) -> dg.ScheduleDefinition:
    """The schedule `weekly_recuration`: off until `recurate_cron` is set in curation.toml or it is switched on in the
    UI."""

    @dg.schedule(
        name="weekly_recuration",
        job=recurate_corpus,
        required_resource_keys={names.workspace},
        cron_schedule=cron or SUNDAYS,
        default_status=dg.DefaultScheduleStatus.RUNNING if cron else dg.DefaultScheduleStatus.STOPPED,
        description="Curates everything again in one order over all records, as a new generation beside the old one. "
        "Nothing is embedded again. When: recurate_cron in curation.toml.",
    )
    def weekly_recuration(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            decided = getattr(context.resources, names.workspace).open().ledger.completions(STAGES[-1])
        except DedupError as problem:
            return dg.SkipReason(str(problem))
        # One shard is enough, because the result covers all; two runs would be two re-curations.
        ranges = list(spans(context.instance.get_dynamic_partitions(names.partitions), decided))
        if not ranges:
            return dg.SkipReason("Nothing is curated yet: there is nothing to decide again.")
        return dg.RunRequest(tags=range_tags(max(ranges, key=len)))

    return weekly_recuration
