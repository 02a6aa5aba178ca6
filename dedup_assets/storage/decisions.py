"""Decisions on disk: one table of records and one of texts for every shard of a generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dedup_assets.compute.curation import TextDecisions
from dedup_assets.storage.ledger import Admission
from dedup_assets.storage.shards import admission_of, row_of
from dedup_assets.storage.tables import RECORD_DECISIONS, TEXT_DECISIONS, write_parquet
from dedup_assets.storage.workspace import Workspace


@dataclass(frozen=True)
class DecidedShard:
    """Decisions of one shard's accepted records, in row order; `texts` are the keys new with it."""

    admission: Admission
    rows: np.ndarray
    ids: pa.Array
    kept: np.ndarray
    keeper: np.ndarray
    similarity: np.ndarray
    exact: np.ndarray
    texts: np.ndarray


@dataclass(frozen=True)
class _Texts:
    """Decided texts of one admission, sorted by key, with the record that stands for each."""

    decisions: TextDecisions
    rows: np.ndarray
    ids: pa.Array


class DecisionStore:
    """Reads and writes the decisions of one generation; keeps the texts it has seen."""

    def __init__(self, workspace: Workspace, generation: int, admissions: Sequence[Admission]) -> None:
        self._workspace = workspace
        self._generation = generation
        self._admissions = {a.number: a for a in admissions}
        self._seen: dict[int, _Texts] = {}
        self.threshold = workspace.settings.threshold

    def texts(self, keys: np.ndarray) -> TextDecisions:
        """Decisions of the given texts (sorted keys); all of them were decided before."""
        parts = []
        numbers = admission_of(keys)
        for number in np.unique(numbers):
            known = self._of(int(number)).decisions
            at = known.place(keys[numbers == number])
            parts.append(TextDecisions(known.keys[at], known.kept[at], known.keeper[at], known.similarity[at]))
        return TextDecisions.joined(parts)

    def remember(self, texts: TextDecisions, rows: np.ndarray, ids: Sequence[str]) -> None:
        """Take in texts that were just decided: `rows` and `ids` of the records that stand for them."""
        numbers = admission_of(texts.keys)
        names = pa.array(ids, pa.string())
        for number in np.unique(numbers):
            mine = np.flatnonzero(numbers == number)
            self._seen[int(number)] = _Texts(
                TextDecisions(texts.keys[mine], texts.kept[mine], texts.keeper[mine], texts.similarity[mine]),
                rows[mine],
                names.take(pa.array(mine)),
            )

    def _of(self, number: int) -> _Texts:
        if number not in self._seen:
            a = self._admissions[number]
            table = pq.read_table(self._workspace.decisions(self._generation, "texts", a.shard)).combine_chunks()
            ids = table.column("record_id")
            self._seen[number] = _Texts(
                TextDecisions(
                    table.column("text").to_numpy(),
                    table.column("kept").to_numpy(),
                    table.column("keeper_text").to_numpy(),
                    table.column("similarity").to_numpy(),
                ),
                table.column("record_row").to_numpy(),
                ids.chunk(0) if len(ids) else pa.array([], pa.string()),
            )
        return self._seen[number]

    def write(self, shard: DecidedShard) -> None:
        """Publish a shard's decisions; its texts, and those of all its keepers, are remembered or on disk."""
        a = shard.admission
        removed = np.flatnonzero(~shard.kept)
        keepers = shard.keeper[removed]
        names, owners, groups = self._names(keepers)
        spread = np.full(len(shard.rows), -1, np.int64)
        spread[removed] = np.arange(len(removed))
        chosen = pa.array(spread, mask=spread < 0)
        kind = pa.array(np.where(shard.exact[removed], "exact", "semantic").tolist(), pa.string())
        records = pa.table(
            [
                pa.array(shard.rows),
                shard.ids,
                pa.array(shard.kept),
                names.take(chosen),
                owners.take(chosen),
                pa.array(shard.similarity[removed]).take(chosen),
                kind.take(chosen),
                groups.take(chosen),
            ],
            schema=RECORD_DECISIONS,
        )
        write_parquet(self._workspace.decisions(self._generation, "records", a.shard), records)
        write_parquet(self._workspace.decisions(self._generation, "texts", a.shard), self._texts_table(a))

    def _texts_table(self, a: Admission) -> pa.Table:
        known = self._seen.get(a.number)
        if known is None:
            return TEXT_DECISIONS.empty_table()
        d = known.decisions
        return pa.table(
            [
                pa.array(d.keys),
                pa.array(d.kept),
                pa.array(known.rows),
                known.ids,
                pa.array(d.keeper),
                pa.array(d.similarity),
            ],
            schema=TEXT_DECISIONS,
        )

    def _names(self, keys: np.ndarray) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Record id, shard and group of each keeper text (m,).

        A group is named by its keeper's text, ADMISSION:ROW: the one name that later shards cannot change.
        """
        numbers = admission_of(keys)
        names = np.empty(len(keys), object)
        owners = np.empty(len(keys), object)
        for number in np.unique(numbers):
            mine = np.flatnonzero(numbers == number)
            known = self._of(int(number))
            at = known.decisions.place(keys[mine])
            names[mine] = known.ids.take(pa.array(at)).to_pylist()
            owners[mine] = self._admissions[int(number)].shard
        groups = [f"{number}:{row}" for number, row in zip(numbers.tolist(), row_of(keys).tolist(), strict=True)]
        return pa.array(names, pa.string()), pa.array(owners, pa.string()), pa.array(groups, pa.string())


def read_record_decisions(workspace: Workspace, generation: int, shard: str) -> pa.Table:
    """The decisions of a shard's accepted records, in row order."""
    return pq.read_table(workspace.decisions(generation, "records", shard))
