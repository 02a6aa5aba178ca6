"""Questions about single records: why it went, what lies near the threshold, what is like a text.

Reads what the assets stored; computes nothing that decides anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.compute.similarity import canonical_similarity
from dedup_assets.errors import SettingsError, WorkspaceError
from dedup_assets.report.measures import Group
from dedup_assets.resources.worker_tasks import encode_texts
from dedup_assets.storage.encoding import open_table, settle_encoder
from dedup_assets.storage.ingest import read_texts
from dedup_assets.storage.ingest_spec import ingest_spec
from dedup_assets.storage.ledger import Admission, Completion
from dedup_assets.storage.living import Living
from dedup_assets.storage.output import read_manifest
from dedup_assets.storage.shards import AdmittedShard, Records, admission_of, read_records, row_of
from dedup_assets.storage.tables import PAIRS
from dedup_assets.storage.workspace import Workspace, admission_name


class Corpus:
    """The curated corpus of a workspace, for look-ups."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        generation = workspace.ledger.generation()
        if generation is None:
            raise WorkspaceError(f"{workspace.root}: nothing is decided yet. Run `dedup-assets curate` first.")
        self.generation = generation
        self._records: dict[str, Records] = {}

    @cached_property
    def admissions(self) -> dict[str, Admission]:
        """Live admissions by shard."""
        return {a.shard: a for a in self.workspace.ledger.live_admissions()}

    @cached_property
    def living(self) -> Living:
        """Which texts live: of the others nothing is shown."""
        return Living(self.workspace)

    def records(self, shard: str) -> Records:
        """The valid records of an admitted shard."""
        if shard not in self._records:
            a = self.admissions[shard]
            self._records[shard] = read_records(self.workspace.raw(shard, a.fingerprint))
        return self._records[shard]

    @cached_property
    def decided(self) -> dict[str, Completion]:
        """Decided shards by key, in curation order."""
        done = self.workspace.ledger.completions("duplicate_ids")
        return {key: done[key] for key in sorted(done, key=lambda key: self.admissions[key].number)}

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

    def group_texts(self, groups: Sequence[Group]) -> list[tuple[Group, str, list[str]]]:
        """Groups with the text of the keeper and those of the removed records that are named."""
        places = [(group.keeper_shard, self.row(group.keeper_shard, group.keeper_id)) for group in groups]
        places += [(member["shard"], member["row"]) for group in groups for member in group.members]
        texts = self.texts(places)
        rest = iter(texts[len(groups) :])
        return [
            (group, keeper_text, [next(rest) for _ in group.members])
            for group, keeper_text in zip(groups, texts[: len(groups)], strict=True)
        ]

    def row(self, shard: str, record_id: str) -> int:
        """The row of a record by its id in a known shard."""
        records = self.records(shard)
        at = pc.index(records.ids, record_id).as_py()
        return int(records.rows[at])

    def vector(self, shard: str, row: int) -> np.ndarray:
        """The stored vector (1, d) of a record's text."""
        records = self.records(shard)
        at = np.searchsorted(records.rows, row)
        return open_table(self.workspace).vectors(shard, records.hashes[at : at + 1])

    def stand_in(self, key: int) -> tuple[str, int, str]:
        """Shard, row and id of the record that stands for a living text."""
        by_number = {a.number: a for a in self.living.all}
        brought_by, row = by_number[int(admission_of(np.array([key]))[0])], int(row_of(np.array([key]))[0])
        path = self.workspace.decisions(self.generation.number, "texts", admission_name(brought_by))
        decided = pq.read_table(path, filters=pc.field("text") == key).to_pylist() if path.is_file() else []
        if decided:
            return by_number[decided[0]["record_admission"]].shard, decided[0]["record_row"], decided[0]["record_id"]
        # Matched and not decided yet: the record that brought it.
        records = self.records(brought_by.shard)
        return brought_by.shard, row, records.ids[int(np.searchsorted(records.rows, row))].as_py()

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


