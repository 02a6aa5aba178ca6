"""The expected result from comparing every pair and walking record by record. It shares no code with the package."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa

Order = Callable[["Corpus", list["Record"]], list["Record"]]


@dataclass(frozen=True)
class Record:
    """A record: shard, row, and the number of its text."""

    id: str
    text: str
    shard: int
    row: int
    text_number: int
    quality: float | None = None


@dataclass
class Decision:
    """The decision on a record; `keeper` is an id, None if the record is kept."""

    keeper: str | None = None
    similarity: float = float("nan")
    kind: str | None = None


@dataclass
class Corpus:
    """Records in the order of admission; `cosines` (m, m) float64 between their distinct texts."""

    shards: list[list[Record]]
    texts: list[str]
    first_ids: list[str]
    vectors: np.ndarray
    cosines: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        wide = self.vectors.astype(np.float64)
        squares = (wide * wide).sum(axis=1)
        self.cosines = np.clip((wide @ wide.T) / np.sqrt(np.outer(squares, squares)), -1.0, 1.0)

    def pairs(self, floor: float) -> dict[tuple[str, str], float]:
        """Similarity of every pair of distinct texts at or above a floor, by the ids of their first records."""
        first, second = np.nonzero(np.triu(self.cosines >= floor, k=1))
        return {
            (self.first_ids[i], self.first_ids[j]): float(self.cosines[i, j])
            for i, j in zip(first.tolist(), second.tolist(), strict=True)
        }


def stored_vectors(workspace: Path) -> dict[str, np.ndarray]:
    """By text hash, from the LanceDB table."""
    table = lancedb.connect(workspace / "lancedb").open_table("embeddings").to_arrow()
    vectors = np.stack(table.column("vector").to_numpy())
    hashes = table.column("text_hash").to_pylist()
    assert len(set(hashes)) == len(hashes), "a text has two vectors"
    return dict(zip(hashes, vectors, strict=True))


def text_hash(text: str) -> str:
    """128-bit BLAKE2b of the UTF-8 text, as documented."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_corpus(workspace: Path, tables: Sequence[pa.Table]) -> Corpus:
    """The corpus of these shards in this order of admission, with the stored vectors."""
    numbers: dict[str, int] = {}
    first_ids: list[str] = []
    shards = []
    for shard, table in enumerate(tables):
        records = []
        for row, values in enumerate(table.to_pylist()):
            if values["text"] not in numbers:
                numbers[values["text"]] = len(numbers)
                first_ids.append(values["id"])
            number = numbers[values["text"]]
            records.append(Record(values["id"], values["text"], shard, row, number, values.get("quality")))
        shards.append(records)
    stored = stored_vectors(workspace)
    assert set(stored) == {text_hash(text) for text in numbers}
    return Corpus(shards, list(numbers), first_ids, np.stack([stored[text_hash(text)] for text in numbers]))


# -- decisions ---------------------------------------------------------------------------------------


def first(corpus: Corpus, records: list[Record]) -> list[Record]:
    """The order of rows."""
    return list(records)


def longest(corpus: Corpus, records: list[Record]) -> list[Record]:
    """Most characters first."""
    return sorted(records, key=lambda record: -len(record.text))


def by_quality(descending: bool) -> Order:
    """By the quality column, nulls last."""

    def order(corpus: Corpus, records: list[Record]) -> list[Record]:
        sign = -1 if descending else 1
        return sorted(records, key=lambda r: (1, 0) if r.quality is None else (0, sign * r.quality))

    return order


def by_likeness(easy: bool) -> Order:
    """By cosine to the mean of the shard's new texts: most similar first, or least similar first."""

    def order(corpus: Corpus, records: list[Record]) -> list[Record]:
        old = {r.text_number for shard in corpus.shards[: records[0].shard] for r in shard}
        new = list(dict.fromkeys(r.text_number for r in records if r.text_number not in old))
        wide = corpus.vectors.astype(np.float64)
        mean = wide[new].sum(axis=0)
        cosine = wide @ mean / np.sqrt((wide * wide).sum(axis=1) * (mean @ mean))
        # The position of a copy of an earlier text does not matter: it is removed anyway.
        return sorted(records, key=lambda r: -cosine[r.text_number] if easy else cosine[r.text_number])

    return order


def by_hash_of_id(seed: int) -> Order:
    """By BLAKE2b of the id, keyed by the seed."""

    def order(corpus: Corpus, records: list[Record]) -> list[Record]:
        key = seed.to_bytes(8, "little", signed=True)
        return sorted(records, key=lambda r: hashlib.blake2b(r.id.encode(), digest_size=8, key=key).digest())

    return order


def sequential(
    corpus: Corpus,
    threshold: float,
    *,
    order: Order = first,
    keepers_only: bool = True,
    rebuild: bool = False,
    covers: Callable[[str, str], bool] = lambda keeper, removed: True,
) -> dict[str, Decision]:
    """Walk the records one by one; returns the decision on each, by id.

    A record is removed if an earlier keeper matches it (with `keepers_only` unset: any earlier record), and names the
    most similar one; among equals, the first. A match counts if `covers(keeper, record)` holds for the texts.
    """
    if rebuild:
        everything = [record for shard in corpus.shards for record in shard]
        batches = [sorted(everything, key=lambda r: (text_hash(r.text), r.id))]
    else:
        batches = [order(corpus, shard) for shard in corpus.shards if shard]
    decided: dict[int, Decision] = {}  # by text
    representative: dict[int, str] = {}
    earlier: list[int] = []  # texts that others are compared with, in the order that breaks ties
    outcome: dict[str, Decision] = {}
    for batch in batches:
        own: list[int] = []
        for record in batch:
            text = record.text_number
            if text in decided:
                fate = decided[text]
                copy_of_kept = fate.keeper is None
                outcome[record.id] = Decision(representative[text], 1.0, "exact") if copy_of_kept else fate
                continue
            candidates = np.array(earlier + own, dtype=int)
            matching = candidates[corpus.cosines[text, candidates] >= threshold] if len(candidates) else candidates
            matching = np.array([k for k in matching if covers(corpus.texts[k], corpus.texts[text])], dtype=int)
            fate = Decision()
            if len(matching):
                best = int(matching[np.argmax(corpus.cosines[text, matching])])
                fate = Decision(representative[best], float(corpus.cosines[text, best]), "semantic")
            decided[text], representative[text] = fate, record.id
            outcome[record.id] = fate
            if fate.keeper is None or not keepers_only:
                own.append(text)
        earlier += own
    return outcome
