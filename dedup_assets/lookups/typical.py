"""Outliers among the kept records of a workspace, and samples of representative ones.

`compute.neighbours` computes scores and choices, as in memory. Vectors are read from the workspace's cells in blocks;
only the key of each kept text and its similarities to its nearest neighbours are held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.compute.neighbours import lowest, mean_of_nearest, representatives, rows_of_share
from dedup_assets.display_text import counted
from dedup_assets.errors import SettingsError, WorkspaceError
from dedup_assets.forks import require_own_threads
from dedup_assets.ingest.record_spec import ingest_spec
from dedup_assets.ingest.records import read_texts
from dedup_assets.later import torch
from dedup_assets.lookups.answers import RANKED, Ranked
from dedup_assets.lookups.corpus import Corpus
from dedup_assets.lookups.measures import decided_admissions
from dedup_assets.lookups.record_files import table_of
from dedup_assets.lookups.steady import steady
from dedup_assets.storage.ledger import REFERENCE, Admission
from dedup_assets.storage.raw_table import RawShard
from dedup_assets.storage.shards import AdmittedShard, read_records
from dedup_assets.storage.text_vectors import TextVectors
from dedup_assets.storage.workspace import Workspace

Advance = Callable[[int, int, str], None]
"""Called with an amount done, the total, and its unit."""


def outliers(workspace: Workspace, count: int, fraction: float | None, advance: Advance) -> Ranked:
    """The kept records with the lowest scores, the lowest first: `count` of them, or a fraction, rounded up.

    Among equal scores the later record comes first, by the admission of its shard, then by row. Raises SettingsError if
    texts have no vectors, WorkspaceError if nothing is kept or records were retracted meanwhile.
    """
    kept = _kept(workspace)
    scores = _scores(kept, advance)[kept.texts]
    wanted = count if fraction is None else rows_of_share(len(scores), fraction)
    silent = int((scores == 0.0).sum()) if len(kept.keys) > 1 else 0
    unknown = f"{counted(silent, 'record')} of score 0: the model knows too little of the text." if silent else ""
    return _answer(kept, lowest(scores, wanted), scores, unknown)


def sample(workspace: Workspace, count: int, diversity: float, advance: Advance) -> Ranked:
    """Representative kept records, in the order in which they are chosen; only the first record of each text.

    Among equals the earlier record is chosen, by the admission of its shard, then by row. Raises as `outliers`.
    """
    kept = _kept(workspace)
    scores = _scores(kept, advance)
    vectors = TextVectors(workspace)
    chosen = representatives(scores, count, diversity, lambda at: vectors(kept.keys[at]))
    few = f"{counted(len(kept.keys), 'distinct text')} kept, fewer than the {count:,} asked for: one record of each."
    return _answer(kept, kept.firsts[chosen], scores[kept.texts], few if len(chosen) < count else "")


@dataclass(frozen=True)
class _Kept:
    """The kept records of a generation in curation order: by the admission of their shards, then by row.

    Attributes
    ----------
    corpus : Corpus
        Of the generation.
    retractions : int
        Number of the last retraction when the records were listed.
    undecided : int
        Number of shards that are registered but not decided.
    admissions : list of Admission
    shard : int32 (n,)
        Index in `admissions` of each record's admission.
    record : int32 (n,)
        Index of the record among the valid records of its shard.
    texts : int64 (n,)
        Index in `keys` of the record's text.
    keys : int64 (m,)
        Text keys, in the order of their first records.
    firsts : int64 (m,)
        The first record of each text.
    """

    corpus: Corpus
    retractions: int
    undecided: int
    admissions: list[Admission]
    shard: np.ndarray
    record: np.ndarray
    texts: np.ndarray
    keys: np.ndarray
    firsts: np.ndarray

    def raw(self, number: int) -> RawShard:
        """The raw files of the admission with an index in `admissions`."""
        a = self.admissions[number]
        return self.corpus.workspace.raw(a.shard, a.fingerprint)


class _Vectors:
    """Vectors of some texts, read on access."""

    def __init__(self, workspace: Workspace, keys: np.ndarray) -> None:
        self._read, self._keys = TextVectors(workspace), keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, at: slice) -> np.ndarray:
        return self._read(self._keys[at])


@steady
def _kept(workspace: Workspace) -> _Kept:
    """List the kept records. Raises SettingsError if texts have no vectors, WorkspaceError if nothing is decided or
    kept."""
    if workspace.settings.exact_only:
        raise SettingsError(
            f"{workspace.root} was curated without a model (model = none): texts have no vectors, and nothing is near "
            "to another. Curate into a new workspace with a model; a static one (--model static:MODEL) takes seconds."
        )
    corpus = Corpus(workspace)
    registered = sum(shard.retracted is None for shard in workspace.ledger.shards())
    admissions = [a for a in decided_admissions(workspace) if a.role != REFERENCE]
    shards, records, keys = [np.empty(0, np.int32)], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    for number, a in enumerate(admissions):
        decided = pq.read_table(
            workspace.decisions(corpus.generation.number, "records", a.shard), columns=["row", "kept"]
        )
        admitted = AdmittedShard.read(workspace.admitted(a))
        accepted = corpus.living.accepted(a, admitted)
        rows = corpus.records(a.shard).rows[accepted]
        stays = accepted[np.isin(rows, decided.filter(pc.field("kept"))["row"].to_numpy())]
        shards.append(np.full(len(stays), number, np.int32))
        records.append(stays.astype(np.int32))
        keys.append(admitted.record_texts[stays])
    every = np.concatenate(keys)
    if not len(every):
        raise WorkspaceError(f"{workspace.root} keeps no record. `dedup-assets curate SOURCE` brings some.")
    distinct, first, back = np.unique(every, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number_of = np.empty(len(order), np.int64)
    number_of[order] = np.arange(len(order))
    return _Kept(
        corpus,
        workspace.ledger.last_retraction(),
        registered - len(corpus.decided),
        admissions,
        np.concatenate(shards),
        np.concatenate(records),
        number_of[back],
        distinct[order],
        first[order],
    )


def _scores(kept: _Kept, advance: Advance) -> np.ndarray:
    """The score of each text: float64 (m,)."""
    require_own_threads()
    total = len(kept.keys)
    return mean_of_nearest(
        _Vectors(kept.corpus.workspace, kept.keys),
        threads=torch.get_num_threads(),
        done=lambda amount: advance(amount, total, "texts"),
    )


def _answer(kept: _Kept, at: np.ndarray, scores: np.ndarray, remark: str) -> Ranked:
    """The records at some indexes with scores and texts. Raises WorkspaceError if a record was retracted meanwhile."""
    workspace = kept.corpus.workspace
    spec = ingest_spec(workspace.settings)
    ids, texts = np.empty(len(at), object), np.empty(len(at), object)
    rows = np.empty(len(at), np.int64)
    for number, mine in _by_shard(kept.shard[at]):
        records = read_records(kept.raw(number))
        record = kept.record[at[mine]]
        ids[mine], rows[mine] = records.ids.take(pa.array(record)).to_pylist(), records.rows[record]
        texts[mine] = read_texts(kept.raw(number), spec, records.positions[record])
    _require_all(kept)
    table = pa.table(
        [
            pa.array(scores[at]),
            pa.array(ids, pa.string()),
            pa.array([kept.admissions[number].shard for number in kept.shard[at]], pa.string()),
            pa.array(rows),
            pa.array(texts, pa.string()),
        ],
        schema=RANKED,
    )
    waiting = (
        f"{counted(kept.undecided, 'shard')} not decided yet, of which nothing is here: `dedup-assets curate` finishes."
        if kept.undecided
        else ""
    )
    return Ranked(table, filter(None, (remark, waiting)), lambda: _whole(kept, at))


def _whole(kept: _Kept, at: np.ndarray) -> pa.Table:
    """The records at some indexes in the input's own columns. Raises WorkspaceError as `_answer`."""
    parts = []
    for number, mine in _by_shard(kept.shard[at]):
        raw = kept.raw(number)
        parts.append((raw.table, mine, read_records(raw).positions[kept.record[at[mine]]]))
    table = table_of(parts, len(at))
    _require_all(kept)
    return table


def _by_shard(shards: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each distinct shard number, with its positions (m,)."""
    order = np.argsort(shards, kind="stable")
    for mine in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if len(order) else ():
        yield int(shards[mine[0]]), mine


def _require_all(kept: _Kept) -> None:
    """Raise WorkspaceError if records were retracted since the kept ones were listed: they must not be shown."""
    if kept.corpus.workspace.ledger.last_retraction() != kept.retractions:
        raise WorkspaceError(
            f"{kept.corpus.workspace.root}: records were taken back while this was computed. Ask again, after "
            "`dedup-assets curate` has decided without them."
        )
