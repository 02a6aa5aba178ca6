"""Results of a workspace's guards: for a removal, for listed pairs, and for records that were kept because of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.compute.audit import Probes
from dedup_assets.compute.guards import guard_values
from dedup_assets.corpus.live_texts import reference_texts
from dedup_assets.encoder.settled import open_table
from dedup_assets.guard_rule import Guard, guard_words, parse_guards
from dedup_assets.lookups.corpus import Corpus, Place
from dedup_assets.storage.ledger import REFERENCE
from dedup_assets.storage.permissions import refuse_unasked_functions
from dedup_assets.storage.shards import AdmittedShard, admission_of
from dedup_assets.storage.workspace import admission_name

SPARED, LOOKED_AT = 5, 200
"""Most keepers shown for which a record would have been removed without guards, and most similar texts searched for
them."""


def nearest_texts(corpus: Corpus, shard: str, row: int, floor: float, count: int) -> list[tuple[float, int]]:
    """Similarity and key of the `count` live texts most similar to a record's, at or above a floor. Compares all."""
    records = corpus.records(shard)
    own = records.hashes[int(np.searchsorted(records.rows, row))]
    probes = Probes(corpus.vector(shard, row), floor)
    table = open_table(corpus.workspace)
    found: list[tuple[float, int]] = []
    for a in corpus.living.visible:
        admitted = AdmittedShard.read(corpus.workspace.admitted(a))
        wanted = corpus.living.texts(admitted.new_keys) & (admitted.new_hashes != own).any(axis=1)
        keys, hashes = admitted.new_keys[wanted], admitted.new_hashes[wanted]
        vectors, there = table.find_vectors(hashes)
        keys, vectors = keys[there], vectors[there]
        one, other = probes.near(vectors)
        similarity = probes.similarity(vectors, one, other)
        match = similarity >= floor
        found += zip(similarity[match].tolist(), keys[other[match]].tolist(), strict=True)
        found = sorted(found, key=lambda pair: (-pair[0], pair[1]))[:count]
    return found


def guards_of_removal(corpus: Corpus, answer: Mapping[str, Any], in_force: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The result of each guard for a record removed for a similar one: `guard`, `value`, `holds`; none for copies."""
    guards = _asked_for(corpus, in_force.get("guards", ()))
    return [] if answer["kind"] == "exact" else guard_values(guards, answer["keeper_text"], answer["text"])


def spared_by_guards(corpus: Corpus, answer: Mapping[str, Any], in_force: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The keepers for which a kept record would have been removed without guards: `id, shard, similarity, guards`.

    At most `SPARED`, the most similar first, among the `LOOKED_AT` texts most similar to the record.
    """
    guards, settings = _asked_for(corpus, in_force.get("guards", ())), corpus.workspace.settings
    shard, row = answer["shard"], answer["row"]
    if not guards or settings.exact_only or corpus.admissions[shard].role == REFERENCE:
        return []
    own = _decided(corpus, _key(corpus, shard, row))
    only = reference_texts(corpus.workspace, corpus.living) if settings.against == "references" else None
    spared: list[dict[str, Any]] = []
    for similarity, key in nearest_texts(corpus, shard, row, in_force["threshold"], LOOKED_AT):
        other = _decided(corpus, key)
        if own is None or other is None or other["place"] > own["place"] or (only is not None and key not in only):
            continue
        if not other["kept"] and in_force["keeper_rule"] == "leader":
            continue
        their_shard, their_row, name = corpus.stand_in(key)
        values = guard_values(guards, corpus.text(their_shard, their_row), answer["text"])
        if not all(value["holds"] for value in values):
            spared.append({"id": name, "shard": their_shard, "similarity": similarity, "guards": values})
        if len(spared) == SPARED:
            break
    return spared


def with_guards(corpus: Corpus, pairs: Sequence[tuple[float, Place, Place]]) -> list[dict[str, Any]]:
    """`Corpus.side_by_side` with the guards' results for each pair, the earlier record as the keeper."""
    rows, guards = corpus.side_by_side(pairs), _asked_for(corpus, corpus.workspace.settings.guards)
    for row, (_, one, other) in zip(rows, pairs, strict=True) if guards else ():
        places = [_decided(corpus, _key(corpus, shard, at)) for shard, at, _ in (one, other)]
        first, second = (place["place"] if place else np.inf for place in places)
        texts = (row["text_a"], row["text_b"]) if first <= second else (row["text_b"], row["text_a"])
        values = guard_values(guards, *texts)
        row |= {"guards": guard_words(values), "guards_hold": all(value["holds"] for value in values)}
    return rows


def _asked_for(corpus: Corpus, guards: Sequence[str]) -> tuple[Guard, ...]:
    """Parse the guards. Raises SettingsError for a function that was not requested on this machine."""
    parsed = parse_guards(guards)
    refuse_unasked_functions(corpus.workspace.root, parsed)
    return parsed


def _key(corpus: Corpus, shard: str, row: int) -> int:
    """Key of a record's text."""
    records = corpus.records(shard)
    admitted = AdmittedShard.read(corpus.workspace.admitted(corpus.admissions[shard]))
    return int(admitted.record_texts[np.searchsorted(records.rows, row)])


def _decided(corpus: Corpus, key: int) -> dict[str, Any] | None:
    """`kept` and `place` of a text; None if it is not decided yet."""
    by_number = {a.number: a for a in corpus.living.all}
    brought_by = by_number[int(admission_of(np.array([key]))[0])]
    path = corpus.workspace.decisions(corpus.generation.number, "texts", admission_name(brought_by))
    columns = ["kept", "place"]
    found = pq.read_table(path, columns=columns, filters=pc.field("text") == key).to_pylist() if path.is_file() else []
    return found[0] if found else None
