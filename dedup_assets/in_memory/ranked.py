"""Records ranked by the similarity of their nearest neighbours, to find outliers and representatives."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, Unpack

import numpy as np

from dedup_assets.compute.neighbours import lowest, mean_of_nearest, rows_of_share
from dedup_assets.compute.neighbours import representatives as representative_rows
from dedup_assets.display_text import counted
from dedup_assets.errors import SettingsError
from dedup_assets.forks import require_own_threads
from dedup_assets.in_memory.calls import compare
from dedup_assets.in_memory.compared import Compared
from dedup_assets.in_memory.matching import checked_share
from dedup_assets.in_memory.progress import shown_stages
from dedup_assets.in_memory.records import Columns, Records, read_records
from dedup_assets.in_memory.vectors import Model, ModelOptions
from dedup_assets.later import torch

T = TypeVar("T")


class RankedRecords(Generic[T]):
    """Chosen records, the other records, and the score of each."""

    def __init__(self, records: Records[T], chosen: np.ndarray, scores: np.ndarray) -> None:
        self._records = records
        self.selected_indices = chosen
        """Numbers of the chosen records: int64."""
        self.filtered_indices = np.setdiff1d(np.arange(records.count), chosen)
        """Numbers of the others, ascending."""
        self.scores = scores
        """Mean cosine of each record to its nearest neighbours: float64 (n,)."""

    @property
    def selected(self) -> T:
        """The chosen records, in the type of the input."""
        return self._records.take(self.selected_indices)

    @property
    def filtered(self) -> T:
        """The other records, in their order, in the type of the input."""
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
    """Separate the records that are least similar to all others.

    The score of a record is the mean cosine of its text to its 100 nearest texts (Angiulli and Pizzuti 2002, with
    distances). Every text is compared with every other, so the time grows with the square of their number. Copies have
    the same score. `Curation.outliers` does the same on a workspace.

    Parameters
    ----------
    records, columns, vectors, against, model, progress, **model_options
        As in `deduplicate`. With `against`, the neighbours are searched there.
    fraction
        Share of the records that are outliers, from 0 to 1; their number is rounded up. With equal scores, later
        records are outliers first.

    Returns
    -------
    RankedRecords
        The records with the lowest scores are `filtered`, the others `selected`, both in their order.

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
    fraction = checked_share("fraction", fraction)
    own, _, scores = _scored(records, columns, vectors, against, model, model_options, progress)
    set_apart = lowest(scores, rows_of_share(own.count, fraction))
    return RankedRecords(own, np.setdiff1d(np.arange(own.count), set_apart), scores)


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
    """Choose records that represent the others: typical records that differ from one another.

    Candidates are the texts with the best scores (see `outliers`): ten times `n`, at least 1,000. They are chosen one
    after the other by maximal marginal relevance (Carbonell and Goldstein 1998): always the one with the largest
    ``(1 - diversity)·score - diversity·(largest cosine to the chosen ones)``, the first one if several are equal.
    `Curation.sample` does the same on a workspace.

    Parameters
    ----------
    records, columns, vectors, against, model, progress, **model_options
        As in `outliers`.
    n
        Number of records, at least 1; fewer are chosen if there are fewer distinct texts.
    diversity
        From 0 (the most typical records) to 1 (the most different ones).

    Returns
    -------
    RankedRecords
        `selected` are the chosen records, in the order of choice.

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
    diversity = checked_share("diversity", diversity)
    own, compared, scores = _scored(records, columns, vectors, against, model, model_options, progress)
    # The first record with each text, in their order.
    first = np.sort(np.unique(compared.own_texts, return_index=True)[1])
    texts = compared.own_texts[first]
    chosen = representative_rows(scores[first], int(n), diversity, lambda at: compared.vectors[texts[at]])
    return RankedRecords(own, first[chosen], scores)


def _scored(
    records: T,
    columns: Columns | None,
    vectors: Any,
    against: Any,
    model: Model | None,
    options: ModelOptions,
    progress: bool,
) -> tuple[Records[T], Compared, np.ndarray]:
    """The records, their vectors and texts, and the score (n,) of each record."""
    own = read_records(records)
    with shown_stages(progress) as stages:
        _, compared = compare(own, columns, vectors, against, model, options, stages)
        require_own_threads()
        mine = np.unique(compared.own_texts)
        theirs = np.unique(compared.texts[: compared.references])
        rows, others = compared.vectors[mine], compared.vectors[theirs] if compared.references else None
        with stages.stage("neighbours") as advance:
            scores = mean_of_nearest(
                rows, others, threads=torch.get_num_threads(), done=lambda amount: advance(amount, len(rows), "texts")
            )
    return own, compared, scores[np.searchsorted(mine, compared.own_texts)]
