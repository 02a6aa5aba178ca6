"""Curation from Python: the functions that the command line calls too. They run the Dagster assets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from dedup_assets.arguments import Options, record_names, resolve_options, source_names, workspace_path
from dedup_assets.corpus import purging
from dedup_assets.corpus.maintenance import Freed
from dedup_assets.corpus.output import read_manifest
from dedup_assets.corpus.retraction import retract_ids, retract_shards, shards_and_ids
from dedup_assets.errors import DedupError, SettingsError, SourceError, WorkspaceError
from dedup_assets.ingest.listing import absolute_source, list_source
from dedup_assets.interrupts import letting_go
from dedup_assets.lookups.totals import summary_of, totals_of
from dedup_assets.named_sources import brought_in, unread_summary
from dedup_assets.progress import Listener, StageClock, listening
from dedup_assets.result import Curation
from dedup_assets.storage.ledger import CORPUS, REFERENCE, TAKEDOWN
from dedup_assets.storage.workspace import Workspace

if TYPE_CHECKING:
    from dedup_assets.automation.agreement import Differences
    from dedup_assets.automation.runs import EmbeddedDagster, Outcome
    from dedup_assets.checks.result import CheckResult


@letting_go
def curate(
    *sources: str | Path,
    workspace: str | Path,
    listener: Listener | None = None,
    progress: bool = True,
    check: bool = True,
    role: str = CORPUS,
    **options: Unpack[Options],
) -> Curation:
    """Bring shard files into a workspace and deduplicate them against everything that is there.

    Parameters
    ----------
    *sources
        Files, folders, globs or fsspec URLs of Parquet, Arrow, JSON, CSV, TSV or text; one file is one shard. Without
        any, what is registered and unfinished is finished.
    workspace
        Folder of the workspace; made on first use.
    listener
        Hears how far each stage is, in place of the progress that is shown.
    progress
        Show progress in a notebook, or on standard error where that is a terminal; False: show nothing.
    check
        Raise at the end if a shard failed; the others are finished either way.
    role
        "corpus", or "reference": records that are never written out, while every record of the corpus that
        matches one of them is removed. For a benchmark's test set, or last year's release.
    **options
        Settings by name (`Settings`), `eps` for 1 - threshold, and `exact_only=True` for no model. In an existing
        workspace an option that would spoil stored work is refused.

    Returns
    -------
    Curation
        What is published now: `kept`, `removed`, `quarantined` and `pairs` as lazy tables, and the numbers.

    Raises
    ------
    DedupError
        With what was found, where, what was expected, and what to do.

    Examples
    --------
    >>> import dedup_assets as da
    >>> result = da.curate("shards/", workspace="ws", threshold=0.9)
    >>> result.kept.head()
    """
    started = time.perf_counter()
    if not sources:
        Workspace.open(workspace_path(workspace))  # there is nothing to finish in a workspace that is yet to be made
    space, found, registered = brought_in(sources, workspace, role, options)
    if not space.ledger.shards():
        raise WorkspaceError(f"No shard is registered in {space.root}: name at least one source.")
    named = [file.key for file in found.files]
    arrival = {"unread": unread_summary(found.unread), "moved": registered.moved}
    return _run_and_report(
        space, lambda dagster: dagster.curate(named), _shown(listener, progress), started, check, arrival
    )


@letting_go
def register(*sources: str | Path, workspace: str | Path, role: str = CORPUS, **options: Unpack[Options]) -> list[str]:
    """Register shards as Dagster partitions without running anything.

    Parameters
    ----------
    *sources
        Files, folders, globs or fsspec URLs; one file is one shard.
    workspace
        Folder of the workspace; made on first use.
    role
        As in `curate`.
    **options
        As in `curate`.

    Returns
    -------
    list of str
        The keys that are to be curated: new ones, and those that had vanished and are back.

    Examples
    --------
    >>> import dedup_assets as da
    >>> da.register("shards/", workspace="ws")
    >>> da.curate(workspace="ws")
    """
    from dedup_assets.embedded import embedded_dagster

    if not sources:
        raise SourceError("no source was named. Name at least one file, folder, glob or fsspec URL.")
    space, _, registered = brought_in(sources, workspace, role, options)
    with embedded_dagster(space) as dagster:
        dagster.register()
    return registered.due


@letting_go
def watch(
    *sources: str | Path, workspace: str | Path, role: str = CORPUS, **options: Unpack[Options]
) -> dict[str, int]:
    """Watch sources: while Dagster's daemon runs on the workspace, it curates their new shards.

    Parameters
    ----------
    *sources
        Files, folders, globs or fsspec URLs; a folder may be empty. They are added to those watched already.
    workspace
        Folder of the workspace; made on first use.
    role
        As in `curate`.
    **options
        As in `curate`.

    Returns
    -------
    dict
        Every source that is watched in this role, with the number of shard files there now.

    Examples
    --------
    >>> import dedup_assets as da
    >>> da.watch("incoming/", workspace="ws")
    """
    from dedup_assets.automation.instance import prepare_home

    if role not in (CORPUS, REFERENCE):
        raise SettingsError(f"role = {role!r}: expected {CORPUS} or {REFERENCE}.")
    named = [absolute_source(source) for source in source_names(sources)]
    for source in named:
        list_source(source)  # one that cannot be listed is more likely a slip than a folder to come
    setting = "sources" if role == CORPUS else "reference_sources"
    space = Workspace.create_or_open(workspace_path(workspace), resolve_options(options)).with_sources(setting, named)
    watched = getattr(space.settings, setting)
    prepare_home(space)  # whoever starts Dagster's daemon on it finds its settings
    return {source: len(list_source(source, space.settings.follow_links).files) for source in watched}


@letting_go
def recurate(*, workspace: str | Path, listener: Listener | None = None, progress: bool = True) -> Curation:
    """Decide everything again: new centroids, and one order over all records (by `keep`, then by content).

    Earlier decisions may change; `output/changes` lists them. The result is a new generation, which takes the place
    of the published one in one step. Nothing is embedded again.

    Parameters
    ----------
    workspace
        Folder of the workspace.
    listener
        Hears how far each stage is, in place of the progress that is shown.
    progress
        Show progress in a notebook, or on standard error where that is a terminal; False: show nothing.

    Returns
    -------
    Curation
        What is published now.

    Examples
    --------
    >>> import dedup_assets as da
    >>> da.recurate(workspace="ws")
    """
    started = time.perf_counter()
    space = Workspace.open(workspace_path(workspace))
    space.sweep()
    return _run_and_report(space, lambda dagster: dagster.recurate(), _shown(listener, progress), started, check=True)


@letting_go
def retract(
    *names: str,
    workspace: str | Path,
    reason: str = TAKEDOWN,
    listener: Listener | None = None,
    progress: bool = True,
) -> Curation:
    """Remove shards or records from the corpus, and decide the others again.

    The others are decided as if they had been curated alone, in the same order: records that were removed only for
    a retracted one come back. `output/changes` lists everything that changed.

    Parameters
    ----------
    *names
        Shards, and ids of records or SHARD:ROW. Where a name could be both, write `shard:NAME` or `id:NAME`.
    workspace
        Folder of the workspace.
    reason
        "takedown": the shards stay out, and the ids of their records never return in whatever shard they come.
        "vanished", for shards only: the files are gone and may return.
    listener
        Hears how far each stage is, in place of the progress that is shown.
    progress
        Show progress in a notebook, or on standard error where that is a terminal; False: show nothing.

    Returns
    -------
    Curation
        What is published now.

    Raises
    ------
    DedupError
        A name is unknown or ambiguous; then nothing is retracted.

    Examples
    --------
    >>> import dedup_assets as da
    >>> da.retract("week-07", workspace="ws")
    """
    started = time.perf_counter()
    space = Workspace.open(workspace_path(workspace))
    space.sweep()
    shards, ids = shards_and_ids(space, record_names(names))
    if ids and reason != TAKEDOWN:
        raise SettingsError(f"reason = {reason!r} is for shards: records ({', '.join(ids)}) can only be taken down.")
    records = retract_ids(space, ids) if ids else []
    ended = {a.shard for a in retract_shards(space, shards, reason)} if shards else set()
    told = {"shards": shards, "records": len(records), "never_in": [key for key in shards if key not in ended]}
    touched = {*shards, *(record.admission.shard for record in records)}
    return _run_and_report(
        space,
        lambda dagster: dagster.redecide(sorted(touched)),
        _shown(listener, progress),
        started,
        check=True,
        more={"retracted": told},
    )


@letting_go
def rethreshold(
    threshold: float | None = None,
    *,
    guards: str | Sequence[str] | None = None,
    workspace: str | Path,
    listener: Listener | None = None,
    progress: bool = True,
) -> Curation:
    """Decide again with another threshold or other guards, from stored matches, without model and join.

    Parameters
    ----------
    threshold
        Cosine from which two records match; as it is, if not given.
    guards
        What must hold besides, see `Settings`, in place of what is there; () for nothing. As they are, if not given.
    workspace
        Folder of the workspace.
    listener
        Hears how far each stage is, in place of the progress that is shown.
    progress
        Show progress in a notebook, or on standard error where that is a terminal; False: show nothing.

    Returns
    -------
    Curation
        What is published now.

    Raises
    ------
    SettingsError
        The threshold lies below the floor of the stored matches, or a guard is unknown.

    Examples
    --------
    >>> import dedup_assets as da
    >>> da.rethreshold(0.92, workspace="ws").duplicate_ratio
    >>> da.rethreshold(guards=["numbers", "contains>=0.8"], workspace="ws").duplicate_ratio
    """
    started = time.perf_counter()
    options = resolve_options({"threshold": threshold, "guards": guards})
    if not options:
        raise SettingsError("neither threshold nor guards was given: expected at least one of them.")
    space = Workspace.open(workspace_path(workspace)).with_options(options)
    space.sweep()
    return _run_and_report(space, lambda dagster: dagster.curate([]), _shown(listener, progress), started, check=True)


@letting_go
def audit(*, workspace: str | Path, sample: int = 0) -> list[CheckResult]:
    """Evaluate all checks on what is published; changes nothing.

    Parameters
    ----------
    workspace
        Folder of the workspace.
    sample
        Records, and removals, that are compared with the corpus by brute force; 0: 1,000.

    Returns
    -------
    list of CheckResult
        Each check with `name`, `passed`, and what it found in `summary` and `metadata`.

    Examples
    --------
    >>> import dedup_assets as da
    >>> [check.name for check in da.audit(workspace="ws") if not check.passed]
    """
    from dedup_assets.embedded import embedded_dagster

    if sample < 0:
        raise SettingsError(f"sample = {sample}: expected 0 (automatic) or more.")
    space = Workspace.open(workspace_path(workspace))
    read_manifest(space)  # before the first publication there is nothing to look at
    with embedded_dagster(space) as dagster:
        return dagster.audit(sample).checks


@letting_go
def sync(*, workspace: str | Path) -> Differences:
    """Bring Dagster's partitions and materialisations in line with the workspace, which is right.

    Every `curate` does so too. It is of use after assets were wiped or partitions deleted in the UI, or when the
    workspace is shown in another Dagster instance (DAGSTER_HOME).

    Parameters
    ----------
    workspace
        Folder of the workspace.

    Returns
    -------
    Differences
        `missing` partitions that were added, `unreported` shards by asset that were reported, and `strangers`:
        partitions that are no shards of this workspace.

    Examples
    --------
    >>> import dedup_assets as da
    >>> da.sync(workspace="ws").strangers
    """
    from dedup_assets.embedded import embedded_dagster

    with embedded_dagster(Workspace.open(workspace_path(workspace))) as dagster:
        return dagster.sync()


@letting_go
def purge(*, workspace: str | Path) -> Freed:
    """Take the content of all that was taken down out of every file of the workspace, for good.

    Parameters
    ----------
    workspace
        Folder of the workspace.

    Returns
    -------
    Freed
        What went: by kind, how many and how many bytes.

    Examples
    --------
    >>> import dedup_assets as da
    >>> da.purge(workspace="ws").counts
    """
    from dedup_assets.embedded import embedded_dagster

    space = Workspace.open(workspace_path(workspace))
    freed = purging.purge(space)
    with embedded_dagster(space) as dagster:
        scrubbed = dagster.scrub()
    if scrubbed:
        freed.add("events of Dagster with texts", scrubbed, 0)
    return freed


@letting_go
def open_curation(workspace: str | Path) -> Curation:
    """The published result of an existing workspace.

    Parameters
    ----------
    workspace
        Folder of the workspace.

    Returns
    -------
    Curation
        What is published; `failures` and `failed_checks` are empty, since nothing was run.

    Examples
    --------
    >>> import dedup_assets as da
    >>> da.open_curation("ws").removed.head()
    """
    space = Workspace.open(workspace_path(workspace))
    return Curation(space.root, space.output, totals_of(space))


def _shown(listener: Listener | None, progress: bool) -> AbstractContextManager[Listener | None]:
    """Who hears the stages: a caller's listener, or the progress that this process can show."""
    if listener is not None or not progress:
        return nullcontext(listener)
    from dedup_assets.terminal.live import caller_progress

    return caller_progress()


