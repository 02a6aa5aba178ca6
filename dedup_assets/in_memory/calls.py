"""Deduplicate records in memory, and find all matches of vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, Unpack

import numpy as np
import pyarrow as pa

from dedup_assets.errors import SettingsError, SourceError
from dedup_assets.in_memory.compared import (
    Compared,
    compare_texts,
    compare_vectors,
    compare_with_workspace,
    judged_order,
)
from dedup_assets.in_memory.matching import (
    checked_guards,
    checked_keep,
    checked_threshold,
    decided,
    is_number,
    matches_in,
)
from dedup_assets.in_memory.progress import Stages, shown_stages
from dedup_assets.in_memory.records import Columns, Records, read_records
from dedup_assets.in_memory.references import CuratedTexts, curated_texts
from dedup_assets.in_memory.result import DeduplicationResult
from dedup_assets.in_memory.vectors import (
    Model,
    ModelOptions,
    alike,
    checked_options,
    embed,
    embed_in_batches,
    given_vectors,
)
from dedup_assets.settings import Settings

T = TypeVar("T")


def deduplicate(
    records: T,
    *,
    columns: Columns | None = None,
    vectors: Any = None,
    against: Any = None,
    model: Model | None = None,
    threshold: float = 0.95,
    guards: str | Sequence[str] = (),
    keep: str = "first",
    seed: int = 0,
    progress: bool = True,
    **model_options: Unpack[ModelOptions],
) -> DeduplicationResult[T]:
    """Deduplicate records in memory: exact and reproducible, with a keeper for each removed record.

    First, exact copies of a text are removed. Then a record is removed if its similarity to an earlier kept record is
    at least the threshold. The function needs no workspace, writes no files and starts no processes.

    Parameters
    ----------
    records
        A list or array of texts or dicts; a table or column of pandas, polars or Arrow; a Dataset of Hugging Face. With
        `vectors`, a sequence of anything, such as images.
    columns
        Name of the text column, "text" by default. Several names: their texts are joined by one empty line. Names with
        weights, as in ``{"title": 2, "body": 1}``: each column has its own vector, and the similarity is the weighted
        mean over the columns that a record has. ``doc.text`` is the field ``text`` of a struct column ``doc``. Lists of
        messages, with ``role`` and ``content`` or with ``from`` and ``value``, are texts too.
    vectors : array (n, d), optional
        Finite numbers, one row for each record, of any length; float16 and float32 are compared unchanged, other types
        as float32. Then no model is used. Records are exact copies if their texts are equal; without texts (the records
        are not texts, and no columns are named), if their vectors are equal.
    against
        Records of any of these types, with the same columns: then only these remove records, and duplicates among
        `records` stay. With `vectors`, an array (m, d). Or the path of a workspace: its kept records, with its own
        model.
    model
        Folder or hub id of a model, all-MiniLM-L6-v2 by default, or "module:factory". Or any object with
        ``encode(list of texts)`` that returns an array, such as a SentenceTransformer. It gets at most 512 distinct
        texts at a time and no blank texts. The vector of a text must not depend on the other texts.
    threshold
        Cosine from which two records match, above 0 and at most 1.
    guards
        Further conditions for removing a record, such as ``["numbers", "contains>=0.8"]``; see `Settings`. The texts of
        columns with weights are joined by one empty line for this.
    keep
        Which of several similar records is kept: "first", "longest", "hard" (least like the mean vector), "easy" (most
        like it), "random", or "column:NAME[:asc|desc]".
    seed
        Seed of the order "random".
    progress
        Show progress in a notebook, or on standard error if it is a terminal; False: show nothing.
    **model_options
        Settings of the model: `prompt`, `truncate_dim`, `revision`, `trust_remote_code`, `pooling`, `max_length`,
        `precision`, `max_unknown`, `batch_size`, as in `Settings`.

    Returns
    -------
    DeduplicationResult
        `selected` in the type of the input, `filtered`, `groups()`, `pairs`, `duplicate_ratio`, `explain(i)` and more.

    Raises
    ------
    DedupError
        For no records, a record without a text, an unknown column, vectors that do not fit, a threshold out of range, a
        guard that is unknown or has no texts to compare, and a model that cannot be loaded. The message says what was
        found, what was expected, and what to do.

    Examples
    --------
    >>> import dedup_assets as da
    >>> texts = ["It's dangerous to go alone!", "It's risky to go alone!", "It's a secret to everybody."]
    >>> da.deduplicate(texts, threshold=0.8).selected
    ["It's dangerous to go alone!", "It's a secret to everybody."]
    """
    threshold, rules = checked_threshold(threshold), checked_guards(guards)
    settings = Settings(threshold=threshold, floor=threshold, keep=checked_keep(keep), seed=seed)
    own = read_records(records)
    with shown_stages(progress) as stages:
        others, compared = compare(own, columns, vectors, against, model, model_options, stages)
        order = judged_order(own, compared, settings)
        found = decided(compared, order, threshold, rules, stages)
    return DeduplicationResult(own, others, compared, order, found, threshold, threshold, rules)


def find_matches(vectors: Any, others: Any = None, *, threshold: float, progress: bool = True) -> pa.Table:
    """All pairs of vectors with a cosine of at least the threshold: the exact join itself.

    Parameters
    ----------
    vectors : array (n, d)
        Finite numbers; float16 and float32 are compared unchanged, other types as float32. Rows may have any length; a
        row of zeros has similarity 0 to all others.
    others : array (m, d), optional
        If given, only pairs of a row of `vectors` and a row of `others` are found.
    threshold
        A cosine, from -1 to 1.
    progress
        As in `deduplicate`.

    Returns
    -------
    pyarrow.Table
        `a` and `b` int64, `similarity` float64, sorted by a, then b. Both are rows of `vectors`, with a < b; with
        `others`, b is a row of `others`. Every pair is listed: 10,000 near-copies have 50 million pairs.

    Raises
    ------
    DedupError
        If the vectors are not a matrix of finite numbers, the two do not fit, or the threshold is not a cosine.

    Examples
    --------
    >>> import dedup_assets as da
    >>> da.find_matches([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], threshold=0.7).to_pylist()
    [{'a': 0, 'b': 2, 'similarity': 0.7999999928474427}]
    """
    if not is_number(threshold) or not -1.0 <= threshold <= 1.0:
        raise SettingsError(f"threshold = {threshold!r}: expected a cosine from -1 to 1, such as 0.9.")
    rows = given_vectors(vectors, None)
    count, sides = len(rows), None
    if others is not None:
        theirs = given_vectors(others, None, "others")
        if theirs.shape[1] != rows.shape[1]:
            raise SourceError(f"vectors have {rows.shape[1]} numbers, and others {theirs.shape[1]}. Expected the same.")
        rows = np.concatenate(alike(rows, theirs))
        sides = np.arange(len(rows)) < count
    with shown_stages(progress) as stages:
        found = matches_in(rows, float(threshold), sides, stages)
    return pa.table({"a": found.i, "b": found.j if others is None else found.j - count, "similarity": found.similarity})


def compare(
    own: Records,
    columns: Columns | None,
    vectors: Any,
    against: Any,
    model: Model | None,
    options: ModelOptions,
    stages: Stages,
) -> tuple[Records | CuratedTexts | None, Compared]:
    """The references, if any, and one vector for each distinct text of the references and records."""
    given = checked_options(options)
    if given and (vectors is not None or isinstance(against, str | os.PathLike)):
        why = "with vectors no model is used" if vectors is not None else "the workspace's own model is used as it is"
        raise SettingsError(f"{', '.join(given)}: {why}. Leave it out.")
    curated = curated_texts(os.fspath(against)) if isinstance(against, str | os.PathLike) else None
    if vectors is not None:
        if model is not None:
            raise SettingsError("model and vectors: with vectors no model is used. Give one of them.")
        if curated is not None and curated.encode is not None:
            raise SettingsError("vectors were given, and a model made those of the workspace: leave vectors out.")
        if curated is not None or against is None:
            return curated, compare_vectors(own, vectors, columns, curated)
        theirs = given_vectors(against, None, "against")
        return read_records(np.asarray(against), "against"), compare_vectors(own, vectors, columns, theirs)
    if curated is not None:
        if model is not None:
            raise SettingsError("model and a workspace: the workspace's own model is used. Leave model out.")
        if curated.encode is None:
            raise SettingsError("the vectors of the workspace came with its data: give those of the records, vectors=.")
        encode = curated.encode
        with stages.stage("embedding") as advance:
            compared = compare_with_workspace(
                own, columns, curated, lambda texts: embed_in_batches(texts, encode, _counted(texts, advance))
            )
        return curated, compared
    others = None if against is None else read_records(against, "against")
    chosen: Model = Settings().model if model is None else model
    with stages.stage("embedding") as advance:
        compared = compare_texts(
            own, columns, others, lambda texts: embed(texts, chosen, _counted(texts, advance), given)
        )
    return others, compared


def _counted(texts: Any, advance: Callable[[int, int, str], None]) -> Callable[[int], None]:
    return lambda amount: advance(amount, len(texts), "texts")
