"""Why a record was kept, removed or quarantined, and where it comes from: file, model, centroids, runs.

Reads what the assets stored; computes nothing that decides anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.compute.similarity import canonical_similarity
from dedup_assets.corpus.output import read_manifest
from dedup_assets.errors import SettingsError, WorkspaceError
from dedup_assets.ingest.formats.batches import rendered_value
from dedup_assets.lookups.answers import Explanation
from dedup_assets.lookups.corpus import Corpus
from dedup_assets.lookups.guarded import guards_of_removal, spared_by_guards
from dedup_assets.lookups.steady import steady
from dedup_assets.storage.cells import ShardCells, read_centroids
from dedup_assets.storage.ledger import STAGES, TAKEDOWN, Admission
from dedup_assets.storage.shards import AdmittedShard, admission_of, read_ids, row_of
from dedup_assets.storage.workspace import Workspace


@steady
def explain(workspace: Workspace, record_id: str) -> Explanation:
    """Why a record was kept or removed, with the evidence. Raises WorkspaceError for an unknown id."""
    require_unicode("ID", record_id)
    corpus = Corpus(workspace)
    decision = corpus.decision(record_id)
    quarantined = _quarantined(workspace, record_id)
    read = workspace.ledger.completions("raw_shards")
    if decision is None and quarantined:
        source = read[quarantined[0]["shard"]].stats["source_file"]
        answer: dict[str, Any] = {"id": record_id, "decision": "quarantined", **quarantined[0], "source": source}
        return Explanation(answer | _also(quarantined[1:]))
    if decision is None:
        retracted = _retracted(corpus, record_id)
        if retracted is None:
            raise _unknown(corpus, record_id)
        return Explanation(retracted)
    shard, row, in_force = decision["shard"], decision["row"], settings_in_force(corpus)
    answer = {
        "id": decision["id"],
        "decision": "kept" if decision["kept"] else "removed",
        "shard": shard,
        "row": row,
        "admission": corpus.admissions[shard].number,
        "source": read[shard].stats["source_file"],
        "text": corpus.text(shard, row),
    }
    if not decision["kept"]:
        keeper_shard, keeper_id = decision["keeper_shard"], decision["keeper_id"]
        keeper_row = corpus.row(keeper_shard, keeper_id)
        own = corpus.vector(shard, row)
        recomputed = canonical_similarity(own, corpus.vector(keeper_shard, keeper_row))
        answer |= {
            "kind": decision["kind"],
            "similarity": decision["similarity"],
            # The zero vector, of a text that the model cannot read, has no direction; its copies are its copies.
            "similarity_recomputed": float(recomputed[0]) if own.any() else decision["similarity"],
            "keeper_id": keeper_id,
            "keeper_shard": keeper_shard,
            "keeper_row": keeper_row,
            "keeper_source": read[keeper_shard].stats["source_file"],
            "keeper_text": corpus.text(keeper_shard, keeper_row),
            "group_id": decision["group_id"],
        }
        if guards := guards_of_removal(corpus, answer, in_force):
            answer["guards"] = guards
    elif spared := spared_by_guards(corpus, answer, in_force):
        answer["spared_by_guards"] = spared
    return Explanation(
        **answer,
        settings=in_force,
        generation=corpus.generation.number,
        run_id=corpus.decided[shard].run_id,
        decided=corpus.decided[shard].finished,
        lineage=lineage(corpus, shard, row),
        **_also(quarantined),
    )


def lineage(corpus: Corpus, shard: str, row: int) -> dict[str, Any]:
    """Where a record comes from and what it went through: file, content, model, centroids, runs.

    The codebook is the one under which the record's shard was compared; the home cell is that of its text.
    """
    workspace, a = corpus.workspace, corpus.admissions[shard]
    done = {stage: workspace.ledger.completions(stage).get(shard) for stage in STAGES}
    embedded = done["embeddings"]
    known = embedded.stats if embedded else {}
    codebook = workspace.ledger.codebooks()[a.codebook]
    found = {
        "content_fingerprint": a.fingerprint,
        "model": known.get("model", ""),
        "model_fingerprint": known.get("model_fingerprint", ""),
        "codebook": codebook.number,
        "codebook_digest": codebook.digest,
        "cells": codebook.cells,
        **_home(corpus, a, row),
    }
    return found | {"runs": {stage: completion.run_id for stage, completion in done.items() if completion}}


def _home(corpus: Corpus, a: Admission, row: int) -> dict[str, Any]:
    """Home cell of a record's text and its similarity to the centroid; nothing where the cells are no more."""
    workspace = corpus.workspace
    codebook = workspace.ledger.codebooks()[a.codebook]
    records = corpus.records(a.shard)
    key = AdmittedShard.read(workspace.admitted(a)).record_texts[np.searchsorted(records.rows, row)][None]
    brought_by = next(b for b in corpus.living.all if b.number == int(admission_of(key)[0]))
    folder = workspace.cells(codebook, brought_by)
    if not folder.is_dir() or not workspace.codebook(codebook).is_file():
        return {}
    cells = ShardCells.read(folder)
    at = np.flatnonzero(cells.rows == row_of(key)[0])
    if not len(at):
        return {"home_cell": None, "not_understood": "the model knows too little of the text: only its copies match it"}
    home = int(np.searchsorted(cells.home_offsets, at[0], side="right")) - 1
    centroid = read_centroids(workspace.codebook(codebook))[home : home + 1]
    similarity = canonical_similarity(cells.vectors[at].astype(np.float32), centroid)
    return {"home_cell": home, "similarity_to_centroid": float(similarity[0])}


