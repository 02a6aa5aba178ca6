"""Look-ups that read one state of a workspace, whole, while others decide and publish beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from dedup_assets.corpus.output import published_generation
from dedup_assets.errors import WorkspaceError
from dedup_assets.storage.workspace import Workspace

TRIES = 5

_P = ParamSpec("_P")
_T = TypeVar("_T")


def steady(look: Callable[Concatenate[Workspace, _P], _T]) -> Callable[Concatenate[Workspace, _P], _T]:
    """Do a look-up again whose workspace got another generation of decisions, or lost a shard, while it read.

    Nothing of what is read is changed in place, so what was read under one state is of that state; what fails or
    finishes under two is thrown away. Raises WorkspaceError where it never stays the same for long enough.
    """

    @wraps(look)
    def again(workspace: Workspace, *arguments: _P.args, **named: _P.kwargs) -> _T:
        for _ in range(TRIES):
            before = _state(workspace)
            try:
                answer = look(workspace, *arguments, **named)
            except Exception:
                if _state(workspace) == before:
                    raise
            else:
                if _state(workspace) == before:
                    return answer
        raise WorkspaceError(
            f"{workspace.root}: what was decided was replaced {TRIES} times while it was read. Try again when fewer "
            "decisions are taken beside it."
        )

    return again


def _state(workspace: Workspace) -> object:
    generation = workspace.ledger.generation()
    return generation and generation.number, workspace.ledger.last_retraction(), published_generation(workspace)
