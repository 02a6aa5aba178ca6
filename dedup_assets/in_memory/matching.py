"""Runs the join and the decisions with progress, and checks the settings that they use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from dedup_assets.compute.in_memory import Decided, RowMatches, Stats, deduplicate_vectors, exact_matches
from dedup_assets.errors import SettingsError
from dedup_assets.forks import require_own_threads
from dedup_assets.guard_rule import Guard, load_function
from dedup_assets.in_memory.compared import Compared
from dedup_assets.in_memory.progress import Stages
from dedup_assets.later import torch
from dedup_assets.settings import Settings


def decided(
    compared: Compared, order: np.ndarray, threshold: float, guards: Sequence[Guard] = (), stages: Stages | None = None
) -> Decided:
    """`deduplicate_vectors` on all cores, with progress in cells."""
    with _joining(stages or Stages(None)) as options:
        return deduplicate_vectors(
            compared.vectors,
            threshold,
            texts=compared.texts,
            order=order,
            reference=compared.reference,
            covers=compared.covers(guards),
            **options,
        )


def matches_in(rows: np.ndarray, floor: float, sides: np.ndarray | None, stages: Stages) -> RowMatches:
    """`exact_matches` with every match listed, on all cores, with progress in cells."""
    with _joining(stages) as options:
        return exact_matches(rows, floor, sides=sides, **options)


@contextmanager
def _joining(stages: Stages) -> Iterator[dict[str, Any]]:
    """Show a join as a stage; yields the options that let it use all cores and report finished cells."""
    require_own_threads()
    stats: Stats = {}
    with stages.stage("matching") as advance:
        yield {
            "threads": torch.get_num_threads(),
            "done": lambda: advance(1, int(stats["cells"]), "cells"),
            "stats": stats,
        }


def is_number(value: Any) -> bool:
    """Whether a value is a number of Python or a float of numpy, and not a bool."""
    return isinstance(value, int | float | np.floating) and not isinstance(value, bool)


def checked_share(name: str, value: Any) -> float:
    """A number from 0 to 1. Raises SettingsError."""
    if not is_number(value) or not 0.0 <= value <= 1.0:
        raise SettingsError(f"{name} = {value!r}: expected a number from 0 to 1, such as 0.1.")
    return float(value)


def checked_threshold(threshold: float) -> float:
    """The threshold, checked as for a workspace. Raises SettingsError."""
    if not is_number(threshold):
        raise SettingsError(f"threshold = {threshold!r}: expected a cosine above 0 and at most 1, such as 0.95.")
    return Settings(threshold=float(threshold), floor=float(threshold)).threshold


def checked_guards(guards: str | Sequence[str]) -> tuple[Guard, ...]:
    """The guards, checked as for a workspace; functions are imported. Raises SettingsError."""
    given = (guards,) if isinstance(guards, str) else guards
    parsed = Settings(guards=tuple(given) if isinstance(given, Sequence) else given).guard_rules()
    for guard in parsed:
        if guard.is_function:
            load_function(guard)
    return parsed


def checked_keep(keep: str) -> str:
    """The order, if it is a string; `Settings` checks whether it exists. Raises SettingsError."""
    if not isinstance(keep, str):
        raise SettingsError(f"keep = {keep!r}: expected the name of an order, such as 'first'.")
    return keep