def _run_and_report(
    space: Workspace,
    work: Callable[[EmbeddedDagster], Outcome],
    shown: AbstractContextManager[Listener | None],
    started: float,
    check: bool,
    more: Mapping[str, Any] | None = None,
) -> Curation:
    clock = StageClock()
    with shown as listener:
        from dedup_assets.automation.runs import one_run_at_a_time
        from dedup_assets.embedded import embedded_dagster  # takes seconds: progress is shown

        with one_run_at_a_time(), listening(listener, clock), embedded_dagster(space) as dagster:
            outcome = work(dagster)
    curation = Curation(
        space.root,
        space.output,
        {**summary_of(space, clock, outcome.run_ids, started), **(more or {})},
        outcome.failures,
        {f"{c.asset}: {c.name}": c.summary for c in outcome.checks if not c.passed and not c.is_warning},
    )
    if check and outcome.failures:
        listed = "\n".join(f"  {shard}: {message}" for shard, message in outcome.failures.items())
        count = f"{len(outcome.failures)} {'shard' if len(outcome.failures) == 1 else 'shards'}"
        raise DedupError(f"{count} failed; all others are finished.\n{listed}")
    if check and curation.failed_checks:
        raise DedupError(failed_checks_message(curation.failed_checks))
    return curation


def failed_checks_message(failed: Mapping[str, str]) -> str:
    """What is said of checks that failed after a run."""
    listed = "\n".join(f"  {name}: {summary}" for name, summary in failed.items())
    return (
        f"The result is published, but it does not hold what it promises:\n{listed}\n"
        "`dedup-assets audit` looks at the whole corpus, names what is wrong and says what to do."
    )
