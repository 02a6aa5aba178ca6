"""The sensor of watched sources: new, changed and vanished files become runs.

`arrival` compares the files; this module updates the ledger and requests runs from Dagster.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from itertools import groupby

import dagster as dg

from dedup_assets.automation.agreement import agree
from dedup_assets.automation.jobs import audit_recall, curate_new_shards, recurate_corpus, redecide
from dedup_assets.automation.upkeep import MAINTAIN_STORE
from dedup_assets.corpus.arrival import Due, Survey, ask_for_decisions, read_memory, survey, write_memory
from dedup_assets.corpus.changes import unfinished_shards
from dedup_assets.corpus.freed_ids import readmit_freed
from dedup_assets.corpus.registration import register_files
from dedup_assets.corpus.retraction import retract_shards
from dedup_assets.errors import DedupError, some
from dedup_assets.names import WORKSPACE_KEY, Names
from dedup_assets.partitions import partitions_of, range_ends, range_tags, spans
from dedup_assets.storage.ledger import STAGES, VANISHED
from dedup_assets.storage.liveness import forget_run, has_died
from dedup_assets.storage.workspace import Workspace

_JOBS = {MAINTAIN_STORE, *(job.name for job in (audit_recall, curate_new_shards, recurate_corpus, redecide))}
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_FAILED, _FAILED_RUNS = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]), 20
LAUNCH_SECONDS = 300
"""A run enters the queue immediately after its creation; after this time it never will."""

_UNDER_WAY = dg.RunsFilter(statuses=[status for status in dg.DagsterRunStatus if status not in _ENDED])


def arriving_shards_sensor(names: Names, watch_seconds: int) -> dg.SensorDefinition:
    """The sensor `arriving_shards`, which checks the sources every `watch_seconds` (at least 5, the interval of
    Dagster's daemon)."""

    @dg.sensor(
        name="arriving_shards",
        jobs=[curate_new_shards, redecide],
        required_resource_keys={names.workspace},
        minimum_interval_seconds=watch_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks at the sources in curation.toml (`dedup-assets watch`). New, changed and returned shard "
        "files are curated, vanished ones retracted; files that are still being written wait.",
    )
    def arriving_shards(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            space = getattr(context.resources, names.workspace).open()
            end_dead_runs(context.instance, space)
            if not (space.settings.sources or space.settings.reference_sources):
                idle = not runs_under_way(context.instance, space)
                if idle and (requests := _rest_of_failed_runs(context.instance, space)):
                    return dg.SensorResult(run_requests=requests)
                return dg.SkipReason(
                    f"No source is watched: name some with `dedup-assets watch SOURCE... --workspace {space.root}`."
                )
            return _tick(context, space)
        except DedupError as problem:
            # A failing sensor shows a traceback; these errors are for the user to correct.
            return dg.SkipReason(str(problem))

    return arriving_shards


def end_dead_runs(instance: dg.DagsterInstance, space: Workspace) -> None:
    """Report runs whose process was killed, and runs that never entered the queue, as failed: nothing else does, and
    while they count as in progress no other run begins and their shards wait."""
    for run in runs_under_way(instance, space):
        if has_died(space.root, run.run_id):
            instance.report_run_failed(run, "Its process is gone. Run it again: what was finished is kept.")
            forget_run(space.root, run.run_id)
        elif _was_never_launched(instance, run):
            instance.report_run_failed(run, "It was made and never launched: the range may hold no partition.")


def runs_under_way(instance: dg.DagsterInstance, space: Workspace) -> list[dg.DagsterRun]:
    """The unfinished runs on this workspace's assets. The instance may also hold runs of other assets and of other
    workspaces, which the configuration of a run names."""
    partitions = instance.get_dynamic_partitions(Names.of(space.root).partitions)
    return [run for run in instance.get_runs(_UNDER_WAY) if _is_ours(run, space, partitions)]


def _was_never_launched(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run was created and never started: Dagster creates it before it checks its range, and leaves it so if
    it refuses the range."""
    record = instance.get_run_record_by_id(run.run_id) if run.status is dg.DagsterRunStatus.NOT_STARTED else None
    return record is not None and record.create_timestamp.timestamp() <= time.time() - LAUNCH_SECONDS


def _is_ours(run: dg.DagsterRun, space: Workspace, partitions: Sequence[str]) -> bool:
    if run.job_name not in _JOBS and _assets_of(run).isdisjoint(STAGES):
        return False
    resources = run.run_config.get("resources", {})
    theirs = [key for key in resources if key.startswith(WORKSPACE_KEY)] if isinstance(resources, dict) else []
    if theirs:
        return Names.of(space.root).workspace in theirs
    # A run from the UI of another workspace is over that workspace's partitions.
    ends = [end for end in range_ends(run.tags) if end is not None]
    return not ends or any(end in partitions for end in ends)


def _assets_of(run: dg.DagsterRun) -> set[str]:
    """Names of the assets selected for a run."""
    return {key.path[-1] for key in run.asset_selection or ()}


def _rest_of_failed_runs(instance: dg.DagsterInstance, space: Workspace) -> list[dg.RunRequest]:
    """Requests for the shards that were in a run with failing shards, such as a backfill from the UI, and are
    unfinished for that reason: one follow-up run for each such run. Call it while no run is in progress."""
    failures = space.ledger.failures()
    waiting = set(unfinished_shards(space)).difference(failures) if failures else set()
    if not waiting:
        return []
    partitions = list(instance.get_dynamic_partitions(Names.of(space.root).partitions))
    requests: list[dg.RunRequest] = []
    for run in instance.get_runs(_FAILED, limit=_FAILED_RUNS):
        whole = run.job_name == curate_new_shards.name or _assets_of(run).issuperset(STAGES)
        keys = partitions_of(run.tags, partitions)
        if (
            not whole
            or not _is_ours(run, space, partitions)
            or run.run_id not in {failures[k][2] for k in keys if k in failures}
        ):
            continue
        rest = waiting.intersection(keys)
        waiting -= rest
        requests += [
            dg.RunRequest(
                run_key=f"rest of {run.run_id} from {span[0]}", job_name=curate_new_shards.name, tags=range_tags(span)
            )
            for span in spans(partitions, rest)
        ]
    return requests


def _tick(context: dg.SensorEvaluationContext, space: Workspace) -> dg.SensorResult:
    name = Names.of(space.root).partitions
    partitions = list(context.instance.get_dynamic_partitions(name))
    under_way = runs_under_way(context.instance, space)
    in_flight = {key for run in under_way for key in partitions_of(run.tags, partitions)}
    memory = read_memory(context.cursor)
    found = survey(space, memory, in_flight, idle=not under_way)
    if found.vanished:
        retract_shards(space, found.vanished, VANISHED)
    if not under_way:
        readmit_freed(space)  # they are unfinished then, and due at the next check
    _register(space, found)
    if not under_way:
        ask_for_decisions(space, memory, found)
    known = set(partitions)
    new = [shard.key for shard in space.ledger.shards() if shard.key not in known]
    requests = list(_requests(found, [*partitions, *new]))
    if not requests and not under_way:
        requests = _rest_of_failed_runs(context.instance, space)
    found.problems += _deleted(space, new)
    for problem in found.problems:
        context.log.warning(problem)
    if not requests and not under_way:
        agree(space, context.instance)
    waits = f"Run {under_way[0].run_id} ({under_way[0].job_name}) is under way. " if under_way else ""
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else f"{waits}{found.words()}",
        cursor=write_memory(found.memory),
        dynamic_partitions_requests=[dg.AddDynamicPartitionsRequest(name, new)] if new else [],
    )


def _deleted(space: Workspace, missing: Sequence[str]) -> Iterator[str]:
    """The message about published shards without a partition: a user deleted it in the UI."""
    published = space.ledger.completions(STAGES[-1]) if missing else {}
    if deleted := [key for key in missing if key in published]:
        yield (
            f"{len(deleted)} partitions were deleted and are added again, since their shards are published: "
            f"{some(deleted)}. To take one back, run `dedup-assets retract SHARD --workspace {space.root}`."
        )


def _register(space: Workspace, found: Survey) -> None:
    """Register the due shards in the ledger; a shard that is refused is left out and reported."""
    for role, files in found.moved.items():
        register_files(space.ledger, files, role)
    for role, group in groupby(found.due, key=lambda due: due.role):
        entries = list(group)
        try:
            _enter(space, entries, role)
        except DedupError:
            _register_singly(space, found, entries, role)


def _register_singly(space: Workspace, found: Survey, entries: Sequence[Due], role: str) -> None:
    for due in entries:
        try:
            _enter(space, [due], role)
        except DedupError as problem:
            found.due.remove(due)
            found.problems.append(str(problem))


def _enter(space: Workspace, entries: Sequence[Due], role: str) -> None:
    register_files(space.ledger, [due.file for due in entries], role)


def _requests(found: Survey, partitions: Sequence[str]) -> Iterator[dg.RunRequest]:
    tokens = {due.file.key: due.token for due in found.due}
    for span in spans(partitions, tokens):
        yield dg.RunRequest(
            run_key=_run_key([tokens[key] for key in span]), job_name=curate_new_shards.name, tags=range_tags(span)
        )
    for span in list(spans(partitions, found.redecide))[:1]:  # one run decides and publishes all shards
        yield dg.RunRequest(run_key=found.redecide_token, job_name=redecide.name, tags=range_tags(span))


def _run_key(tokens: Sequence[str]) -> str:
    """The key of a run: the content of its shard, or a digest for several. Dagster never runs a key twice."""
    if len(tokens) == 1:
        return tokens[0]
    digest = hashlib.blake2b("\n".join(tokens).encode(), digest_size=16).hexdigest()
    return f"{len(tokens)} shards@{digest}"
