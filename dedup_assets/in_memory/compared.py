"""Input of the comparison: one vector for each distinct text of records and references, and the order of decisions.

References and records are numbered together, references first, so that a decision depends only on earlier numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_assets.compute.guards import Covers, TextList
from dedup_assets.compute.hashes import HashIndex, first_occurrences
from dedup_assets.compute.order import order_by_value, prototype_cosine, random_keys
from dedup_assets.compute.similarity import unit_rows
from dedup_assets.compute.text import COLUMN_SEPARATOR, hash_texts, normalise_text
from dedup_assets.errors import SettingsError, SourceError
from dedup_assets.guard_rule import Guard
from dedup_assets.in_memory.records import Columns, Records, TextPart, column_values, text_parts
from dedup_assets.in_memory.references import CuratedTexts
from dedup_assets.in_memory.vectors import alike, given_vectors
from dedup_assets.ingest.columns import identify_vectors
from dedup_assets.settings import Settings

Embed = Callable[[Sequence[str]], np.ndarray]

BLOCK_ROWS = 4_096
"""Rows converted to float64 at a time while the vectors of several columns are combined."""


@dataclass(frozen=True)
class Compared:
    """Vectors and texts of the references, if any, followed by the records.

    Attributes
    ----------
    vectors : array (m, d), float16 or float32
        One row for each distinct text.
    texts : int64 (r + n,)
        The row of each reference and record.
    references : int
        Number of references: r.
    characters : int64 (n,), optional
        Lengths of the records' texts; None if they have no texts.
    row_texts : callable, optional
        Returns the texts of the rows, a list of m str, for the guards; None if some rows have no text.
    """

    vectors: np.ndarray
    texts: np.ndarray
    references: int
    characters: np.ndarray | None = None
    row_texts: Callable[[], list[str]] | None = None

    @property
    def own_texts(self) -> np.ndarray:
        """The rows of the records, without the references."""
        return self.texts[self.references :]

    def covers(self, guards: Sequence[Guard]) -> Covers | None:
        """The guards on pairs of rows; None without guards. Raises SettingsError if there are no texts."""
        if not guards:
            return None
        if self.row_texts is None:
            raise SettingsError(
                f"guards = {', '.join(map(str, guards))}: guards compare texts, and vectors were given without. Name "
                "the columns of the texts, give records for against, or leave the guards out."
            )
        return Covers(guards, TextList(self.row_texts()))

    @property
    def reference(self) -> np.ndarray | None:
        """Mask of the references, bool (r + n,); None if there are none."""
        return np.arange(len(self.texts)) < self.references if self.references else None


def compare_texts(records: Records, columns: Columns | None, against: Records | None, embed: Embed) -> Compared:
    """Compare records by their texts. `against` are references, read from the same columns if they have columns."""
    own = text_parts(records, columns)
    before: list[TextPart] = []
    if against is not None:
        before = text_parts(against, columns if against.texts is None else None, "against")
        if len(before) != len(own):
            raise SourceError(
                "against holds plain texts, and the columns have weights. Give records with these columns."
            )
    parts = []
    for number, part in enumerate(own):
        chunks = [*(before[number].texts.chunks if before else ()), *part.texts.chunks]
        codes, distinct = _encoded(pa.chunked_array(chunks, pa.large_string()))
        parts.append((codes, distinct, part.weight))
    if len(parts) == 1:
        codes, distinct, _ = parts[0]
        vectors = embed(distinct)
        texts = distinct
    else:
        codes, firsts = _numbered(np.column_stack([codes for codes, _, _ in parts]))
        vectors = _together([(embed(distinct), codes[firsts], weight) for codes, distinct, weight in parts])
        texts = _joined([(codes[firsts], distinct) for codes, distinct, _ in parts])
    return Compared(vectors, codes, against.count if against else 0, _characters(own), lambda: texts)


def compare_vectors(
    records: Records, vectors: Any, columns: Columns | None, against: np.ndarray | CuratedTexts | None
) -> Compared:
    """Compare records by given vectors. Records with the same text use the vector of the first one; without texts,
    records with equal vectors are copies."""
    rows = given_vectors(vectors, records.count)
    theirs = against.vectors if isinstance(against, CuratedTexts) else against
    if theirs is not None:
        if theirs.shape[1] != rows.shape[1]:
            raise SourceError(
                f"vectors have {rows.shape[1]} numbers, and those of against {theirs.shape[1]}: they are of two models."
            )
        rows, theirs = alike(rows, theirs)
    characters = None
    if records.texts is None and columns is None:
        every = rows if theirs is None else np.concatenate([theirs, rows])
        texts, firsts = _same_rows(every)
        return Compared(_taken(every, firsts), texts, 0 if theirs is None else len(theirs))
    parts = text_parts(records, columns)
    encoded = [_encoded(part.texts) for part in parts]
    codes, firsts = _numbered(np.column_stack([numbers for numbers, _ in encoded]))
    characters = _characters(parts)
    rows = _taken(rows, firsts)
    own_texts = _joined([(numbers[firsts], distinct) for numbers, distinct in encoded])
    if theirs is None:
        return Compared(rows, codes, 0, characters, lambda: own_texts)
    count = len(theirs)
    row_texts = (lambda: against.texts() + own_texts) if isinstance(against, CuratedTexts) else None
    return Compared(
        np.concatenate([theirs, rows]),
        np.concatenate([np.arange(count), codes + count]),
        count,
        characters,
        row_texts,
    )


def compare_with_workspace(records: Records, columns: Columns | None, against: CuratedTexts, embed: Embed) -> Compared:
    """Compare records by their texts, with the kept records of a workspace as references."""
    parts = text_parts(records, columns)
    if len(parts) > 1:
        raise SourceError("a workspace has one vector for each text: give columns without weights.")
    codes, distinct = _encoded(parts[0].texts)
    # Texts with the same normal form are the same text.
    normal = [normalise_text(text, against.unicode_form) for text in distinct]
    same, distinct = _encoded(pa.chunked_array([normal], pa.large_string()))
    codes, count = same[codes], len(against.vectors)
    rows = HashIndex(against.hashes, np.arange(count)).find(hash_texts(distinct))
    new = np.flatnonzero(rows < 0)
    rows[new] = count + np.arange(len(new))
    fresh = embed([distinct[at] for at in new]) if len(new) else against.vectors[:0]
    vectors = np.concatenate([against.vectors, fresh.astype(against.vectors.dtype)])
    return Compared(
        vectors,
        np.concatenate([np.arange(count), rows[codes]]),
        count,
        _characters(parts),
        lambda: against.texts() + [distinct[at] for at in new],
    )


def judged_order(records: Records, compared: Compared, settings: Settings) -> np.ndarray:
    """Indexes (r + n,) of references, then records, in curation order, as for one shard of a workspace."""
    count, start = records.count, compared.references
    rule = settings.keep_rule()
    values: Any
    if rule.order == "column":
        values = column_values(records, rule.column)
    elif rule.order == "random":
        values = random_keys([str(row) for row in range(count)], settings.seed)
    elif rule.order == "longest":
        if compared.characters is None:
            raise SettingsError("keep = 'longest': the records have no texts. Expected another order, or columns.")
        values = compared.characters
    elif rule.needs_prototype:
        values = _likeness(compared)
    else:
        return np.arange(start + count)
    try:
        own = order_by_value(values, rule.descending)
    except TypeError as problem:
        raise SettingsError(f"keep = {settings.keep!r}: {problem}.") from problem
    return np.concatenate([np.arange(start), start + own])


def _likeness(compared: Compared) -> np.ndarray:
    """Cosine (n,) of each record to the mean vector of the texts that are not texts of references."""
    texts, first = np.unique(compared.own_texts, return_index=True)
    new = ~np.isin(texts, compared.texts[: compared.references])
    at = texts[new][np.argsort(first[new], kind="stable")]  # sums of float32 vectors depend on their order
    cosine = np.zeros(len(compared.vectors))
    cosine[at] = prototype_cosine(compared.vectors[at])
    return cosine[compared.own_texts]


def _encoded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Number of each text in order of first appearance, -1 for null; and the distinct texts."""
    whole = column.combine_chunks()
    array = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    encoded = array.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()


