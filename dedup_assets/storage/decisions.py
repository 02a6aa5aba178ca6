"""Decisions on disk: a table of records for each shard of a generation, and a table of texts for each admission that
introduced some. A text may outlive the admission that introduced it."""

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
from dedup_assets.storage.workspace import Workspace, admission_name


@dataclass(frozen=True)
class DecidedShard:
    """Decisions of the live records of one shard, in row order."""

    admission: Admission
    rows: np.ndarray
    ids: pa.Array
    kept: np.ndarray
    keeper: np.ndarray
    similarity: np.ndarray
    exact: np.ndarray


@dataclass(frozen=True)
class Representatives:
    """The representing record of each of some texts: its admission, row and id."""

    admissions: np.ndarray
    rows: np.ndarray
    ids: pa.Array

    def take(self, at: np.ndarray) -> Representatives:
        """The entries at some indexes."""
        return Representatives(self.admissions[at], self.rows[at], self.ids.take(pa.array(at)))


@dataclass(frozen=True)
class _Texts:
    """Decided texts of one admission, sorted by key, with the record that represents each."""

    decisions: TextDecisions
    representatives: Representatives


class DecisionStore:
    """Reads and writes the decisions of one generation; caches the texts it has read."""

    def __init__(self, workspace: Workspace, generation: int) -> None:
        self._workspace = workspace
        self._generation = generation
        self._admissions = {a.number: a for a in workspace.ledger.admissions()}
        self._seen: dict[int, _Texts] = {}

    def texts(self, keys: np.ndarray) -> TextDecisions:
        """Decisions of the given texts (sorted keys) that were decided before; retracted texts have none."""
        parts = []
        numbers = admission_of(keys)
        for number in np.unique(numbers):
            known = self._of(int(number)).decisions
            at = known.find(keys[numbers == number])
            parts.append(known.take(at[at >= 0]))
        return TextDecisions.joined(parts)

    def remember(self, texts: TextDecisions, representatives: Representatives) -> list[int]:
        """Cache texts that were just decided; returns the numbers of the admissions that introduced them."""
        brought_by = admission_of(texts.keys)
        numbers = [int(number) for number in np.unique(brought_by)]
        for number in numbers:
            mine = np.flatnonzero(brought_by == number)
            self._seen[number] = _Texts(texts.take(mine), representatives.take(mine))
        return numbers

    def _path(self, number: int) -> str:
        return str(self._workspace.decisions(self._generation, "texts", admission_name(self._admissions[number])))

    def _of(self, number: int) -> _Texts:
        if number not in self._seen:
            try:
                table = pq.read_table(self._path(number)).combine_chunks()
            except FileNotFoundError:  # none of its texts is live
                table = TEXT_DECISIONS.empty_table()
            column = {name: table.column(name).to_numpy() for name in TEXT_DECISIONS.names if name != "record_id"}
            ids = table.column("record_id")
            self._seen[number] = _Texts(
                TextDecisions(
                    column["text"], column["kept"], column["keeper_text"], column["similarity"], column["place"]
                ),
                Representatives(
                    column["record_admission"],
                    column["record_row"],
                    ids.chunk(0) if len(ids) else pa.array([], pa.string()),
                ),
            )
        return self._seen[number]

    def write_texts(self, numbers: Sequence[int]) -> None:
        """Publish the cached texts that some admissions introduced."""
        for number in numbers:
            known = self._seen[number]
            d, by = known.decisions, known.representatives
            table = pa.table(
                [
                    pa.array(d.keys),
                    pa.array(d.kept),
                    pa.array(by.admissions),
                    pa.array(by.rows),
                    by.ids,
                    pa.array(d.keeper),
                    pa.array(d.similarity),
                    pa.array(d.place),
                ],
                schema=TEXT_DECISIONS,
            )
            name = admission_name(self._admissions[number])
            write_parquet(self._workspace.decisions(self._generation, "texts", name), table)

    def write_records(self, shard: DecidedShard) -> int:
        """Publish a shard's decisions; its texts, and those of all its keepers, are cached or on disk.

        Returns the number of records removed for a keeper of another shard.
        """
        removed = np.flatnonzero(~shard.kept)
        keepers = shard.keeper[removed]
        names, numbers, groups = self._names(keepers)
        owners = pa.array([self._admissions[int(number)].shard for number in numbers], pa.string())
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
        write_parquet(self._workspace.decisions(self._generation, "records", shard.admission.shard), records)
        return int((numbers != shard.admission.number).sum())

    def _names(self, keys: np.ndarray) -> tuple[pa.Array, np.ndarray, pa.Array]:
        """Id and admission of the record that represents each keeper text (m,), and its group.

        A group is named ADMISSION:ROW by its keeper's text, because later shards cannot change that name.
        """
        brought_by = admission_of(keys)
        names = np.empty(len(keys), object)
        owners = np.empty(len(keys), np.int64)
        for number in np.unique(brought_by):
            mine = np.flatnonzero(brought_by == number)
            known = self._of(int(number))
            at = known.decisions.find(keys[mine])
            names[mine] = known.representatives.ids.take(pa.array(at)).to_pylist()
            owners[mine] = known.representatives.admissions[at]
        groups = [f"{number}:{row}" for number, row in zip(brought_by.tolist(), row_of(keys).tolist(), strict=True)]
        return pa.array(names, pa.string()), owners, pa.array(groups, pa.string())


def read_record_decisions(workspace: Workspace, generation: int, shard: str) -> pa.Table:
    """The decisions of a shard's live records, in row order."""
    return pq.read_table(workspace.decisions(generation, "records", shard))
