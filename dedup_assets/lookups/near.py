"""What lies near the threshold, and what is like a text. Living texts only, each by the record that stands for it.

Reads what the assets stored; computes nothing that decides anything.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.compute.similarity import canonical_similarity
from dedup_assets.encoder.settled import open_table, settle_encoder, settled_probe
from dedup_assets.errors import SettingsError
from dedup_assets.lookups.answers import Hits, Pairs
from dedup_assets.lookups.corpus import Corpus
from dedup_assets.lookups.explain import require_unicode
from dedup_assets.lookups.guarded import with_guards
from dedup_assets.lookups.steady import steady
from dedup_assets.lookups.unlisted import not_listed_words
from dedup_assets.resources.worker_tasks import encode_texts
from dedup_assets.storage.tables import PAIRS
from dedup_assets.storage.workspace import Workspace


@steady
def pairs_around(workspace: Workspace, similarity: float | None, count: int) -> Pairs:
    """The stored matches nearest a similarity, from high to low, with both texts; None: nearest the threshold."""
    settings = workspace.settings
    similarity = settings.threshold if similarity is None else similarity
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
    rows = with_guards(
        corpus,
        [(pair["similarity"], corpus.stand_in(pair["key_a"]), corpus.stand_in(pair["key_b"])) for pair in pairs],
    )
    unlisted = not_listed_words(workspace)
    none = "" if rows or unlisted else f"No two distinct texts are as similar as the floor of {settings.floor}."
    below = f"Matches below the floor of {settings.floor} are not stored." if similarity < settings.floor else ""
    return Pairs(rows, settings.threshold, filter(None, (none, unlisted, below)))


def _nearest(table: pa.Table, count: int) -> pa.Table:
    order = [("distance", "ascending"), ("key_a", "ascending"), ("key_b", "ascending")]
    return table.sort_by(order).slice(0, count)


@steady
def search(workspace: Workspace, text: str, count: int) -> Hits:
    """The corpus texts most similar to a text, from the LanceDB table, each with its decision."""
    settings = workspace.settings
    if settings.embedding_column:
        raise SettingsError(
            f"{workspace.root} holds vectors that came with the data (column {settings.embedding_column!r}): no "
            "model is known that would put a text beside them. `dedup-assets explain ID` finds a record by its id."
        )
    if settings.exact_only:
        raise SettingsError(f"{workspace.root} was curated without a model (model = none): texts have no vectors.")
    require_unicode("TEXT", text)
    if not text.strip():
        raise SettingsError("TEXT is empty: give the text to look for.")
    corpus = Corpus(workspace)
    encoder = settle_encoder(workspace)
    query, _, unreadable = encode_texts([text], settings, encoder.fingerprint, "cpu", settled_probe(workspace))
    if unreadable[0]:
        raise SettingsError(f"TEXT {text!r} has hardly a token that {settings.model} knows: nothing is near it.")
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
    return Hits(sorted(answer, key=lambda found: -found["similarity"]))


def _hash_of(digits: str) -> np.ndarray:
    """The two halves (2,) of a text hash written in hexadecimal."""
    return np.array([int(digits[:16], 16), int(digits[16:], 16)], np.uint64)
