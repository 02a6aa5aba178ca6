"""Direct evidence: every removed record names a kept one that it matches, recomputed from the stored vectors, and that
fulfils the guards, recomputed from the texts that were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.checks.finding import Finding, judged
from dedup_assets.checks.published import Published
from dedup_assets.checks.rows import NOTHING
from dedup_assets.checks.scope import Scope
from dedup_assets.compute.guards import Covers, TextList, guard_values
from dedup_assets.compute.similarity import canonical_similarity
from dedup_assets.encoder.settled import open_table
from dedup_assets.guard_rule import guard_words
from dedup_assets.ingest.record_spec import ingest_spec
from dedup_assets.ingest.records import read_texts
from dedup_assets.storage.ledger import REFERENCE
from dedup_assets.storage.permissions import refuse_unasked_functions

ADVICE = (
    "Decisions, stored vectors and published files contradict each other: something was changed or is damaged. "
    "`dedup-assets explain ID` shows the record and its keeper; `dedup-assets recurate` decides everything again from "
    "what is stored. If it comes back, please report it with manifest.json."
)


def removed_have_keepers(scope: Scope) -> Finding:
    """Removed records, all or a sample: the keeper exists, is kept, has the published similarity, and guards hold."""
    published = scope.published
    if published is None:
        return NOTHING
    counts = {
        shard: pq.read_metadata(published.file("duplicates", shard)).num_rows
        for shard in published.corpus_shards(scope.shards)
    }
    removals: list[dict[str, Any]] = []
    for shard, chosen in scope.choose(counts).items():
        table = pq.read_table(published.file("duplicates", shard))
        for name in ("id", "keeper_id"):  # integers if the input's ids are
            table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.string()))
        removals += [{**row, "shard": shard} for row in table.take(pa.array(chosen)).to_pylist()]
    wrong = _contradictions(scope, published, removals)
    total = sum(counts.values())
    return judged(
        f"{len(removals)} of {total} removed records checked; {len(wrong)} without a kept keeper at "
        f"{published.threshold:g} or above.",
        {
            "removed": total,
            "looked_at": len(removals),
            "without_evidence": len(wrong),
            "lowest_similarity": min((row["similarity"] for row in removals), default=1.0),
            "threshold": published.threshold,
        },
        wrong,
        ADVICE,
    )


def _contradictions(scope: Scope, published: Published, removals: Sequence[Mapping[str, Any]]) -> list[str]:
    """The contradictions, one entry for each removal that has any."""
    own, is_record = _hashes(published, [(row["shard"], row["id"]) for row in removals])
    keepers, _ = _hashes(published, [(row["keeper_shard"], row["keeper_id"]) for row in removals])
    problems = _keeper_problems(published, removals)
    known = np.array([at for at, problem in enumerate(problems) if not problem and is_record[at]], np.int64)
    similarity = np.full(len(removals), np.nan)
    if len(known):
        distinct, back = np.unique(np.concatenate([own[known], keepers[known]]), axis=0, return_inverse=True)
        vectors, found = open_table(scope.workspace).find_vectors(distinct)
        one, other = back[: len(known)], back[len(known) :]
        there = found[one] & found[other]
        similarity[known[there]] = canonical_similarity(vectors[one[there]], vectors[other[there]])
    wrong = []
    unguarded = _guard_problems(scope, published, removals, known)
    for at, row in enumerate(removals):
        problem = problems[at]
        if not problem and not is_record[at]:
            problem = "is no record of the shard"
        if not problem and np.isnan(similarity[at]):
            problem = "or its keeper has no vector in the table of embeddings"
        if not problem:
            same_text = bool((own[at] == keepers[at]).all())
            problem = _similarity_problem(row, float(similarity[at]), same_text, published.threshold)
            problem = problem or unguarded.get(at, "")
        if problem:
            wrong.append(f"{row['id']} ({row['shard']}) {problem}")
    return wrong


def _similarity_problem(row: Mapping[str, Any], similarity: float, same_text: bool, threshold: float) -> str:
    keeper = f"{row['keeper_id']} ({row['keeper_shard']})"
    if row["kind"] == "exact":
        return "" if same_text else f"is no copy of its keeper {keeper}: the texts differ"
    if similarity < threshold:
        return f"has similarity {similarity:.6f} to its keeper {keeper}, below the threshold {threshold:g}"
    if similarity != row["similarity"]:
        return f"has similarity {similarity:.6f} to its keeper {keeper}, {row['similarity']:.6f} was published"
    return ""


def _guard_problems(
    scope: Scope, published: Published, removals: Sequence[Mapping[str, Any]], known: np.ndarray
) -> dict[int, str]:
    """By number, those of some removals for a similar record of which a guard does not hold, in words."""
    asked = [at for at in known.tolist() if removals[at]["kind"] != "exact"] if published.guards else []
    places = [(removals[at]["keeper_shard"], removals[at]["keeper_id"]) for at in asked]
    places += [(removals[at]["shard"], removals[at]["id"]) for at in asked]
    texts = [""] * len(places)
    for shard in dict.fromkeys(shard for shard, _ in places):
        mine = [number for number, place in enumerate(places) if place[0] == shard]
        positions = published.records(shard).positions[_places(published, shard, [places[n][1] for n in mine])]
        found = read_texts(published.raw(shard), ingest_spec(scope.workspace.settings), positions)
        for number, text in zip(mine, found, strict=True):
            texts[number] = text
    if not asked:
        return {}
    refuse_unasked_functions(scope.workspace.root, published.guards)
    keeper, removed = np.arange(len(asked)), np.arange(len(asked)) + len(asked)
    fail = np.flatnonzero(~Covers(published.guards, TextList(texts))(keeper, removed)).tolist()
    return {
        asked[n]: f"may not go for its keeper {places[n][1]} ({places[n][0]}): "
        + guard_words(guard_values(published.guards, texts[n], texts[n + len(asked)]))
        for n in fail
    }


def _keeper_problems(published: Published, removals: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each removal the problem with its keeper; "" if it exists and is kept."""
    problems = [""] * len(removals)
    by_shard: dict[str, list[int]] = {}
    for at, row in enumerate(removals):
        by_shard.setdefault(row["keeper_shard"], []).append(at)
    # SemDeDup's rule removes records for removed ones; the check does not apply to it.
    must_stay = published.manifest["keeper_rule"] != "semdedup"
    for shard, members in by_shard.items():
        if shard not in published.admissions:
            for at in members:
                problems[at] = f"names a keeper in {shard}, which is not published"
            continue
        names = [removals[at]["keeper_id"] for at in members]
        places = _places(published, shard, names)
        fate = np.full(len(names), -1, np.int8)
        fate[places >= 0] = published.kept(shard, published.records(shard).rows[places[places >= 0]])
        in_file = np.ones(len(names), bool)
        if must_stay and published.admissions[shard].role != REFERENCE:
            ids = published.kept_ids(shard)
            if ids is not None:
                in_file = np.asarray(pc.is_in(pa.array(names, pa.string()), value_set=ids.combine_chunks()))
        for at, name, place, kept, there in zip(members, names, places, fate, in_file, strict=True):
            if place < 0 or kept < 0:
                problems[at] = f"names the keeper {name}, which is no record of {shard}"
            elif must_stay and not kept:
                problems[at] = f"names the keeper {name} ({shard}), which is removed itself"
            elif must_stay and not there:
                problems[at] = f"names the keeper {name}, which is not in the published file of {shard}"
    return problems


def _places(published: Published, shard: str, ids: Sequence[str]) -> np.ndarray:
    """Index of each id among the valid records of a shard, or -1."""
    known = published.records(shard).ids
    if not len(known):
        return np.full(len(ids), -1, np.int64)
    found = pc.index_in(pa.array(ids, pa.string()), value_set=known)
    return np.asarray(pc.fill_null(found, -1)).astype(np.int64)


def _hashes(published: Published, records: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Text hash of each record by shard and id: (n, 2), and whether the record exists: bool (n,)."""
    hashes = np.zeros((len(records), 2), np.uint64)
    there = np.zeros(len(records), bool)
    by_shard: dict[str, list[int]] = {}
    for at, (shard, _) in enumerate(records):
        by_shard.setdefault(shard, []).append(at)
    for shard, members in by_shard.items():
        if shard not in published.admissions:
            continue
        places = _places(published, shard, [records[at][1] for at in members])
        found = np.array(members)[places >= 0]
        there[found] = True
        hashes[found] = published.records(shard).hashes[places[places >= 0]]
    return hashes, there