def _retracted(corpus: Corpus, record_id: str) -> dict[str, Any] | None:
    """What is known of a record that was taken back: where it stood, and why it went. Its text is not shown."""
    workspace = corpus.workspace
    retractions = {r.number: r for r in workspace.ledger.retractions()}
    single = workspace.ledger.standing().taken_down
    for a in reversed(corpus.living.all):
        raw = workspace.raw(a.shard, a.fingerprint)
        gone = single.get(a.number, [])
        if not raw.folder.is_dir() or (a.retracted is None and not gone):
            continue
        rows, ids = read_ids(raw)
        at = pc.index(ids, record_id).as_py()
        shard, _, row = record_id.rpartition(":")
        if at < 0 and shard == a.shard and row.isdecimal() and int(row) in rows:
            at = int(np.searchsorted(rows, int(row)))
        if at < 0 or (a.retracted is None and rows[at] not in gone):
            continue
        is_buried = pc.is_in(ids[at], corpus.living.buried).as_py()
        reason = TAKEDOWN if a.retracted is None or is_buried else retractions[a.retracted].reason
        place = {"shard": a.shard, "row": int(rows[at]), "admission": a.number}
        return {"id": ids[at].as_py(), "decision": "retracted", "reason": reason, **place}
    return None


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
        **({"guards": list(guards)} if (guards := deciding.get("guards", ())) else {}),
        "floor": settings.floor,
        "model": settings.model if not settings.embedding_column else "given with the data",
        "fingerprint": deciding.get("settings_fingerprint", "unknown"),
    }
    if outdated:
        in_force["outdated"] = "curation.toml holds other settings now; `dedup-assets curate` decides again"
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
            if record_id in (rendered_value(entry["record"], column), f"{path.stem}:{entry['row']}"):
                found.append({"shard": path.stem, **{name: entry[name] for name in ("row", "reason", "record")}})
    return found


def _also(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Further quarantined rows that carry the same id, if there are any."""
    return {"also_quarantined": [dict(row) for row in rows]} if rows else {}


def _unknown(corpus: Corpus, record_id: str) -> WorkspaceError:
    registered = sum(shard.retracted is None for shard in corpus.workspace.ledger.shards())
    unfinished = registered - len(corpus.decided)
    pending = f", {unfinished} of them not finished: `dedup-assets curate` finishes them" if unfinished else ""
    return WorkspaceError(
        f"No record has the id {record_id!r} in {corpus.workspace.root} (shards: {registered}{pending}). Ids are "
        f"those of column {corpus.workspace.settings.id_column!r}, or SHARD:ROW for any row; `dedup-assets search` "
        "finds records by text."
    )


def require_unicode(what: str, text: str) -> None:
    """Refuse an argument of bytes that are no UTF-8: nothing stored could equal it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise SettingsError(f"{what} {text!r} is not valid UTF-8: every stored id and text is.") from None
