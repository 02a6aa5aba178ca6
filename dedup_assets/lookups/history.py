"""Everything that happened to a shard, from the ledger: read, embedded, admitted, decided, published, taken back.

The ledger keeps each finished stage for ever; nothing here opens a file of the corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dedup_assets.display_text import counted
from dedup_assets.errors import WorkspaceError
from dedup_assets.lookups.answers import History
from dedup_assets.storage.ledger import REFERENCE, Completion
from dedup_assets.storage.workspace import Workspace

Facts = Mapping[str, Any]

SHOWN_KEYS = 10
"""Registered shards named when an unknown one is asked for."""


def shard_history(workspace: Workspace, key: str) -> History:
    """The state of a shard and its events in the order in which they happened. Raises WorkspaceError."""
    ledger = workspace.ledger
    shard = next((found for found in ledger.shards() if found.key == key), None)
    if shard is None:
        keys = [found.key for found in ledger.shards()]
        named = ", ".join(keys[:SHOWN_KEYS]) + (" …" if len(keys) > SHOWN_KEYS else "")
        raise WorkspaceError(f"{workspace.root} has no shard {key!r}. Registered: {named or 'none'}.")
    admissions = [a for a in ledger.admissions() if a.shard == key]
    completions = ledger.history(key)
    # Within a second: what a retraction ended, the retraction, what came after.
    events = [((c.finished, 0 if c.void else 2), _event(c)) for c in completions]
    for r in ledger.retractions():
        if r.shard == key:
            ended = "before it was admitted" if r.admission is None else f"admission {r.admission}"
            records = sum(a.records for a in admissions if a.number == r.admission and a.retracted == r.number)
            what = f"{ended}, {counted(records, 'record')}" if records else f"{ended}, single records"
            detail = ended if r.admission is None else what
            events.append(((r.finished, 1), _entry(r.finished, "retracted", f"{r.reason}: {detail}", r.run_id)))
    events.sort(key=lambda entry: entry[0])
    failure = ledger.failures().get(key)
    live = next((a for a in admissions if a.retracted is None), None)
    done = {c.stage for c in completions if not c.void}
    state = (
        f"retracted ({shard.retracted})"
        if shard.retracted
        else "failed"
        if failure
        else "published"
        if "deduplicated_dataset" in done
        else "admitted"
        if live
        else "registered"
    )
    answer = History(
        shard=key,
        state=state,
        role=shard.role,
        source=shard.uri,
        admissions=[
            {
                "admission": a.number,
                "content_fingerprint": a.fingerprint,
                "codebook": a.codebook,
                "records": a.records,
                "retracted": a.retracted is not None,
            }
            for a in admissions
        ],
        events=[_entry("", "registered", f"no. {shard.position}, from {shard.uri}", ""), *(e for _, e in events)],
    )
    if failure:
        answer["failure"] = {"stage": failure[0], "message": failure[1], "run_id": failure[2]}
    return answer


def _entry(when: str, event: str, detail: str, run_id: str, facts: Facts | None = None) -> dict[str, Any]:
    return {"when": when, "event": event, "detail": detail, "run_id": run_id, **({"facts": facts} if facts else {})}


def _event(done: Completion) -> dict[str, Any]:
    event, describe = _EVENTS[done.stage]
    told = {name: value for name, value in done.stats.items() if name not in ("schema", "source_state")}
    entry = _entry(done.finished, event, describe(done.stats), done.run_id, told)
    return {**entry, "stage": done.stage, "seconds": done.seconds, "basis": done.input_version}


def _read(f: Facts) -> str:
    return (
        f"{counted(f['rows'], 'row')}: {counted(f['records'], 'record')}, {f['quarantined']:,} quarantined; content "
        f"{f['content_fingerprint'][:16]}"
    )


def _embedded(f: Facts) -> str:
    model = f"; {f['model']} {f['model_fingerprint'][:16]}".rstrip() if "model" in f else ""
    return f"{counted(f['embedded'], 'text')}, {f['reused']:,} known before{model}"


def _fitted(f: Facts) -> str:
    return f"codebook {f['codebook']} of {counted(f['cells'], 'cell')}"


def _admitted(f: Facts) -> str:
    return (
        f"as number {f['admission']} under codebook {f['codebook']}: {counted(f['new_texts'], 'new text')}, "
        f"{f['copies']:,} copies"
    )


def _matched(f: Facts) -> str:
    return (
        f"{f['matches']:,} down to {f['floor']:g}, {f['with_earlier_shards']:,} of them with earlier shards; "
        f"codebook {f['codebook']}"
    )


def _decided(f: Facts) -> str:
    if f.get("reference"):
        return f"generation {f['generation']}: {counted(f['reference'], 'record')} of a {REFERENCE}, all stay"
    return (
        f"generation {f['generation']} at {f['threshold']:g}: {f['kept']:,} kept, {f['removed_exact']:,} removed as "
        f"copies, {f['removed_semantic']:,} as similar"
    )


def _published(f: Facts) -> str:
    removed = f["removed_exact"] + f["removed_semantic"]
    return f"generation {f['generation']}: {f['kept']:,} kept, {removed:,} removed, {f['quarantined']:,} quarantined"


_EVENTS: dict[str, tuple[str, Callable[[Facts], str]]] = {
    "raw_shards": ("read", _read),
    "embeddings": ("embedded", _embedded),
    "kmeans_centroids": ("codebook", _fitted),
    "cluster_partitions": ("admitted", _admitted),
    "pairwise_similarities": ("matched", _matched),
    "duplicate_ids": ("decided", _decided),
    "deduplicated_dataset": ("published", _published),
}
"""By stage, what it is called in a history, and its facts in a sentence."""
