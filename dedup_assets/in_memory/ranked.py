"""Records ranked by how near their nearest neighbours are: what is like nothing else, and what is typical."""

from __future__ import annotations

from math import ceil
from typing import Any, Generic, TypeVar, Unpack

import numpy as np

from dedup_assets.compute.neighbours import diverse, mean_of_nearest
from dedup_assets.display_text import counted
from dedup_assets.errors import SettingsError
from dedup_assets.forks import require_own_threads
from dedup_assets.in_memory.calls import compare
from dedup_assets.in_memory.compared import Compared
from dedup_assets.in_memory.matching import is_number
from dedup_assets.in_memory.progress import shown_stages
from dedup_assets.in_memory.records import Columns, Records, read_records
from dedup_assets.in_memory.vectors import Model, ModelOptions

T = TypeVar("T")

NEIGHBOURS = 100
"""Nearest neighbours that a score is the mean over, as in SemHash."""

CANDIDATES = (10, 1_000)
"""Representatives are chosen from the best-scored texts: so many for each that is wanted, and so many at least."""


class RankedRecords(Generic[T]):
    """Records that were chosen, the others, and the score of each."""

    def __init__(self, records: Records[T], chosen: np.ndarray, scores: np.ndarray) -> None:
        self._records = records
        self.selected_indices = chosen
        """Numbers of the records that were chosen: int64."""
        self.filtered_indices = np.setdiff1d(np.arange(records.count), chosen)
        """Numbers of the others, ascending."""
        self.scores = scores
        """Of each record: mean cosine to its nearest neighbours, float64 (n,)."""

    @property
    def selected(self) -> T:
        """The records that were chosen, in the type that came in."""
        return self._records.take(self.selected_indices)

    @property
    def filtered(self) -> T:
        """The other records, in their order, in the type that came in."""
        return self._records.take(self.filtered_indices)

    def __len__(self) -> int:
        return self._records.count

    def __repr__(self) -> str:
        return (
            f"{counted(len(self), 'record')}: {len(self.selected_indices):,} .selected, "
            f"{len(self.filtered_indices):,} .filtered"
        )


def outliers(
    records: T,
    *,
    fraction: float = 0.1,
    columns: Columns | None = None,
    vectors: Any = None,
    against: Any = None,
    model: Model | None = None,
    progress: bool = True,
    **model_options: Unpack[ModelOptions],
) -> RankedRecords[T]:
    """Set the records apart that are least like all others.

    The score of a record is the mean cosine of its text to the 100 texts nearest to it, found by comparing it with
    every text: the time grows with the square of their number. Copies have one score.

    Parameters
    ----------
    records, columns, vectors, against, model, progress, **model_options
        As in `deduplicate`. With `against` the neighbours are looked for there.
    fraction
        Share of the records that are outliers, from 0 to 1, rounded up. Of equal scores the later record is.

    Returns
    -------
    RankedRecords
        The records of the lowest scores are `filtered`, the others `selected`, both in their order.

    Raises
    ------
    DedupError
        As in `deduplicate`, and for a fraction out of range.

    Examples
    --------
    >>> import dedup_assets as da
    >>> texts = ["a red apple", "a green apple", "an apple pie", "quarterly tax report"]
    >>> da.outliers(texts, fraction=0.25).filtered
    ['quarterly tax report']
    """
    if not is_number(fraction) or not 0.0 <= fraction <= 1.0:
        raise SettingsError(f"fraction = {fraction!r}: expected a share from 0 to 1, such as 0.1.")
    own, _, scores = _scored(records, columns, vectors, against, model, model_options, progress)
    order = np.argsort(-scores, kind="stable")
    return RankedRecords(own, np.sort(order[: own.count - ceil(own.count * float(fraction))]), scores)


def representatives(
    records: T,
    *,
    n: int = 100,
    diversity: float = 0.5,
    columns: Columns | None = None,
    vectors: Any = None,
    against: Any = None,
    model: Model | None = None,
    progress: bool = True,
    **model_options: Unpack[ModelOptions],
) -> RankedRecords[T]:
    """Choose records that stand for the rest: typical ones that differ from one another.

    Of the texts with the best scores (see `outliers`) one after the other is chosen by maximal marginal relevance.

    Parameters
    ----------
    records, columns, vectors, against, model, progress, **model_options
        As in `outliers`.
    n
        How many, at least 1; fewer are given where there are fewer distinct texts.
    diversity
        From 0, the most typical ones, to 1, those that differ most.

    Returns
    -------
    RankedRecords
        `selected` in the order in which they were chosen.

    Raises
    ------
    DedupError
        As in `deduplicate`, and for n or a diversity out of range.

    Examples
    --------
    >>> import dedup_assets as da
    >>> texts = ["a red apple", "a red apple", "a green apple", "tax report", "annual tax report"]
    >>> len(da.representatives(texts, n=2, diversity=0.9).selected)
    2
    """
    if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
        raise SettingsError(f"n = {n!r}: expected a whole number from 1 on.")
    if not is_number(diversity) or not 0.0 <= diversity <= 1.0:
        raise SettingsError(f"diversity = {diversity!r}: expected a number from 0 to 1, such as 0.5.")
    own, compared, scores = _scored(records, columns, vectors, against, model, model_options, progress)
    # Of records with one text the first.
    rows, first = np.unique(compared.own_texts, return_index=True)
    best = np.lexsort((first, -scores[first]))[: max(CANDIDATES[0] * int(n), CANDIDATES[1])]
    chosen = diverse(compared.vectors[rows[best]], scores[first[best]], min(int(n), len(best)), float(diversity))
    return RankedRecords(own, first[best[chosen]], scores)


def _scored(
    records: T,
    columns: Columns | None,
    vectors: Any,
    against: Any,
    model: Model | None,
    options: ModelOptions,
    progress: bool,
) -> tuple[Records[T], Compared, np.ndarray]:
    """The records, what is compared of them, and the score of each."""
    own = read_records(records)
    with shown_stages(progress) as stages:
        _, compared = compare(own, columns, vectors, against, model, options, stages)
        require_own_threads()
        mine = np.unique(compared.own_texts)
        theirs = np.unique(compared.texts[: compared.references])
        rows, others = compared.vectors[mine], compared.vectors[theirs] if compared.references else None
        with stages.stage("neighbours") as advance:
            scores = mean_of_nearest(rows, others, NEIGHBOURS, lambda amount: advance(amount, len(rows), "texts"))
    return own, compared, scores[np.searchsorted(mine, compared.own_texts)]
