"""The schema of the ledger: its tables, and the classes of their rows. It runs no query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT = 2
"""Version of the workspace on disk; a workspace of another format is refused."""

STAGES = (
    "raw_shards",
    "embeddings",
    "kmeans_centroids",
    "cluster_partitions",
    "pairwise_similarities",
    "duplicate_ids",
    "deduplicated_dataset",
)
"""The seven assets in pipeline order."""

CORPUS, REFERENCE = "corpus", "reference"
"""Roles of a shard. Records of a reference are never published; corpus records that match them are removed."""

CHANGED, VANISHED, TAKEDOWN, WITHDRAWN = "changed", "vanished", "takedown", "withdrawn"
"""Why an admission was retracted: its file has other content, its file is gone, a user asked for it, or it will be
admitted again, because a stage failed before any of it was published or an id that it waited for is free."""

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE shard (
    key TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE, uri TEXT NOT NULL UNIQUE,
    format TEXT NOT NULL, compression TEXT, role TEXT NOT NULL, retracted TEXT,
    registered TEXT NOT NULL, name TEXT NOT NULL DEFAULT '', partition TEXT NOT NULL DEFAULT '[]');
CREATE TABLE codebook (
    number INTEGER PRIMARY KEY, digest TEXT NOT NULL, cells INTEGER NOT NULL, corpus_texts INTEGER NOT NULL,
    facts TEXT NOT NULL);
CREATE TABLE admission (
    number INTEGER PRIMARY KEY, shard TEXT NOT NULL, fingerprint TEXT NOT NULL,
    codebook INTEGER NOT NULL, texts INTEGER NOT NULL, records INTEGER NOT NULL, retracted INTEGER);
CREATE UNIQUE INDEX one_live_admission ON admission (shard) WHERE retracted IS NULL;
CREATE TABLE retraction (
    number INTEGER PRIMARY KEY, shard TEXT NOT NULL, admission INTEGER, reason TEXT NOT NULL,
    run_id TEXT NOT NULL, finished TEXT NOT NULL);
CREATE TABLE tombstone (
    id TEXT PRIMARY KEY, shard TEXT NOT NULL, admission INTEGER NOT NULL, row INTEGER NOT NULL,
    retraction INTEGER NOT NULL);
CREATE INDEX tombstones_of_admission ON tombstone (admission, row);
CREATE TABLE generation (
    number INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, mode TEXT NOT NULL, admissions INTEGER NOT NULL,
    rebuilt INTEGER NOT NULL, retractions INTEGER NOT NULL);
CREATE TABLE rebuild (token TEXT PRIMARY KEY, codebook INTEGER, generation INTEGER, finished TEXT);
CREATE TABLE stage (
    number INTEGER PRIMARY KEY, shard TEXT NOT NULL, stage TEXT NOT NULL, basis TEXT NOT NULL, facts TEXT NOT NULL,
    run_id TEXT NOT NULL, seconds REAL NOT NULL, finished TEXT NOT NULL, void INTEGER NOT NULL DEFAULT 0);
CREATE INDEX latest_stage ON stage (stage, shard, number);
CREATE INDEX stages_of_shard ON stage (shard);
CREATE TABLE failure (
    shard TEXT PRIMARY KEY, stage TEXT NOT NULL, message TEXT NOT NULL, run_id TEXT NOT NULL);
"""

ADDED_COLUMNS = (
    ("shard", "name", "TEXT NOT NULL DEFAULT ''"),
    ("shard", "partition", "TEXT NOT NULL DEFAULT '[]'"),
)
"""Columns that older ledgers of this format lack; they are added when such a ledger is opened."""


@dataclass(frozen=True)
class Shard:
    """A registered shard: one input file.

    `retracted` says why it stays out ("vanished", "takedown"); None while it is in the corpus or waits for its
    admission. `registered` is the time of its registration or return, in UTC as all times here. `name` is the file's
    name in its source, `partition` the columns of its folders as JSON.
    """

    key: str
    position: int
    uri: str
    format: str
    compression: str | None
    role: str = CORPUS
    retracted: str | None = None
    registered: str = field(default="", compare=False)
    name: str = field(default="", compare=False)
    partition: str = field(default="[]", compare=False)


@dataclass(frozen=True)
class Admission:
    """The position of one content of a shard in the curation order. `number` starts at 1; `texts` counts the texts that
    it introduces.

    A shard whose content changed has several; at most one of them is live. `retracted` is the number of the
    retraction that ended the admission, None while it is live.
    """

    number: int
    shard: str
    fingerprint: str
    codebook: int
    texts: int
    records: int
    retracted: int | None = None
    role: str = CORPUS

    @property
    def input_version(self) -> str:
        """Input version of the stages after the admission: the same content admitted again is another admission."""
        return f"{self.fingerprint}#{self.number}"


@dataclass(frozen=True)
class Retraction:
    """The retraction of a whole admission, or of single records of it (see tombstones).

    `admission` is None where a shard was retracted before it was admitted.
    """

    number: int
    shard: str
    admission: int | None
    reason: str
    run_id: str
    finished: str


@dataclass(frozen=True)
class CorpusState:
    """The state of the corpus at one moment.

    `admissions` holds all admissions in curation order, including retracted ones. `taken_down` holds the rows of single
    records that were taken down, ascending, by the number of their live admission. `retractions` is the number of the
    last retraction.
    """

    admissions: list[Admission]
    taken_down: dict[int, list[int]]
    retractions: int


@dataclass(frozen=True)
class Completion:
    """A finished stage of a shard. `input_version` identifies its input; `stats` holds figures of its result.

    It is `void` if its admission has been retracted since.
    """

    shard: str
    stage: str
    input_version: str
    stats: dict[str, Any]
    run_id: str
    seconds: float
    finished: str
    void: bool = False


@dataclass(frozen=True)
class Codebook:
    """A set of centroids; the one with the highest number is current.

    `digest` is a hash of the centroids, so cells of an abandoned fit are never taken for cells of this codebook.
    """

    number: int
    digest: str
    cells: int
    corpus_texts: int
    stats: dict[str, Any]

    @property
    def name(self) -> str:
        """Base name of its files."""
        return f"{self.number:04d}-{self.digest}"


@dataclass(frozen=True)
class Generation:
    """One consistent set of decisions under one decision fingerprint; the one with the highest number is current.

    It began with the first `admissions` live shards of the curation order and grows with every later shard until a
    change other than an append occurs. The records of admissions up to number `rebuilt` are in one order over all of
    them, not shard by shard. `retractions` is the number of the last retraction that it includes.
    """

    number: int
    fingerprint: str
    mode: str
    admissions: int
    rebuilt: int = 0
    retractions: int = 0


@dataclass(frozen=True)
class Rebuild:
    """A request for a rebuild, and the codebook and generation that satisfied it so far."""

    token: str
    codebook: int | None
    generation: int | None
    finished: str | None = None


Registration = tuple[Any, ...]
"""A file to register: (key, uri, format, compression), optionally followed by its name in its source and the columns of
its folders as JSON."""

Entry = tuple[str, str, Mapping[str, Any], float]
"""The fields of a completion: (shard, input_version, stats, seconds)."""
