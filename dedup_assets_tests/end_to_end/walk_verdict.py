"""Whether output, ledger and Dagster agree at the end of a walk, also with a new workspace of the remaining content."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

import dedup_assets as da
from dedup_assets.corpus.changes import unfinished_shards
from dedup_assets.storage.ledger import STAGES, TAKEDOWN, Ledger
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.end_to_end.walk_ui import Ui
from dedup_assets_tests.end_to_end.walk_world import OPTIONS, World

ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def faults(world: World, workspace: Path, ui: Ui, last: da.Curation, fresh: Path) -> Iterator[str]:
    """The disagreements after a last curation of the whole folder; `fresh` is a folder to create."""
    ledger = Workspace.open(workspace).ledger
    yield from _ledger(world, workspace, ledger, last)
    yield from _dagster(workspace, ledger, ui)
    yield from _output(world, workspace, ledger, fresh)
    for check in da.audit(workspace=workspace):
        if not check.passed and not check.is_warning:
            yield f"check {check.asset}.{check.name}: {check.summary}"


def _ledger(world: World, workspace: Path, ledger: Ledger, last: da.Curation) -> Iterator[str]:
    """The ledger has the current content of each file, names unreadable ones, and nothing is left to do."""
    state = {shard.key: shard.retracted for shard in ledger.shards()}
    live = {a.shard: a.fingerprint for a in ledger.live_admissions()}
    there = {key for key in world.now if state.get(key) != TAKEDOWN}
    for key in sorted(there - world.broken):
        if live.get(key) != world.now[key]:
            yield f"{key}: the file holds {world.now[key][:8]}, the ledger has {live.get(key, 'nothing')[:8]}"
    failing = there & world.broken
    gone = set(state) - set(world.now)  # the last record of a file may be a failure
    if set(last.failures) != failing or set(ledger.failures()) - gone != failing:
        yield f"cannot be read: {failing}; said: {set(last.failures)}; on record: {set(ledger.failures())}"
    out = {key for key, reason in state.items() if reason is not None}
    if out & set(live):
        yield f"retracted and live: {out & set(live)}"
    waiting = set(unfinished_shards(Workspace.open(workspace)))
    if not waiting <= {*failing, *ledger.failures()}:
        yield f"still unfinished: {waiting - failing}"
    for key, fingerprint in live.items():
        if (key, fingerprint) not in world.seen:
            yield f"{key}: the ledger has a content that its file never had: {fingerprint[:8]}"
    if last.failed_checks:
        yield f"checks failed: {last.failed_checks}"


def _dagster(workspace: Path, ledger: Ledger, ui: Ui) -> Iterator[str]:
    """Every live shard is a partition and green in all seven assets, with the versions of the ledger; nothing is in
    progress that is not queued."""
    failing = ledger.failures()
    live = [shard.key for shard in ledger.shards() if shard.retracted is None]
    known = {shard.key for shard in ledger.shards()}
    found = da.sync(workspace=workspace)
    if found:
        yield f"a curation left to be synced: {found}"
    queued = ui.runs(dg.DagsterRunStatus.QUEUED)
    for run in ui.runs(*(set(dg.DagsterRunStatus) - {*ENDED, dg.DagsterRunStatus.QUEUED})):
        yield f"run {run.run_id} ({run.job_name}) is {run.status.value} for ever"
    for stage in STAGES:
        shown = ui.statuses(stage)
        excused = {key for run in queued for key in ui.planned(run.run_id, stage)}
        if missing := set(live) - set(shown.partitions):
            yield f"{stage}: no partition: {missing}"
        if set(found.strangers) != set(shown.partitions) - known:
            yield f"{stage}: strangers are {set(shown.partitions) - known}, named are {found.strangers}"
        if lost := set(live) - shown.green - set(failing) - excused:
            what = {key: "red" if key in shown.red else "under way" if key in shown.under_way else "-" for key in lost}
            yield f"{stage}: finished and not green: {what}"
        if stuck := shown.under_way - excused:
            yield f"{stage}: under way for ever: {stuck}"
        if wrong := {key for key, (at, _, _) in failing.items() if at == stage} & shown.green:
            yield f"{stage}: failed and green: {wrong}"
        done = {key: entry.input_version for key, entry in ledger.completions(stage).items() if key in live}
        said = ui.input_versions(stage, [key for key in done if key in shown.green])
        if other := {key for key, input_version in said.items() if input_version != done[key]}:
            yield f"{stage}: Dagster's last materialisation is of another content or generation: {other}"
    if set(ui.instance.get_dynamic_partitions(ui.partition_set())) != set(shown.partitions):
        yield "the UI lists other partitions than the instance"


def _output(world: World, workspace: Path, ledger: Ledger, fresh: Path) -> Iterator[str]:
    """The output equals that of a new workspace with the same contents in the same order."""
    buried = set(ledger.tombstones())
    admissions = [a for a in ledger.live_admissions() if (a.shard, a.fingerprint) in world.seen]
    found = da.open_curation(workspace)
    if not admissions:
        return
    folder = fresh.parent / f"{fresh.name}-in"
    folder.mkdir()
    paths = []
    for a in admissions:
        rows = [json.loads(line) for line in world.seen[a.shard, a.fingerprint].splitlines()]
        paths.append(folder / f"{a.shard}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows if row["id"] not in buried))
    generation = ledger.generation()
    rebuilt = sum(a.number <= generation.rebuilt for a in admissions) if generation else 0
    options = {**OPTIONS, "threshold": Workspace.open(workspace).settings.threshold, "progress": False}
    with _own_instance():
        if rebuilt:
            da.curate(*paths[:rebuilt], workspace=fresh, **options)
            wanted = da.recurate(workspace=fresh, progress=False)
        if rebuilt < len(paths):
            wanted = da.curate(*paths[rebuilt:], workspace=fresh, **options)
    for name, ours, theirs in (
        ("kept", _ids(found.kept), _ids(wanted.kept)),
        ("removed", _removed(found), _removed(wanted)),
        ("quarantined", _quarantined(found), _quarantined(wanted)),
        ("pairs", _pairs(found), _pairs(wanted)),
    ):
        if ours != theirs:
            yield f"{name}: only here {_some(ours - theirs)}; only in a fresh workspace {_some(theirs - ours)}"


@contextmanager
def _own_instance() -> Iterator[None]:
    """Record runs in the instance of their own workspace meanwhile."""
    home = os.environ.pop("DAGSTER_HOME")
    try:
        yield
    finally:
        os.environ["DAGSTER_HOME"] = home


def _ids(table: Any) -> Counter[Any]:
    return Counter(table.to_arrow(["id"]).column("id").to_pylist())


def _removed(curation: da.Curation) -> Counter[Any]:
    names = ("id", "shard", "keeper_id", "keeper_shard", "similarity", "kind")
    return Counter(tuple(row[name] for name in names) for row in curation.removed.to_arrow().to_pylist())


def _quarantined(curation: da.Curation) -> Counter[Any]:
    rows = curation.quarantined.to_arrow().to_pylist()
    # Rows with an id that was taken down have no content, and are not in the remaining content.
    return Counter((json.loads(row["record"])["id"], row["reason"]) for row in rows if row["record"] is not None)


def _pairs(curation: da.Curation) -> Counter[Any]:
    rows = curation.pairs.to_arrow().to_pylist()
    return Counter((*sorted((row["id_a"], row["id_b"])), row["similarity"]) for row in rows)


def _some(found: Collection[Any]) -> str:
    return str(sorted(map(str, found))[:4])
