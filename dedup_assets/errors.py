"""The errors that a person can act on.

Every message says what was found, where, what was expected, and what to do. Anything that is not a
`DedupError` is a defect of this software and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dedup_assets.credentials import scrubbed
from dedup_assets.unseen import visible

VERBOSE = "DEDUP_ASSETS_VERBOSE"
"""Environment variable by which the tracebacks of failures are shown on the terminal too."""


class DedupError(Exception):
    """Base class; the command line prints the message without a traceback and exits with 1.

    Names and texts of a corpus stand in messages, which end on terminals: what is not seen in them is written out.
    Credentials that came with a URL are left out.
    """

    def __str__(self) -> str:
        return visible(scrubbed(super().__str__()))


class SourceError(DedupError):
    """A source cannot be listed, named or opened."""


class ShardError(DedupError):
    """One shard cannot be read or does not fit the settings; other shards are not concerned."""


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
    """Dask's scheduler or workers are lost or do not fit: no shard is to blame, and none can be worked on."""


class NoRoomError(DedupError):
    """A device has no memory for the smallest piece of work."""


class MissingPackageError(DedupError, ModuleNotFoundError):
    """An optional library is not installed; the message names the install."""


class UnexpectedError(DedupError):
    """An unforeseen failure that is not of a single shard; `__cause__` is the exception."""


def missing_package(problem: ImportError) -> str:
    """What is not installed, and the command that installs it, where the exception or its cause tells a name."""
    cause = problem.__cause__ if isinstance(problem.__cause__, ImportError) else problem
    name = (cause.name or "").partition(".")[0]
    return f"{problem}. Install it with `pip install {name}`, and run again." if name else str(problem)


def shown_cause(problem: BaseException) -> BaseException | None:
    """What somebody else's exception may stand as the cause of ours: nothing that repeats credentials."""
    known: BaseException | None = problem
    while known is not None:
        said = f"{known!s} {known!r}"
        if scrubbed(said) != said:
            return None
        known = known.__cause__ or known.__context__
    return problem


def first_line(problem: BaseException) -> str:
    """The first line of what an exception says, without its full stop; libraries add pages."""
    lines = str(problem).strip().splitlines()
    return visible(scrubbed(lines[0]).rstrip(". ")[:500]) if lines else "no message"


def reason(problem: BaseException) -> str:
    """What somebody else's exception says, without the full stop that ours adds."""
    return scrubbed(str(problem)).strip().rstrip(".")


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(visible, names[:most])) + rest