def _joined(parts: Sequence[tuple[np.ndarray, list[str]]]) -> list[str]:
    """Joined texts, n, of several columns. A part is (number of the text of each row or -1 for null, its texts)."""
    columns = [[texts[at] if at >= 0 else None for at in codes.tolist()] for codes, texts in parts]
    return [COLUMN_SEPARATOR.join(text for text in row if text is not None) for row in zip(*columns, strict=True)]


def _numbered(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of each row of integers (n, p), by first appearance, int64 (n,), and the first row with each number."""
    keys, axis = (codes[:, 0], None) if codes.shape[1] == 1 else (codes, 0)
    _, first, back = np.unique(keys, axis=axis, return_index=True, return_inverse=True)
    by_place = np.argsort(first, kind="stable")
    number = np.empty(len(first), np.int64)
    number[by_place] = np.arange(len(first))
    return number[back.ravel()], first[by_place]


def _same_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`_numbered` for vectors, compared by their bytes; a row of zeros is equal to no other."""
    first = first_occurrences(identify_vectors(rows).hashes)
    silent = np.flatnonzero(~rows.any(axis=1))
    first[silent] = silent
    return _numbered(first[:, None])


def _taken(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The rows at ascending, distinct indexes; if these are all rows, without a copy."""
    return rows if len(at) == len(rows) else rows[at]


def _together(parts: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
    """Combine parts into unit vectors (m, p·d) float16. Their similarity is the weighted mean of the similarities of
    the parts that a record has. A part is (vectors, row of each text or -1 if it is missing, weight)."""
    count = len(parts[0][1])
    out = np.zeros((count, sum(vectors.shape[1] for vectors, _, _ in parts)), np.float16)
    for start in range(0, count, BLOCK_ROWS):
        wide = []
        for vectors, rows, weight in parts:
            at = rows[start : start + BLOCK_ROWS]
            wide.append(np.sqrt(weight) * unit_rows(vectors[np.maximum(at, 0)]) * (at >= 0)[:, None])
        out[start : start + BLOCK_ROWS] = unit_rows(np.concatenate(wide, axis=1))
    return out


def _characters(parts: Sequence[TextPart]) -> np.ndarray:
    lengths = [pc.fill_null(pc.utf8_length(part.texts), 0).to_numpy().astype(np.int64) for part in parts]
    return np.sum(lengths, axis=0)
