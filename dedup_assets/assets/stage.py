"""The shared life cycle of the shard assets: the shards of a run, the unfinished ones among them, and the record of
results in the ledger and in Dagster's metadata."""

from __future__ import annotations

import inspect
import itertools
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from dedup_assets.assets.failures import ShardFailure, affects_all_shards
from dedup_assets.assets.inputs import INPUTS_OF
from dedup_assets.assets.lineage import CODE_VERSION, REPORTED, Lineage, observations, reported_shards, retracted
from dedup_assets.assets.metadata import RunMetadata
from dedup_assets.cancellation import raise_if_cancelled
from dedup_assets.errors import DedupError, FailedShardsError, WorkspaceError, first_line, some
from dedup_assets.interrupts import interrupts_noted, raise_interrupt
from dedup_assets.names import Names
from dedup_assets.partitions import range_ends
from dedup_assets.progress import Progress, StageTime, stage_progress
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.ledger import STAGES, Completion, Ledger
from dedup_assets.storage.locks import Lock

GROUP = "deduplication"
OWNERS = ["team:corpus"]

RECURATE = "dedup-assets/recurate"
"""Tag of a run that requests a rebuild if it is "true": new centroids, and one order over all live records."""

__all__ = ["GROUP", "RECURATE", "STAGES", "StageRun", "shard_asset", "stage_run"]