def explain(workspace: Workspace, record_id: str) -> dict[str, Any]:
    """Why a record was kept or removed, with the evidence. Raises WorkspaceError for an unknown id."""
    _require_unicode("ID", record_id)
    corpus = Corpus(workspace)
    decision = corpus.decision(record_id)
    quarantined = _quarantined(workspace, record_id)
    if decision is None:
        if not quarantined:
            raise _unknown(corpus, record_id)
        return {"id": record_id, "decision": "quarantined", **quarantined[0], **_also(quarantined[1:])}
    shard, row = decision["shard"], decision["row"]
    answer: dict[str, Any] = {
        "id": decision["id"],
        "decision": "kept" if decision["kept"] else "removed",
        "shard": shard,
        "row": row,
        "admission": corpus.admissions[shard].number,
        "source": workspace.ledger.completions("raw_shards")[shard].facts["source_file"],
        "text": corpus.text(shard, row),
    }
    if not decision["kept"]:
        keeper_shard, keeper_id = decision["keeper_shard"], decision["keeper_id"]
        keeper_row = corpus.row(keeper_shard, keeper_id)
        recomputed = canonical_similarity(corpus.vector(shard, row), corpus.vector(keeper_shard, keeper_row))
        answer |= {
            "kind": decision["kind"],
            "similarity": decision["similarity"],
            "similarity_recomputed": float(recomputed[0]),
            "keeper_id": keeper_id,
            "keeper_shard": keeper_shard,
            "keeper_row": keeper_row,
            "keeper_text": corpus.text(keeper_shard, keeper_row),
            "group_id": decision["group_id"],
        }
    return answer | {
        "settings": settings_in_force(corpus),
        "generation": corpus.generation.number,
        "run_id": corpus.decided[shard].run_id,
        "decided": corpus.decided[shard].finished,
        **_also(quarantined),
    }


def settings_in_force(corpus: Corpus) -> dict[str, Any]:
    """The settings under which the decisions were taken.

    Those of the workspace, unless they were changed and nothing was decided since: then what was published
    says what they were.
    """
    settings = corpus.workspace.settings
    deciding: Mapping[str, Any] = {**settings.layer("decisions"), "settings_fingerprint": settings.fingerprint()}
    outdated = corpus.generation.fingerprint != settings.fingerprint("decisions")
    if outdated:
        manifest = read_manifest(corpus.workspace)
        deciding = manifest if manifest["generation"] == corpus.generation.number else {}
    in_force = {
        **{name: deciding.get(name, "unknown") for name in ("threshold", "keep", "mode", "keeper_rule")},
        "floor": settings.floor,
        "model": settings.model if not settings.embedding_column else "given with the data",
        "fingerprint": deciding.get("settings_fingerprint", "unknown"),
    }
    if outdated:
        in_force["outdated"] = "curation.toml holds other settings now; `dedup-assets curate` decides anew"
    return in_force


def _quarantined(workspace: Workspace, record_id: str) -> list[dict[str, Any]]:
    """The quarantined rows that carry an id, or that SHARD:ROW names."""
    column = workspace.settings.id_column
    # As the id stands inside the JSON of a record: a cheap test that spares parsing most rows.
    written = json.dumps(record_id, ensure_ascii=False)[1:-1]
    found = []
    for path in sorted((workspace.output / "quarantine").glob("*.parquet")):
        table = pq.read_table(path)
        named = pc.equal(pc.binary_join_element_wise(path.stem, table["row"].cast(pa.string()), ":"), record_id)
        table = table.filter(pc.or_kleene(pc.match_substring(table["record"], written), named))
        for entry in table.to_pylist():
            if record_id in (_value(entry["record"], column), f"{path.stem}:{entry['row']}"):
                found.append({"shard": path.stem, **{name: entry[name] for name in ("row", "reason", "record")}})
    return found


