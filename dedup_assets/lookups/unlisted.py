"""Matches that are not listed, those inside cells of near-copies: how many texts have such, and how to see them.

They take part in every decision. For a record or a group they are found when asked for, by comparing vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from dedup_assets.compute.audit import Probes
from dedup_assets.encoder.settled import open_table
from dedup_assets.errors import SettingsError, WorkspaceError
from dedup_assets.lookups.answers import Pairs
from dedup_assets.lookups.corpus import Corpus, Place
from dedup_assets.lookups.guarded import nearest_texts, with_guards
from dedup_assets.lookups.steady import steady
from dedup_assets.storage.decisions import read_record_decisions
from dedup_assets.storage.workspace import Workspace

LARGEST_GROUP = 5_000
"""Distinct texts of a group whose pairs are compared: 12.5 million of them."""


def texts_not_listed(workspace: Workspace) -> int:
    """How many texts lie in cells whose matches are not listed."""
    matched = workspace.ledger.completions("pairwise_similarities")
    live = {a.shard for a in workspace.ledger.live_admissions()}
    return sum(done.stats.get("texts_in_dense_cells", 0) for shard, done in matched.items() if shard in live)


def not_listed_words(workspace: Workspace) -> str:
    """What is said where matches are shown; empty where all of them are listed."""
    texts = texts_not_listed(workspace)
    if not texts:
        return ""
    return (
        f"The matches among {texts:,} near-copies are not listed, though decided by (dense_limit = "
        f"{workspace.settings.dense_limit}). `dedup-assets pairs --record ID` or `--group GROUP` finds those of a "
        "record or a group; curate into a new workspace with --dense-limit 0 to list all."
    )


@steady
def matches_of_record(workspace: Workspace, record_id: str, count: int) -> Pairs:
    """The matches of a record's text down to the floor, the most alike first: every living text is compared.

    Raises WorkspaceError where there is no such record.
    """
    corpus = Corpus(workspace)
    decision = corpus.decision(record_id)
    if decision is None:
        raise WorkspaceError(f"{record_id}: no such record in {workspace.root}. Name an id, or SHARD:ROW.")
    shard, row = decision["shard"], decision["row"]
    records = corpus.records(shard)
    found = nearest_texts(corpus, shard, row, workspace.settings.floor, count)
    others = [corpus.stand_in(key) for _, key in found]
    me = (shard, row, records.ids[int(np.searchsorted(records.rows, row))].as_py())
    return _pairs(corpus, [(s, me, other) for (s, _), other in zip(found, others, strict=True)])


@steady
def matches_of_group(workspace: Workspace, group_id: str, count: int) -> Pairs:
    """The matches among the texts of a group, its keeper and what was removed with it, the most alike first.

    Raises WorkspaceError where there is no such group, SettingsError where it is too large to compare.
    """
    corpus = Corpus(workspace)
    members: dict[tuple[str, str], None] = {}
    for shard in corpus.decided:
        decisions = read_record_decisions(workspace, corpus.generation.number, shard)
        for row in decisions.filter(pc.equal(decisions["group_id"], group_id)).to_pylist():
            members[row["keeper_shard"], row["keeper_id"]] = None
            members[shard, row["id"]] = None
    if not members:
        raise WorkspaceError(
            f"{group_id}: no such group in {workspace.root}. `dedup-assets explain ID` names the group of a record."
        )
    places: dict[bytes, Place] = {}  # of each distinct text, the first record
    for shard, name in members:
        row = corpus.row(shard, name)
        records = corpus.records(shard)
        places.setdefault(records.hashes[int(np.searchsorted(records.rows, row))].tobytes(), (shard, row, name))
    if len(places) > LARGEST_GROUP:
        raise SettingsError(
            f"group {group_id} has {len(places):,} distinct texts, at most {LARGEST_GROUP:,} are compared. "
            "`dedup-assets pairs --record ID` finds the matches of one of them."
        )
    hashes = np.array([np.frombuffer(text, np.uint64) for text in places]).reshape(-1, 2)
    vectors, there = open_table(workspace).find_vectors(hashes)
    named = [place for place, known in zip(places.values(), there, strict=True) if known]
    probes = Probes(vectors[there], workspace.settings.floor)
    one, other = probes.near(vectors[there])
    one, other = one[one < other], other[one < other]
    similarity = probes.similarity(vectors[there], one, other)
    order = np.lexsort((other, one, -similarity))
    order = order[similarity[order] >= workspace.settings.floor][:count]
    return _pairs(corpus, [(float(similarity[k]), named[one[k]], named[other[k]]) for k in order.tolist()])


def _pairs(corpus: Corpus, pairs: Sequence[tuple[float, Place, Place]]) -> Pairs:
    settings = corpus.workspace.settings
    none = [] if pairs else [f"No other text is as similar to it as the floor of {settings.floor}."]
    return Pairs(with_guards(corpus, pairs), settings.threshold, none)