@dataclass(frozen=True)
class ShardAsset:
    """One of the seven assets, for any workspace: `define` makes the asset of one workspace.

    Attributes
    ----------
    compute : callable
        Takes the context, the workspace and, if it has the parameter, the Dask workers.
    deps : tuple of str
        Names of the assets and sources it depends on.
    """

    compute: Callable[..., None]
    deps: tuple[str, ...]
    kinds: frozenset[str]
    description: str

    @property
    def name(self) -> str:
        return self.compute.__name__

    def define(self, names: Names) -> dg.AssetsDefinition:
        """The asset: one partition for each shard, one or many in a run, identity mappings upstream."""
        keys = [names.workspace]
        if "dask" in inspect.signature(self.compute).parameters:
            keys.append(names.dask)

        def compute(context) -> None:  # without annotations: Dagster accepts none that are strings
            self.compute(context, *(getattr(context.resources, key) for key in keys))

        code = self.compute.__code__
        with warnings.catch_warnings():
            # "Beta" in this Dagster; the tests cover the allowed versions.
            warnings.simplefilter("ignore", dg.BetaWarning)
            reference = dg.LocalFileCodeReference(
                file_path=code.co_filename, line_number=code.co_firstlineno, label=Path(code.co_filename).name
            )
            return dg.asset(
                name=self.name,
                deps=list(self.deps),
                required_resource_keys=set(keys),
                partitions_def=dg.DynamicPartitionsDefinition(name=names.partitions),
                backfill_policy=dg.BackfillPolicy.single_run(),
                group_name=GROUP,
                owners=OWNERS,
                kinds=set(self.kinds),
                description=self.description,
                code_version=CODE_VERSION,
                # Local paths only.
                metadata={"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])},
            )(compute)


def shard_asset(*, deps: Sequence[str], kinds: set[str], description: str) -> Callable[..., ShardAsset]:
    """Declare a shard asset."""
    return lambda compute: ShardAsset(compute, tuple(deps), frozenset(kinds), description)


class StageRun:
    """One run of one asset over one or many shards.

    Partitions of retracted shards stay, for the audit trail; `shards` holds the others, `retracted` the reasons of the
    retracted ones.
    """

    def __init__(
        self,
        stage: str,
        partitions: Sequence[str],
        resource: WorkspaceResource,
        run_id: str,
        log: Callable[[str], object] = sys.stderr.write,
    ) -> None:
        self.stage = stage
        self.workspace = resource.open()
        self.retracted: dict[str, str] = {}
        # Dagster keeps partitions in the order of their addition: a deleted one returns at the end.
        place = {shard.key: at for at, shard in enumerate(self.ledger.shards())}
        self.shards = sorted(partitions, key=lambda key: place.get(key, len(place)))
        self._leave_out_retracted()
        self.run_id = run_id
        self._resource = resource
        self._log = log
        self.progress: Progress = Progress(stage)
        self.spent: StageTime = StageTime()
        self.failed: dict[str, str] = {}
        self.helped: dict[str, list[str]] = {}

    @property
    def ledger(self) -> Ledger:
        return self.workspace.ledger

    def upstream(self, stage: str) -> dict[str, Completion]:
        """Completions of an earlier stage for the shards of this run. Raises if one is missing."""
        done = self.ledger.completions(stage)
        self._require(stage, done)
        return {shard: done[shard] for shard in self.shards}

    def require(self, stage: str) -> None:
        """Raise if an earlier stage was never finished for a shard of this run, or the shard is not admitted.

        That is enough to decide: if new content replaced a shard since this run was requested, its matches are computed
        during the decision.
        """
        admitted = {a.shard for a in self.ledger.live_admissions()}
        self._require(stage, self.ledger.ever_finished(stage) & admitted)

    def _require(self, stage: str, done: Collection[str]) -> None:
        missing = [shard for shard in self.shards if shard not in done]
        if missing:
            self._leave_out_retracted()  # since this run began
            missing = [shard for shard in self.shards if shard not in done]
        if missing:
            raise WorkspaceError(
                f"{self.stage}: {stage} is not finished for {some(missing)}: materialise {stage} for these "
                "partitions first, or all seven assets together."
            )

    def _leave_out_retracted(self) -> None:
        out = {shard.key: shard.retracted for shard in self.ledger.shards() if shard.retracted is not None}
        self.retracted |= {key: out[key] for key in self.shards if key in out}
        self.shards = [key for key in self.shards if key not in out]

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Hold the decision lock and reload the settings under it: the previous holder may have had newer settings,
        whose decisions must not be undone."""
        with self.workspace.lock(Lock.DECISIONS):
            self.workspace = self._resource.open()
            yield

    def unfinished(self, input_versions: Mapping[str, str]) -> list[str]:
        """Shards of this run without a recorded completion for the given input versions."""
        done = self.ledger.completions(self.stage)
        return [s for s in self.shards if s not in done or done[s].input_version != input_versions[s]]

    def complete(self, shard: str, input_version: str, stats: Mapping[str, Any], seconds: float) -> None:
        """Record that a shard is finished; its files are on disk."""
        self.ledger.complete(self.stage, [(shard, input_version, stats, seconds)], self.run_id)

    def moved(self) -> list[str]:
        """Shards outside this run that it finished again, because a new generation decides and publishes all shards."""
        done = self.ledger.completions(self.stage).values()
        own = {*self.shards, *self.retracted}
        return [entry.shard for entry in done if entry.run_id == self.run_id and entry.shard not in own]

    def record_stage(self, stage: str, shards: Sequence[str]) -> None:
        """Note that this run finished another stage for some shards, whose own run stopped before it."""
        self.helped.setdefault(stage, []).extend(shards)

    def fail(self, shard: str, problem: Exception) -> None:
        """Record that a shard cannot be processed, and continue with the others."""
        message = str(problem) if isinstance(problem, DedupError) else self._unexpected(shard, problem)
        self.failed[shard] = message
        self.ledger.fail(shard, self.stage, message, self.run_id)

    def _unexpected(self, shard: str, problem: Exception) -> str:
        """The message for an unforeseen failure. The traceback goes to the log of the run."""
        self._log("".join(traceback.format_exception(problem)))
        return (
            f"Shard {shard}: {self.stage} failed unexpectedly: {type(problem).__name__}: {first_line(problem)}. "
            f"The other shards go on without it. The traceback is in the log of run {self.run_id}, and with --verbose "
            "on the terminal. Run the same command again to try the shard again."
        )

    @contextmanager
    def isolating(self, shard: str) -> Iterator[None]:
        """Turn an error that affects one shard into the failure of that shard alone."""
        try:
            yield
        except Exception as problem:
            if affects_all_shards(problem):
                raise
            self.fail(shard, problem)

    @contextmanager
    def attributing_to(self, shard: str) -> Iterator[None]:
        """Attribute an error to this shard, unless it affects all shards."""
        try:
            yield
        except Exception as problem:
            if affects_all_shards(problem) or isinstance(problem, ShardFailure):
                raise
            raise ShardFailure(shard) from problem

    def without_failing(self, work: Callable[[], None]) -> None:
        """Do some work on admitted shards; failing shards are withdrawn, and the work is repeated without them.

        Shards of this run admitted after a failing one may have texts that it introduced. They are withdrawn too, and
        the next run admits them again without it. A shard with published results stays: then the whole run fails.
        """
        while True:
            try:
                return work()
            except ShardFailure as failure:
                problem = failure.__cause__
                assert isinstance(problem, Exception)
                published = self.ledger.ever_finished(STAGES[-1])
                if failure.shard in published:
                    raise problem from None
                self.fail(failure.shard, problem)
                numbers = {a.shard: a.number for a in self.ledger.live_admissions()}
                number = numbers.get(failure.shard, 0)
                later = [key for key in self.shards if numbers.get(key, 0) > number and key not in published]
                for shard in (failure.shard, *later):
                    self.ledger.withdraw(shard, self.run_id)
                self.shards = [shard for shard in self.shards if shard not in (failure.shard, *later)]

    def raise_failures(self) -> None:
        """End the step as failed if any shard failed; what finished stays finished."""
        if self.failed:
            others = len({*self.shards} - {*self.failed})
            reasons = "\n".join(f"  {shard}: {message}" for shard, message in self.failed.items())
            finished = f"\nThe other {others} are finished at this stage." if others else ""
            raise FailedShardsError(
                f"{len(self.failed)} of {others + len(self.failed)} shards failed in {self.stage}:\n"
                f"{reasons}{finished}",
                self.failed,
                self.run_id,
            )


@contextmanager
def stage_run(
    context: dg.AssetExecutionContext, resource: WorkspaceResource, dask: DaskCluster | None = None
) -> Iterator[StageRun]:
    """Open a run of the asset being materialised; at its end, attach each shard's stats as metadata."""
    stage = context.asset_key.path[-1]
    if not (context.has_partition_key or context.has_partition_key_range):
        raise WorkspaceError(
            f"{stage}: the run is over no partition. Choose some, each is a shard: in the UI behind Materialize, or "
            f"leave it to `dedup-assets curate --workspace {resource.path}`."
        )
    if not context.partition_keys:
        first, last = range_ends(context.run.tags)
        raise WorkspaceError(
            f"{stage}: the range from {first} to {last} holds no partition: in Dagster's order {last} comes first, or "
            "one of them was deleted. Choose the range again."
        )
    run = StageRun(stage, context.partition_keys, resource, context.run.run_id, context.log.error)
    if dask is not None:
        read = run.ledger.completions(STAGES[0]).values()
        dask.adopt(run.workspace.settings, run.workspace.root, sum(int(done.stats["rows"]) for done in read))
    if context.run.tags.get(RECURATE) == "true":
        # The same for all runs of a backfill, and for a run and its retries.
        token = context.run.tags.get("dagster/backfill") or context.run.root_run_id or context.run.run_id
        run.ledger.request_rebuild(token)
    with (
        interrupts_noted(),
        stage_progress(stage) as (progress, spent),
        run.workspace.lock(Lock.MAINTENANCE, shared=True),
    ):
        run.progress, run.spent = progress, spent
        progress.before = raise_interrupt
        raise_if_cancelled(context.instance, context.run.run_id)
        yield run
        raise_if_cancelled(context.instance, context.run.run_id)
    context.add_output_metadata(REPORTED)
    _report(context, run)
    run.raise_failures()


def _report(context: dg.AssetExecutionContext, run: StageRun) -> None:
    """Log a materialisation for every shard that is finished at this stage, with numbers from the ledger as metadata.

    This also happens when other shards failed, because from a failed step alone Dagster would mark the whole range as
    failed.
    """
    own = [shard for shard in run.shards if shard not in run.failed]
    moved = run.moved()
    lineage = Lineage(run.workspace, context.instance, {*own, *moved, *itertools.chain(*run.helped.values())})
    if run.stage in INPUTS_OF:
        read = lineage.done(STAGES[0]) if run.stage == STAGES[0] else {}
        files = {shard: read[shard].input_version for shard in own if shard in read}
        for observation in observations(run.workspace, context.instance, files):
            context.log_event(observation)
    # Outside the range of this run, or of its asset, but Dagster's record of them is outdated.
    reports = [(stage, run.helped[stage]) for stage in STAGES if stage in run.helped]
    reports.append((run.stage, [*own, *moved]))
    if wiped := set(own).difference(reported_shards(context.instance, run.stage, own)):
        # Dependent results were compared with versions that are no longer in Dagster's history.
        reports += [
            (stage, [shard for shard in own if shard in wiped and shard in lineage.done(stage)])
            for stage in STAGES[STAGES.index(run.stage) + 1 :]
        ]
    for stage, shards in reports:
        for shard, metadata in RunMetadata(run.workspace, stage, shards) if shards else ():
            context.log_event(lineage.finished(stage, shard, metadata))
    for shard, reason in run.retracted.items():
        context.log_event(retracted(run.stage, shard, reason))
