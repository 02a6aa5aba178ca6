"""Vectors of texts, from a model by name or from any encoder, and checks of vectors that a caller passes.

Knows texts and arrays; nothing of records or decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypedDict

import numpy as np

from dedup_assets.compute.similarity import squared_norms
from dedup_assets.display_text import kind_of
from dedup_assets.encoder.text_encoder import AnyEncoder
from dedup_assets.errors import ModelError, SettingsError, SourceError, first_line
from dedup_assets.forks import require_own_threads
from dedup_assets.settings import Pooling, Precision, Settings, checked

BATCH_TEXTS = 512
"""Texts passed to a model at a time. It sets how often progress is reported and does not change the result."""

MOST_COLUMNS = 65_536
"""Maximum dimension: beyond it, the error bounds of low-precision products do not hold."""

LARGEST_HALF = 4.0
"""Squared norm of a float16 vector up to which sums in float64 are exact; longer vectors are compared as float32."""


Model = str | AnyEncoder


class ModelOptions(TypedDict, total=False):
    """Settings of a model, by their names; `Settings` describes them."""

    revision: str
    prompt: str
    truncate_dim: int
    pooling: Pooling
    max_length: int
    precision: Precision
    max_unknown: float
    batch_size: int
    trust_remote_code: bool


Advance = Callable[[int], None]


def checked_options(options: ModelOptions) -> dict[str, Any]:
    """The options that are not None, checked. Raises SettingsError for an unknown name or a wrong value."""
    known = ModelOptions.__optional_keys__
    for name in options:
        if name not in known:
            raise SettingsError(f"unknown option {name!r}. A model has: {', '.join(sorted(known))}.")
    return checked({name: value for name, value in options.items() if value is not None})


def embed(
    texts: Sequence[str],
    model: Model,
    advance: Advance = lambda amount: None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> np.ndarray:
    """Unit vectors (n, d) float16 of distinct texts; `options` are settings of the encoder.

    A text has the zero vector if it is empty, if the model knows too few of its tokens (`max_unknown`), or if the
    encoder returns a vector of norm zero. It matches only its copies.

    Raises
    ------
    ModelError
        The model cannot be loaded, or its result is not an array of vectors.
    """
    out = embed_in_batches(texts, _encoding(model, options), advance)
    out[[at for at, text in enumerate(texts) if not text.strip()]] = 0
    return out


def embed_in_batches(
    texts: Sequence[str], encode: Callable[[list[str]], np.ndarray], advance: Advance = lambda amount: None
) -> np.ndarray:
    """Vectors (n, d) of n >= 1 texts, computed in batches, in the dtype that `encode` returns."""
    require_own_threads()
    out: np.ndarray | None = None
    # Longest first: the texts of a batch have similar lengths, and the last batches are short.
    order = np.argsort(-np.fromiter(map(len, texts), np.int64, len(texts)), kind="stable")
    for start in range(0, len(order), BATCH_TEXTS):
        part = order[start : start + BATCH_TEXTS]
        vectors = encode([texts[at] for at in part.tolist()])
        if out is None:
            out = np.zeros((len(texts), vectors.shape[1]), vectors.dtype)
        elif out.shape[1] != vectors.shape[1]:
            raise ModelError(
                f"the model gave vectors of {out.shape[1]} and of {vectors.shape[1]} numbers. Expected equal lengths."
            )
        out[part] = vectors
        advance(len(part))
    assert out is not None, "no text was given"
    return out


def _encoding(model: Model, options: Mapping[str, Any]) -> Callable[[list[str]], np.ndarray]:
    """A function that returns vectors of texts as a workspace with the same settings stores them."""
    from dedup_assets.encoder.models import encoder_for, locate_model, locate_object
    from dedup_assets.resources.worker_tasks import stored_vectors

    settings = Settings.from_mapping(options)
    location = locate_model(model, settings.revision) if isinstance(model, str) else locate_object(model)
    encoder = encoder_for(settings, location, "cpu")
    return lambda texts: stored_vectors(texts, encoder, settings)[0]


def given_vectors(vectors: Any, count: int | None, what: str = "vectors") -> np.ndarray:
    """A caller's vectors (n, d) in the type in which they are compared: float16, or float32 for other types.

    Raises
    ------
    SourceError
        They are not a matrix of finite numbers, or their number is not `count`.
    """
    array = _as_array(vectors, what)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise SourceError(
            f"{what} has shape {array.shape} and dtype {array.dtype}. Expected rows of numbers: shape (n, d), floats."
        )
    if count is not None and len(array) != count:
        raise SourceError(f"{what} has {len(array):,} rows for {count:,} records. Expected one for each.")
    if not len(array) or not 0 < array.shape[1] <= MOST_COLUMNS:
        raise SourceError(
            f"{what} has shape {array.shape}. Expected at least one row of 1 to {MOST_COLUMNS:,} numbers."
        )
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(array if array.dtype in (np.float16, np.float32) else array.astype(np.float32))
    for start in range(0, len(rows), 65_536):
        wrong = np.flatnonzero(~np.isfinite(rows[start : start + 65_536]).all(axis=1))
        if len(wrong):
            at = start + int(wrong[0])
            found = "NaN" if np.isnan(array[at]).any() else "a number beyond float32 or infinity"
            raise SourceError(f"row {at} of {what} holds {found}. Expected finite numbers.")
    if rows.dtype != array.dtype:
        lost = np.flatnonzero(array.any(axis=1) & ~rows.any(axis=1))
        if len(lost):
            raise SourceError(f"row {lost[0]} of {what} holds numbers too small for float32. Expected larger ones.")
    if rows.dtype == np.float16 and float(squared_norms(rows).max()) > LARGEST_HALF:
        return rows.astype(np.float32)
    return rows


def alike(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of vectors in one dtype: unchanged, or as float32 if their dtypes differ."""
    if rows.dtype == others.dtype:
        return rows, others
    return rows.astype(np.float32), others.astype(np.float32)


def _as_array(vectors: Any, what: str) -> np.ndarray:
    """The vectors as one array; the values of a column are converted row by row."""
    try:
        array = np.asarray(vectors)
    except Exception as problem:  # ragged lists, tensors on a GPU: each library raises what it likes
        if not isinstance(vectors, list | tuple):
            raise SourceError(
                f"{what} is {kind_of(vectors)}, which numpy cannot read as one array: {first_line(problem)}."
            ) from problem
        array = np.empty(len(vectors), object)
        array[:] = vectors
    if array.ndim != 1 or array.dtype != object or not len(array):
        return array
    rows = []
    for at, row in enumerate(array):
        rows.append(np.asarray(row))
        if rows[at].ndim != 1 or rows[at].dtype.kind not in "fiu" or len(rows[at]) != len(rows[0]):
            raise SourceError(
                f"row {at} of {what} has shape {rows[at].shape} and dtype {rows[at].dtype}, the first has shape "
                f"{rows[0].shape}. Expected numbers, as many in each row."
            )
    return np.stack(rows)
