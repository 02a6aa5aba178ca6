"""What the ledger holds: its tables, and the rows as they are read. Knows no workspace and runs no query."""

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
"""Roles of a shard. Records of a reference are never written out; corpus records that match them go."""

CHANGED, VANISHED, TAKEDOWN, WITHDRAWN = "changed", "vanished", "takedown", "withdrawn"
"""Why an admission was retracted: its file has other content, its file is gone, someone asked for it, or it is
to be admitted again: a stage failed for it before anything of it was published, or an id that it waited for is free."""

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
"""Columns that ledgers of this format made earlier lack: they get them when they are opened."""


@dataclass(frozen=True)
class Shard:
    """A registered shard: one input file.

    `retracted` says why it stays out ("vanished", "takedown"), None while it is in or on its way in.
    `registered` is when it was named, or came back: UTC, as all times here. `name` is the file's name in its source,
    `partition` the columns of its folders as JSON.
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
    """A content's place in the curation order. `number` starts at 1; `texts` are those new with it.

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
        """The input of the stages after the admission: the same content admitted again is another admission."""
        return f"{self.fingerprint}#{self.number}"


@dataclass(frozen=True)
class Retraction:
    """Something that was taken back: an admission as a whole, or single records of it (see tombstones).

    `admission` is None where a shard was retracted before it was admitted.
    """

    number: int
    shard: str
    admission: int | None
    reason: str
    run_id: str
    finished: str


@dataclass(frozen=True)
class Standing:
    """What is in the corpus at one moment.

    `admissions` are all of them in curation order, retracted ones too; `taken_down` holds the rows that were taken
    down singly, ascending, by the number of their live admission; `retractions` is the number of the last retraction.
    """

    admissions: list[Admission]
    taken_down: dict[int, list[int]]
    retractions: int


@dataclass(frozen=True)
class Completion:
    """A finished stage of a shard. `input_version` names what it was computed from; `stats` what came out.

    A `void` one was of an admission that has been retracted since.
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
    """A set of centroids; the one with the highest number is in force.

    `digest` is of the centroids: what was laid out under an abandoned fit never passes for this one.
    """

    number: int
    digest: str
    cells: int
    corpus_texts: int
    stats: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.number:04d}-{self.digest}"


@dataclass(frozen=True)
class Generation:
    """One consistent set of decisions under one decision fingerprint; the highest number is in force.

    It was begun with the first `admissions` live shards of the curation order and grows with every shard that
    comes after, until something other than an append happens. Of the admissions up to number `rebuilt` the
    records stand in one order over all of them, not shard by shard. `retractions` is the number of the last
    retraction it takes into account.
    """

    number: int
    fingerprint: str
    mode: str
    admissions: int
    rebuilt: int = 0
    retractions: int = 0


@dataclass(frozen=True)
class Rebuild:
    """A request for a rebuild, and the codebook and the generation that answered it so far."""

    token: str
    codebook: int | None
    generation: int | None
    finished: str | None = None


Registration = tuple[Any, ...]
"""A file to be registered: (key, uri, format, compression), or these with its name in its source and the columns of
its folders as JSON."""

Entry = tuple[str, str, Mapping[str, Any], float]
"""What a completion records: (shard, input_version, stats, seconds)."""
