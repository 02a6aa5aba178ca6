"""The changes of a new generation: every record whose decision or keeper differs from the published one, and why.

It reads the decisions of both generations and the manifest of the current one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_assets.corpus.output import MANIFEST
from dedup_assets.settings import Settings
from dedup_assets.storage.decisions import read_record_decisions
from dedup_assets.storage.ledger import CHANGED, REFERENCE, TAKEDOWN, VANISHED, WITHDRAWN, Admission, Generation
from dedup_assets.storage.tables import CHANGES, RECORD_DECISIONS, write_parquet
from dedup_assets.storage.workspace import Workspace

OWN_RETRACTION = {
    CHANGED: "its shard changed",
    VANISHED: "its file vanished",
    TAKEDOWN: "taken down",
    WITHDRAWN: "its shard was admitted again",
}

_DECISION = ("id", "shard", "decision", "keeper_id", "keeper_shard", "similarity")


def publish_changes(workspace: Workspace, before: int, generation: Generation, targets: Sequence[Admission]) -> int:
    """Write `changes/GENERATION.parquet`; returns how many records it lists.

    Parameters
    ----------
    workspace : Workspace
    before : int
        The published generation.
    generation : Generation
        The generation that replaces it.
    targets : sequence of Admission
        The shards of the new generation.
    """
    manifest = json.loads((workspace.output_generation(before) / MANIFEST).read_text(encoding="utf-8"))
    differing = pa.concat_tables(
        [_empty(), *_differences(workspace, before, generation.number, manifest, targets)]
    ).combine_chunks()
    old, new = ([f"{name}_{side}" for name in _DECISION[2:]] for side in ("before", "after"))
    changes = pa.table(
        [
            differing["id"],
            differing["shard"],
            differing[old[0]],
            differing[new[0]],
            differing[old[1]],
            differing[new[1]],
            differing[old[3]],
            differing[new[3]],
            differing[old[2]],
            differing[new[2]],
            _reasons(differing, manifest, workspace.settings, generation, targets),
        ],
        schema=CHANGES,
    )
    write_parquet(workspace.output / "changes" / f"{generation.number:04d}.parquet", changes)
    return changes.num_rows


def is_known(workspace: Workspace, generation: int) -> bool:
    """Whether a published generation belongs to this workspace and its decisions still exist for the comparison."""
    path = workspace.output_generation(generation) / MANIFEST
    if not path.is_file():
        return False
    entries = json.loads(path.read_text(encoding="utf-8"))["shards"]
    own = {(a.number, a.fingerprint) for a in workspace.ledger.admissions()}
    return all(
        (entry["admission"], entry["fingerprint"]) in own
        and workspace.decisions(generation, "records", entry["shard"]).is_file()
        for entry in entries
    )


def _empty() -> pa.Table:
    kinds = {"similarity": pa.float64()}
    sides = [(f"{name}_{side}", kinds.get(name, pa.string())) for side in ("before", "after") for name in _DECISION[2:]]
    return pa.schema([("id", pa.string()), ("shard", pa.string()), *sides, ("own", pa.string())]).empty_table()


def _differences(
    workspace: Workspace, before: int, after: int, manifest: Mapping[str, Any], targets: Sequence[Admission]
) -> Iterator[pa.Table]:
    """Records with another decision; `own` says what happened to the record itself, if anything."""
    published = {entry["shard"]: entry for entry in manifest["shards"]}
    staying = [a for a in targets if published.get(a.shard, {}).get("admission") == a.number]
    coming = [a for a in targets if a not in staying]
    reasons = {r.number: r.reason for r in workspace.ledger.retractions()}
    ends = {a.number: reasons[a.retracted] for a in workspace.ledger.admissions() if a.retracted is not None}
    for a in staying:
        old = _decisions(workspace, before, a.shard, a.role)
        new = _decisions(workspace, after, a.shard, a.role)
        still = pc.is_in(old["row"], new["row"])
        yield _compared(old.filter(still), new, "")
        yield _gone(old.filter(pc.invert(still)), OWN_RETRACTION[TAKEDOWN])
    arrived = pa.concat_tables([_decisions(workspace, after, a.shard, a.role) for a in coming]) if coming else None
    for shard, entry in published.items():
        if any(a.shard == shard for a in staying):
            continue
        old = _decisions(workspace, before, shard, entry["role"])
        why = OWN_RETRACTION[ends.get(entry["admission"], CHANGED)]
        if arrived is None:
            yield _gone(old, why)
            continue
        # An id may have returned in new content of its shard or in another shard.
        at = pc.index_in(old["id"], arrived["id"])
        yield _compared(old.filter(pc.is_valid(at)), arrived.take(pc.drop_null(at)), why)
        yield _gone(old.filter(pc.is_null(at)), why)


def _decisions(workspace: Workspace, generation: int, shard: str, role: str) -> pa.Table:
    table = read_record_decisions(workspace, generation, shard)
    stays = "reference" if role == REFERENCE else "kept"
    decision = pc.if_else(table["kept"], stays, "removed") if table.num_rows else pa.array([], pa.string())
    names = pa.array([shard] * table.num_rows, pa.string())
    return table.select(RECORD_DECISIONS.names[:-2]).append_column("shard", names).append_column("decision", decision)


def _compared(old: pa.Table, new: pa.Table, own: str) -> pa.Table:
    """The rows of records whose decision or keeper differs; both tables list the same records."""
    keepers = pc.equal(pc.fill_null(old["keeper_id"], ""), pc.fill_null(new["keeper_id"], ""))
    differs = pc.invert(pc.and_(pc.equal(old["decision"], new["decision"]), keepers))
    return _listed(old.filter(differs), new.filter(differs), own)


def _gone(old: pa.Table, own: str) -> pa.Table:
    nothing = pa.nulls(old.num_rows, pa.string())
    new = pa.table(
        {
            "id": old["id"],
            "shard": old["shard"],
            "decision": pa.array(["retracted"] * old.num_rows, pa.string()),
            "keeper_id": nothing,
            "keeper_shard": nothing,
            "similarity": pa.nulls(old.num_rows, pa.float64()),
        }
    )
    return _listed(old, new, own)


def _listed(old: pa.Table, new: pa.Table, own: str) -> pa.Table:
    columns = [new["id"], new["shard"], *(table[name] for table in (old, new) for name in _DECISION[2:])]
    return pa.table([*columns, pa.array([own] * old.num_rows, pa.string())], schema=_empty().schema)


def _reasons(
    differing: pa.Table,
    manifest: Mapping[str, Any],
    settings: Settings,
    generation: Generation,
    targets: Sequence[Admission],
) -> pa.Array:
    """The cause of each change in words: the first of the causes below that applies."""
    n = differing.num_rows
    own = np.array(differing["own"].to_pylist(), object)
    decision = [np.array(differing[f"decision_{side}"].to_pylist(), object) for side in ("before", "after")]
    known = {entry["shard"] for entry in manifest["shards"]}
    new_references = [a.shard for a in targets if a.role == REFERENCE and a.shard not in known]

    def ids(rows: np.ndarray) -> pa.Array:
        return differing["id"].filter(pa.array(rows, pa.bool_())).combine_chunks()

    def named(column: str, values: pa.Array | list[str]) -> np.ndarray:
        found = pc.is_in(differing[column], pa.array(values, pa.string()) if isinstance(values, list) else values)
        return found.to_numpy()

    changed_settings = ", ".join(
        f"{name} {before} -> {after}"
        for name, before, after in (
            *((name, manifest[name], getattr(settings, name)) for name in ("threshold", "keep", "keeper_rule", "mode")),
            ("guards", *(" and ".join(guards) or "none" for guards in (manifest.get("guards", ()), settings.guards))),
        )
        if before != after
    )
    nobody = np.zeros(n, bool)
    everybody = np.ones(n, bool)
    came_back = ids((decision[0] == "removed") & (decision[1] == "kept"))
    went = ids((decision[0] == "kept") & (decision[1] == "removed"))
    causes = (
        (own != "", own),
        (named("keeper_id_before", ids(own != "")), "keeper retracted"),
        (named("keeper_shard_after", new_references), "reference added"),
        (everybody if changed_settings else nobody, changed_settings),
        (everybody if generation.rebuilt > manifest["rebuilt_admissions"] else nobody, "rebuild"),
        (named("keeper_id_before", went), "keeper removed"),
        (named("keeper_id_after", came_back), "keeper returned"),
        (everybody, "other decisions changed"),
    )
    why = np.full(n, "", object)
    for holds, words in causes:
        open_rows = (why == "") & holds
        why[open_rows] = words[open_rows] if isinstance(words, np.ndarray) else words
    return pa.array(why.tolist(), pa.string())