def _also(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Further quarantined rows that carry the same id, if there are any."""
    return {"also_quarantined": [dict(row) for row in rows]} if rows else {}


def _unknown(corpus: Corpus, record_id: str) -> WorkspaceError:
    registered = len(corpus.workspace.ledger.shards())
    unfinished = registered - len(corpus.decided)
    pending = f", {unfinished} of them not finished: `dedup-assets curate` finishes them" if unfinished else ""
    return WorkspaceError(
        f"No record has the id {record_id!r} in {corpus.workspace.root} (shards: {registered}{pending}). Ids are "
        f"those of column {corpus.workspace.settings.id_column!r}, or SHARD:ROW for any row; `dedup-assets search` "
        "finds records by text."
    )


def _value(record: str | None, column: str) -> str | None:
    try:
        value = json.loads(record or "null").get(column)
    except (ValueError, AttributeError):
        return None
    return None if value is None else str(value)


def _require_unicode(what: str, text: str) -> None:
    """Refuse an argument of bytes that are no UTF-8: nothing stored could equal it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise SettingsError(f"{what} {text!r} is not valid UTF-8: every stored id and text is.") from None


def pairs_around(workspace: Workspace, similarity: float, count: int) -> list[dict[str, Any]]:
    """The stored matches nearest a similarity, from high to low, with both texts."""
    if not 0.0 < similarity <= 1.0:
        raise SettingsError(
            f"around = {similarity!r}: expected a cosine similarity above 0 and at most 1, such as 0.95."
        )
    corpus = Corpus(workspace)
    nearest = PAIRS.empty_table().append_column("distance", pa.array([], pa.float64()))
    for a in corpus.living.visible:  # one shard's matches at a time: all of them together may be many
        if not workspace.pairs(a).is_file():
            continue
        table = pq.read_table(workspace.pairs(a)).replace_schema_metadata()
        keys = [table[name].to_numpy() for name in ("key_a", "key_b")]
        table = table.filter(pa.array(corpus.living.texts(keys[0]) & corpus.living.texts(keys[1])))
        distance = pc.abs(pc.subtract(table["similarity"], similarity))
        nearest = _nearest(pa.concat_tables([nearest, table.append_column("distance", distance)]), count)
    pairs = sorted(nearest.to_pylist(), key=lambda pair: (-pair["similarity"], pair["key_a"], pair["key_b"]))
    ends = [corpus.stand_in(pair[name]) for pair in pairs for name in ("key_a", "key_b")]
    texts = corpus.texts([(shard, row) for shard, row, _ in ends])
    answer = []
    for number, pair in enumerate(pairs):
        entry = {"similarity": pair["similarity"]}
        for at, side in ((2 * number, "a"), (2 * number + 1, "b")):
            entry |= {f"id_{side}": ends[at][2], f"shard_{side}": ends[at][0], f"text_{side}": texts[at]}
        answer.append(entry)
    return answer


def _nearest(table: pa.Table, count: int) -> pa.Table:
    order = [("distance", "ascending"), ("key_a", "ascending"), ("key_b", "ascending")]
    return table.sort_by(order).slice(0, count)


def search(workspace: Workspace, text: str, count: int) -> list[dict[str, Any]]:
    """The corpus texts most like a text, from the LanceDB table, with what was decided on each."""
    settings = workspace.settings
    if settings.embedding_column:
        raise SettingsError(
            f"{workspace.root} holds vectors that came with the data (column {settings.embedding_column!r}): no "
            "model is known that would put a text beside them. `dedup-assets explain ID` finds a record by its id."
        )
    _require_unicode("TEXT", text)
    if not text.strip():
        raise SettingsError("TEXT is empty: give the text to look for.")
    corpus = Corpus(workspace)
    encoder = settle_encoder(workspace)
    query, _ = encode_texts([text], settings, encoder.fingerprint, "cpu")
    table = open_table(workspace)
    places: list[tuple[str, int]] = []
    asked = count
    while True:
        hits = table.nearest(query[0], asked)
        found = (corpus.living_record(str(h["shard"]), str(h["id"]), _hash_of(str(h["text_hash"]))) for h in hits)
        places = [place for place in found if place is not None][:count]
        if len(places) == count or len(hits) < asked:
            break
        asked *= 4  # some of the nearest were taken back since they were embedded
    answer = []
    for (shard, row), text in zip(places, corpus.texts(places), strict=True):
        decision = corpus.decision_in(shard, pc.field("row") == row) if shard in corpus.decided else None
        records = corpus.records(shard)
        answer.append(
            {
                "id": records.ids[int(np.searchsorted(records.rows, row))].as_py(),
                "shard": shard,
                "similarity": float(canonical_similarity(query, corpus.vector(shard, row))[0]),
                "decision": "undecided" if decision is None else "kept" if decision["kept"] else "removed",
                "text": text,
            }
        )
    return sorted(answer, key=lambda found: -found["similarity"])


def _hash_of(digits: str) -> np.ndarray:
    """The two halves (2,) of a text hash written in hexadecimal."""
    return np.array([int(digits[:16], 16), int(digits[16:], 16)], np.uint64)
