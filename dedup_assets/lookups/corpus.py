"""The corpus behind a report: records, texts, vectors and decisions of what lives, each read when asked for.

Decides nothing and prints nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.encoder.settled import open_table
from dedup_assets.errors import WorkspaceError
from dedup_assets.ingest.record_spec import ingest_spec
from dedup_assets.ingest.records import read_texts
from dedup_assets.storage.ledger import Admission, Completion
from dedup_assets.storage.shards import AdmittedShard, Records, admission_of, read_records
from dedup_assets.storage.workspace import Workspace, admission_name

HELD_SHARDS = 32
"""Shards whose records are held: what one answer touches is mostly in these, and a corpus may have thousands."""


Place = tuple[str, int, str]
"""A record by its shard, row and id."""


class Corpus:
    """The curated corpus of a workspace, for look-ups."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        generation = workspace.ledger.generation()
        if generation is None:
            raise WorkspaceError(f"{workspace.root}: nothing is decided yet. Run `dedup-assets curate` first.")
        self.generation = generation
        self.records = lru_cache(maxsize=HELD_SHARDS)(self._read_records)

    @cached_property
    def admissions(self) -> dict[str, Admission]:
        """Live admissions by shard."""
        return {a.shard: a for a in self.workspace.ledger.live_admissions()}

    @cached_property
    def living(self) -> LiveTexts:
        """Which texts live: of the others nothing is shown."""
        return LiveTexts(self.workspace)

    def _read_records(self, shard: str) -> Records:
        """The valid records of a live admission; asked for as `records`, which keeps the last ones."""
        return read_records(self.workspace.raw(shard, self.admissions[shard].fingerprint))

    @cached_property
    def decided(self) -> dict[str, Completion]:
        """Decided shards by key, in curation order."""
        done = self.workspace.ledger.completions("duplicate_ids")
        # One that was decided, or retracted, between two looks at the ledger is left out.
        known = [key for key in done if key in self.admissions]
        return {key: done[key] for key in sorted(known, key=lambda key: self.admissions[key].number)}

    def decision(self, record_id: str) -> dict[str, Any] | None:
        """The decision on a record: the columns of the decisions table, and `shard`; None if unknown.

        An id may also be SHARD:ROW, which every row has, whatever the shard's own ids are.
        """
        for shard in self.decided:
            found = self.decision_in(shard, pc.field("id") == record_id)
            if found is not None:
                return found
        shard, _, row = record_id.rpartition(":")
        if shard in self.decided and row.isdecimal():
            return self.decision_in(shard, pc.field("row") == int(row))
        return None

    def decision_in(self, shard: str, condition: pc.Expression) -> dict[str, Any] | None:
        """The decision on the record of a decided shard that meets a condition; None if none does."""
        path = self.workspace.decisions(self.generation.number, "records", shard)
        found = pq.read_table(path, filters=condition)
        return {**found.to_pylist()[0], "shard": shard} if found.num_rows else None

    def text(self, shard: str, row: int) -> str:
        """The joined text of a record; "" where the shard has vectors only."""
        return self.texts([(shard, row)])[0]

    def texts(self, places: Sequence[tuple[str, int]]) -> list[str]:
        """The joined texts of records by shard and row; each shard is read once."""
        spec = ingest_spec(self.workspace.settings)
        found = [""] * len(places)
        for shard in dict.fromkeys(shard for shard, _ in places):
            at = [number for number, place in enumerate(places) if place[0] == shard]
            records = self.records(shard)
            positions = records.positions[np.searchsorted(records.rows, [places[number][1] for number in at])]
            raw = self.workspace.raw(shard, self.admissions[shard].fingerprint)
            for number, text in zip(at, read_texts(raw, spec, positions), strict=True):
                found[number] = text
        return found

    def side_by_side(self, pairs: Sequence[tuple[float, Place, Place]]) -> list[dict[str, Any]]:
        """Pairs as people look at them: the similarity, and id, shard and text of both."""
        texts = iter(self.texts([(shard, row) for _, *ends in pairs for shard, row, _ in ends]))
        answer = []
        for similarity, *ends in pairs:
            entry: dict[str, Any] = {"similarity": similarity}
            for side, (shard, _, name) in zip("ab", ends, strict=True):
                entry |= {f"id_{side}": name, f"shard_{side}": shard, f"text_{side}": next(texts)}
            answer.append(entry)
        return answer

    def holds(self, shard: str, record_id: str) -> bool:
        """Whether a shard is live and has a record with an id."""
        return shard in self.admissions and pc.index(self.records(shard).ids, record_id).as_py() >= 0

    def row(self, shard: str, record_id: str) -> int:
        """The row of a keeper by its id. Raises WorkspaceError if it was retracted since it was decided upon."""
        if not self.holds(shard, record_id):
            raise WorkspaceError(
                f"Keeper {record_id} was retracted with shard {shard}, and nothing was decided since: run "
                "`dedup-assets curate`, which decides again."
            )
        records = self.records(shard)
        return int(records.rows[pc.index(records.ids, record_id).as_py()])

    def vector(self, shard: str, row: int) -> np.ndarray:
        """The stored vector (1, d) of a record's text."""
        records = self.records(shard)
        at = np.searchsorted(records.rows, row)
        return open_table(self.workspace).vectors(shard, records.hashes[at : at + 1])

    def stand_in(self, key: int) -> Place:
        """Shard, row and id of the record that stands for a living text."""
        by_number = {a.number: a for a in self.living.all}
        brought_by = by_number[int(admission_of(np.array([key]))[0])]
        path = self.workspace.decisions(self.generation.number, "texts", admission_name(brought_by))
        decided = pq.read_table(path, filters=pc.field("text") == key).to_pylist() if path.is_file() else []
        if decided and self.holds(by_number[decided[0]["record_admission"]].shard, decided[0]["record_id"]):
            return by_number[decided[0]["record_admission"]].shard, decided[0]["record_row"], decided[0]["record_id"]
        # Matched and not decided yet, or decided before that record was retracted: the first that has the text.
        numbers, rows = self.living.places(np.array([key]))
        shard, row = by_number[int(numbers[0])].shard, int(rows[0])
        records = self.records(shard)
        return shard, row, records.ids[int(np.searchsorted(records.rows, row))].as_py()

    def living_record(self, shard: str, record_id: str, text_hash: np.ndarray) -> tuple[str, int] | None:
        """Shard and row of a record with a text: the named one if it lives, else the first; None if none does."""
        others = [key for key in self.admissions if key != shard]
        for key in ([shard] if shard in self.admissions else []) + others:
            records, a = self.records(key), self.admissions[key]
            counting = self.living.accepted(a, AdmittedShard.read(self.workspace.admitted(a)))
            at = counting[(records.hashes[counting] == text_hash).all(axis=1)]
            if len(at):
                named = [number for number in at.tolist() if key == shard and records.ids[number].as_py() == record_id]
                return key, int(records.rows[(named or at.tolist())[0]])
        return None
