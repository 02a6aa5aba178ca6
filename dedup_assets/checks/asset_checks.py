"""The checks as Dagster's asset checks: after every run for its shards, in the job `audit_recall` for everything.

One step evaluates all checks of a run, because a separate step for each would cost more than most checks. None is
blocking: they examine the published result, and a failed check must be visible and must not hide the result. So a
failing check fails no run; it is red in the UI, `dedup-assets curate` and `dedup-assets audit` name it and end with
status 1.

They belong to the asset as a whole, because partitioned checks are in preview in Dagster. Each result names its shards.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dedup_assets.checks import evidence, health, recall, rows
from dedup_assets.checks.finding import NAMED, Finding
from dedup_assets.checks.recall import BruteForce
from dedup_assets.checks.scope import Scope
from dedup_assets.interrupts import raise_interrupt
from dedup_assets.names import Names
from dedup_assets.partitions import partitions_of, range_ends
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.locks import Lock

STEP = "corpus_checks"


@dataclass(frozen=True)
class Check:
    """One check: its asset, its promise, and its evaluation."""

    asset: str
    name: str
    description: str
    evaluate: Callable[[Scope, BruteForce], Finding]
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR

    @property
    def key(self) -> dg.AssetCheckKey:
        return dg.AssetCheckKey(dg.AssetKey(self.asset), self.name)


CHECKS = (
    Check(
        "raw_shards",
        "rows_are_conserved",
        "Every row that was read is either a valid record or in quarantine with its reason, and none is both.",
        lambda scope, _: rows.rows_read(scope),
    ),
    Check(
        "embeddings",
        "texts_fit_the_window",
        "Hardly any text is longer than what the model reads of it; texts that differ only beyond it count as one.",
        lambda scope, _: health.texts_fit_the_window(scope),
        dg.AssetCheckSeverity.WARN,
    ),
    Check(
        "embeddings",
        "texts_are_understood",
        "The model knows the tokens of nearly all texts; those it does not know are compared with their copies alone.",
        lambda scope, _: health.texts_are_understood(scope),
        dg.AssetCheckSeverity.WARN,
    ),
    Check(
        "kmeans_centroids",
        "codebook_fits",
        "The centroids still suit the corpus: ghosts per text are as when they were fitted, and cells are even. If "
        "not, joins take longer and find the same.",
        lambda scope, _: health.codebook_fits(scope),
        dg.AssetCheckSeverity.WARN,
    ),
    Check(
        "pairwise_similarities",
        "recall_is_one",
        "Every match that comparing a sample of records with the corpus by brute force finds is among the stored ones.",
        recall.recall,
    ),
    Check(
        "duplicate_ids",
        "removed_have_kept_keepers",
        "Every removed record names a keeper that is itself kept and, by the stored vectors, at or above the "
        "threshold, or has the same text.",
        lambda scope, _: evidence.removed_have_keepers(scope),
    ),
    Check(
        "duplicate_ids",
        "kept_do_not_match",
        "No two kept records match: a sample of records compared with all that is kept by brute force.",
        recall.kept_do_not_match,
    ),
    Check(
        "deduplicated_dataset",
        "rows_are_conserved",
        "Each row of the input is in exactly one of kept, removed and quarantined, counted in the published files, "
        "which are those that the manifest lists.",
        lambda scope, _: rows.rows_published(scope),
    ),
    Check(
        "deduplicated_dataset",
        "schema_and_ids",
        "The kept records have the input's columns, types and order, and no id occurs twice.",
        lambda scope, _: rows.schema_and_ids(scope),
    ),
    Check(
        "deduplicated_dataset",
        "nothing_waits",
        "Registered shards are curated within a day, none has failed, and a scheduled re-curation is not overdue.",
        lambda scope, _: health.nothing_waits(scope),
        dg.AssetCheckSeverity.WARN,
    ),
)


class AuditConfig(dg.Config):
    """The sample sizes of the checks."""

    sample: int = 0
    """Records, and removals, in each sample; 0: 64 after a run over some shards, 1,000 for the whole corpus."""


def define_checks(names: Names) -> dg.AssetChecksDefinition:
    """Define the checks of one workspace."""

    @dg.multi_asset_check(
        name=STEP,
        specs=[
            dg.AssetCheckSpec(check.name, asset=check.asset, description=check.description, blocking=False)
            for check in CHECKS
        ],
        can_subset=True,
        required_resource_keys={names.workspace},
        description="What the contract promises, measured on what is published.",
    )
    def corpus_checks(context: dg.AssetCheckExecutionContext, config: AuditConfig) -> Iterator[dg.AssetCheckResult]:
        """Evaluate the selected checks on the shards of the run, or on the whole corpus if the run has none."""
        workspace: WorkspaceResource = getattr(context.resources, names.workspace)
        scope = Scope(workspace.open(), run_shards(context, names), config.sample)
        brute_force = BruteForce(scope)
        # A newer generation may be published before the last check: the lock keeps this one from being pruned.
        with scope.workspace.lock(Lock.MAINTENANCE, shared=True):
            for check in CHECKS:
                raise_interrupt()
                if check.key in context.selected_asset_check_keys:
                    yield as_result(check, scope, evaluated(check, scope, brute_force))

    return corpus_checks


def run_shards(context: dg.AssetCheckExecutionContext, names: Names) -> list[str] | None:
    """Shards of the run that this step belongs to; None if it has no partition."""
    tags = context.run.tags
    if range_ends(tags) == (None, None):
        return None
    return partitions_of(tags, context.instance.get_dynamic_partitions(names.partitions))


def evaluated(check: Check, scope: Scope, brute_force: BruteForce) -> Finding:
    """The finding of a check. A check that cannot be evaluated is a finding too, because it must not fail a run with a
    published result."""
    try:
        return check.evaluate(scope, brute_force)
    except Exception as problem:
        return Finding(
            False,
            f"Could not be evaluated: {type(problem).__name__}: {problem}",
            advice="Something that should be on disk is missing or cannot be read: restore it from a backup. If "
            "nothing is, please report this.",
        )


def as_result(check: Check, scope: Scope, finding: Finding) -> dg.AssetCheckResult:
    """A finding as Dagster's result."""
    metadata: dict[str, Any] = {"summary": finding.summary, "scope": scope.words, **finding.numbers}
    if finding.offending:
        shown = [entry for entry in finding.offending[:NAMED] if entry]
        if len(finding.offending) > len(shown):
            shown.append(f"and {len(finding.offending) - len(shown)} more")
        metadata["offending_count"] = len(finding.offending)
        metadata["offending"] = dg.MetadataValue.json(shown)
    if finding.advice:
        metadata["what_to_do"] = finding.advice
    return dg.AssetCheckResult(
        passed=finding.passed,
        asset_key=check.key.asset_key,
        check_name=check.name,
        severity=check.severity,
        description=finding.summary,
        metadata=metadata,
    )
