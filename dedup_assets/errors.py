"""The errors that a user can act on.

Every message says what was found, where, what was expected, and what to do. Anything that is not a
`DedupError` is a defect of this software and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dedup_assets.credentials import scrubbed
from dedup_assets.unseen import visible

VERBOSE = "DEDUP_ASSETS_VERBOSE"
"""Environment variable that also shows the tracebacks of failures on the terminal."""


class DedupError(Exception):
    """Base class; the command line prints the message without a traceback and exits with 1.

    Messages contain names and texts of a corpus and are shown on terminals, so invisible characters are escaped.
    Credentials of URLs are removed.
    """

    def __str__(self) -> str:
        return visible(scrubbed(super().__str__()))


class SourceError(DedupError):
    """A source cannot be listed, named or opened."""


class ShardError(DedupError):
    """One shard cannot be read or does not fit the settings; other shards are not affected."""


class FailedShardsError(ShardError):
    """Some shards of a run failed; `failures` has the reason for each, `run_id` names the run."""

    def __init__(self, message: str, failures: Mapping[str, str], run_id: str) -> None:
        super().__init__(message)
        self.failures = failures
        self.run_id = run_id


class SettingsError(DedupError):
    """A setting is invalid, or contradicts what the workspace was made with."""


class WorkspaceError(DedupError):
    """The workspace is missing, not writable, full, or in a state the request does not fit."""


class ModelError(DedupError):
    """The embedding model is missing or does not fit."""


class ClusterError(DedupError):
    """Dask's scheduler or workers are lost or do not fit. No shard caused it, and no shard can be processed."""


class NoRoomError(DedupError):
    """A device has no memory for the smallest piece of work."""


class MissingPackageError(DedupError, ModuleNotFoundError):
    """An optional library is not installed; the message names the install."""


class UnexpectedError(DedupError):
    """An unforeseen failure that does not belong to a single shard; `__cause__` is the exception."""


def missing_package(problem: ImportError) -> str:
    """What is not installed, and the command that installs it, where the exception or its cause tells a name."""
    cause = problem.__cause__ if isinstance(problem.__cause__, ImportError) else problem
    name = (cause.name or "").partition(".")[0]
    return f"{problem}. Install it with `pip install {name}`, and run again." if name else str(problem)


def shown_cause(problem: BaseException) -> BaseException | None:
    """A library's exception as the cause of ours; None if it repeats credentials."""
    known: BaseException | None = problem
    while known is not None:
        said = f"{known!s} {known!r}"
        if scrubbed(said) != said:
            return None
        known = known.__cause__ or known.__context__
    return problem


def first_line(problem: BaseException) -> str:
    """The first line of the message of an exception, without its full stop; libraries add pages."""
    lines = str(problem).strip().splitlines()
    return visible(scrubbed(lines[0]).rstrip(". ")[:500]) if lines else "no message"


def reason(problem: BaseException) -> str:
    """The message of a library's exception, without the full stop that ours adds."""
    return scrubbed(str(problem)).strip().rstrip(".")


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and the number of others."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(visible, names[:most])) + rest
