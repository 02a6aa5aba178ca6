"""Measured recall: a sample of records against the corpus by brute force.

Every match that brute force finds must be stored, and no two kept records may match. The vectors come from the table of
embeddings, not from the cells that the join reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.checks.finding import NAMED, Finding, judged
from dedup_assets.checks.published import Published
from dedup_assets.checks.rows import NOTHING
from dedup_assets.checks.scope import RUN_SHARDS, RUN_TEXTS, Scope
from dedup_assets.compute.audit import Probes
from dedup_assets.compute.hashes import HashIndex, empty_hashes
from dedup_assets.corpus.guarded_texts import guards_in_force
from dedup_assets.corpus.live_texts import LiveTexts, reference_texts
from dedup_assets.encoder.settled import open_table, settled_dimension
from dedup_assets.storage.decisions import DecisionStore
from dedup_assets.storage.dense_texts import dense_cells
from dedup_assets.storage.embeddings import HASHES, EmbeddingTable
from dedup_assets.storage.ledger import Admission
from dedup_assets.storage.shards import AdmittedShard, admission_of
from dedup_assets.storage.tables import dense_cells_in
from dedup_assets.storage.workspace import Workspace


@dataclass(frozen=True)
class Found:
    """The matches that brute force found between a sampled text and a kept text.

    Attributes
    ----------
    sampled, other : (m,) int64
        Keys of the two texts.
    similarity : (m,) float64
    sampled_kept : (m,) bool
    listed : (m,) bool
        Whether the match is stored.
    records : int
        Number of sampled records.
    without_vector : list of str
        Ids of sampled records whose text has no stored vector.
    compared, texts : int
        Number of stored texts that the sample was compared with, and number of all stored texts.
    """

    sampled: np.ndarray
    other: np.ndarray
    similarity: np.ndarray
    sampled_kept: np.ndarray
    listed: np.ndarray
    records: int
    without_vector: list[str]
    compared: int
    texts: int

    @property
    def numbers(self) -> dict[str, int | float | str]:
        """The figures of the sample that both checks report."""
        return {"sampled_records": self.records, "compared_with_texts": self.compared, "stored_texts": self.texts}


class BruteForce:
    """Compares the sample of a scope once for all checks."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._found: Found | None = None

    def __call__(self, published: Published) -> Found:
        """The matches of the sample; `published` is the generation of the scope."""
        if self._found is None:
            self._found = _compare(self._scope, published)
        return self._found


def recall(scope: Scope, brute_force: BruteForce) -> Finding:
    """Every match that brute force finds is among the stored ones."""
    published = scope.published
    if published is None:
        return NOTHING
    found = brute_force(published)
    missed = np.flatnonzero(~found.listed)
    total = len(found.listed)
    measured = 1.0 - len(missed) / total if total else 1.0
    wrong = [f"{record_id}: its text has no vector" for record_id in found.without_vector]
    wrong += _pairs(scope, found, missed)
    return judged(
        f"{len(missed)} of {total} matches missed; {found.records} records against {found.compared} texts.",
        {
            **found.numbers,
            "matches_by_brute_force": total,
            "missed_matches": len(missed),
            "measured_recall": measured,
            "threshold": published.threshold,
        },
        wrong,
        "Matches are missing from pairs/, so decisions may rest on too few: a file there was changed or lost. Remove "
        "it and materialise pairwise_similarities and what follows for its shard, or curate into a new workspace. If "
        "it comes back, please report it.",
    )


def kept_do_not_match(scope: Scope, brute_force: BruteForce) -> Finding:
    """No kept record matches another kept record that covers it: where they are as similar, a guard does not hold."""
    published = scope.published
    if published is None:
        return NOTHING
    found = brute_force(published)
    matches = found.sampled_kept
    if published.manifest.get("against") == "references":
        # The corpus keeps its own duplicates: only matches with a reference must be removed.
        matches &= np.isin(found.other, reference_texts(scope.workspace, LiveTexts(scope.workspace)))
    both = np.flatnonzero(matches)
    if published.guards:
        both = both[_covered(scope, published, found.sampled[both], found.other[both])]
    of_these = " of which every guard holds" if published.guards else ""
    return judged(
        f"{len(both)} matches between two kept records{of_these}; {found.records} records against {found.compared} "
        "texts.",
        {**found.numbers, "matches_between_kept": len(both), "threshold": published.threshold},
        _pairs(scope, found, both),
        "Two records that match were both kept: `dedup-assets explain ID` shows both. See the check of recall; "
        "`dedup-assets recurate` decides everything again.",
    )


def _covered(scope: Scope, published: Published, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of some pairs of kept texts, by keys, those of which every guard holds, the earlier one as the keeper.

    Indexes (m,). A text that died since is in none: there is nothing to read of it any more.
    """
    living = LiveTexts(scope.workspace)
    at = np.flatnonzero(living.texts(one) & living.texts(other))
    one, other = one[at], other[at]
    known = DecisionStore(scope.workspace, published.number).texts(np.unique(np.concatenate([one, other])))
    first = known.place[known.find(one)] < known.place[known.find(other)]
    covers = guards_in_force(scope.workspace, living, published.guards)
    assert covers is not None
    return at[covers(np.where(first, one, other), np.where(first, other, one))]


def _pairs(scope: Scope, found: Found, at: np.ndarray) -> list[str]:
    """Some of the matches in words; only as many as are shown."""
    if not len(at):
        return []
    living = LiveTexts(scope.workspace)
    shown = at[:NAMED]
    one, other = (living.names(keys[shown]).to_pylist() for keys in (found.sampled, found.other))
    words = [
        f"{a} and {b}, similarity {s:.6f}" for a, b, s in zip(one, other, found.similarity[shown].tolist(), strict=True)
    ]
    return words + [""] * (len(at) - len(shown))


# -- the comparison ----------------------------------------------------------------------------------


def _compare(scope: Scope, published: Published) -> Found:
    workspace = scope.workspace
    sample = _sample(scope, published)
    if not len(sample.keys) or settled_dimension(workspace) is None:
        nothing = np.empty(0, np.int64)
        return Found(nothing, nothing, np.empty(0), np.empty(0, bool), np.empty(0, bool), 0, [], 0, 0)
    table = open_table(workspace)
    vectors, known = table.find_vectors(sample.hashes)
    without = sample.ids.filter(pa.array(~known)).to_pylist()
    keys, hashes, kept = sample.keys[known], sample.hashes[known], sample.kept[known]
    probes = Probes(vectors[known], published.threshold)
    texts = _KeptTexts(workspace, published.number)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    compared = 0
    for block_hashes, shards, block in _blocks(scope, table, published):
        compared += len(block)
        i, j = probes.near(block)
        others = (hashes[i] != block_hashes[j]).any(axis=1)
        i, j = i[others], j[others]
        rows, back = np.unique(j, return_inverse=True)
        named = texts(block_hashes[rows], shards.take(pa.array(rows)).to_pylist())[back]
        i, j, named = i[named >= 0], j[named >= 0], named[named >= 0]
        similarity = probes.similarity(block, i, j)
        sure = similarity >= published.threshold
        parts.append((i[sure], named[sure], similarity[sure]))
    index = np.concatenate([np.empty(0, np.int64), *(p[0] for p in parts)])
    other = np.concatenate([np.empty(0, np.int64), *(p[1] for p in parts)])
    return Found(
        sampled=keys[index],
        other=other,
        similarity=np.concatenate([np.empty(0), *(p[2] for p in parts)]),
        sampled_kept=kept[index],
        listed=_stored(workspace, keys[index], other),
        records=sample.drawn,
        without_vector=without,
        compared=compared,
        texts=len(table),
    )


@dataclass(frozen=True)
class _Sample:
    """Distinct texts of the sampled records, each with one of its records."""

    keys: np.ndarray
    hashes: np.ndarray
    kept: np.ndarray
    ids: pa.Array
    drawn: int


def _sample(scope: Scope, published: Published) -> _Sample:
    counts = {
        shard: pq.read_metadata(scope.workspace.decisions(published.number, "records", shard)).num_rows
        for shard in published.corpus_shards(scope.shards)
    }
    keys, hashes, kept = [np.empty(0, np.int64)], [empty_hashes()], [np.empty(0, bool)]
    ids = [pa.array([], pa.string())]
    for shard, chosen in scope.choose(counts).items():
        decided = published.decisions(shard).take(pa.array(chosen))
        records = published.records(shard)
        at = np.searchsorted(records.rows, decided.column("row").to_numpy())
        admitted = AdmittedShard.read(scope.workspace.admitted(published.admissions[shard]))
        keys.append(admitted.record_texts[at])
        hashes.append(records.hashes[at])
        kept.append(decided.column("kept").to_numpy())
        ids.append(records.ids.take(pa.array(at)))
    together = np.concatenate(keys)
    # At most one record of a text stays: it represents the text.
    order = np.lexsort((~np.concatenate(kept), together))
    distinct, first = np.unique(together[order], return_index=True)
    at = order[first]
    return _Sample(
        distinct,
        np.concatenate(hashes)[at],
        np.concatenate(kept)[at],
        pa.concat_arrays(ids).take(pa.array(at)),
        drawn=len(together),
    )


def _blocks(
    scope: Scope, table: EmbeddingTable, published: Published
) -> Iterator[tuple[np.ndarray, pa.ChunkedArray, np.ndarray]]:
    """The stored texts that the sample is compared with: all, or some of them after a run.

    These are texts of some shards and, if they are too many, only those with hashes in a window. Both change from run
    to run, so that every text is compared at some time.
    """
    texts = {shard: a.texts for shard, a in published.admissions.items()}
    if scope.is_whole or (len(texts) <= RUN_SHARDS and len(table) <= RUN_TEXTS):
        yield from table.scan()
        return
    last = max(a.number for a in published.admissions.values())
    rng = np.random.default_rng([scope.workspace.settings.seed, published.number, last])
    shuffled = [list(texts)[at] for at in rng.permutation(len(texts)).tolist()]
    own = [shard for shard in shuffled if shard in scope][: RUN_SHARDS // 2]
    chosen = own + [shard for shard in shuffled if shard not in own][: RUN_SHARDS - len(own)]
    count = max(1, sum(texts[shard] for shard in chosen))
    first, width = int.from_bytes(rng.bytes(16)), min(HASHES, HASHES * RUN_TEXTS // count)
    stop = first + width
    yield from table.scan(first, min(stop, HASHES), chosen)
    if stop > HASHES:
        yield from table.scan(0, stop - HASHES, chosen)


class _KeptTexts:
    """Keys of the texts that a generation keeps, by hash."""

    def __init__(self, workspace: Workspace, generation: int) -> None:
        self._workspace = workspace
        self._admissions = LiveTexts(workspace).visible
        self._store = DecisionStore(workspace, generation)  # read last, so that it includes all of these
        self._indexes: dict[int, HashIndex] = {}

    def __call__(self, hashes: np.ndarray, shards: list[str]) -> np.ndarray:
        """Key of each kept text; -1 for texts that are removed, dead, or not decided yet.

        `shards` embedded the texts, and nearly always introduced them.
        """
        keys = np.full(len(hashes), -1, np.int64)
        kept = np.zeros(len(hashes), bool)
        owner = np.array(shards, dtype=object)
        for a in reversed(self._admissions):
            self._look_in(a, np.flatnonzero((keys < 0) & (owner == a.shard)), hashes, keys, kept)
        for a in self._admissions:
            self._look_in(a, np.flatnonzero((keys < 0) & (owner != a.shard)), hashes, keys, kept)
        return np.where(kept, keys, -1)

    def _look_in(
        self, a: Admission, wanted: np.ndarray, hashes: np.ndarray, keys: np.ndarray, kept: np.ndarray
    ) -> None:
        """Fill in the wanted texts that an admission introduced, if they were decided."""
        if not len(wanted):
            return
        if a.number not in self._indexes:
            admitted = AdmittedShard.read(self._workspace.admitted(a))
            self._indexes[a.number] = HashIndex(admitted.new_hashes, admitted.new_keys)
        found = self._indexes[a.number].find(hashes[wanted])
        wanted, found = wanted[found >= 0], found[found >= 0]
        if not len(found):
            return
        texts = self._store.texts(np.unique(found))
        at = texts.find(found)
        wanted, at = wanted[at >= 0], at[at >= 0]
        keys[wanted], kept[wanted] = texts.keys[at], texts.kept[at]


# -- what is on record -------------------------------------------------------------------------------


def _stored(workspace: Workspace, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which matches (m,) are stored: listed, inside a dense cell, or of a text that is no longer live."""
    low, high = np.minimum(one, other), np.maximum(one, other)
    owners = admission_of(high)
    listed = np.zeros(len(low), bool)
    admissions = {a.number: a for a in workspace.ledger.admissions()}
    for number in np.unique(owners).tolist():
        mine = np.flatnonzero(owners == number)
        listed[mine] = _listed(workspace, admissions[number], low[mine], high[mine])
    if not listed.all():
        # A retraction may be newer than the published generation: the matches of its texts are deleted before.
        living = LiveTexts(workspace)
        listed |= ~(living.texts(one) & living.texts(other))
    return listed


def _listed(workspace: Workspace, owner: Admission, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which matches (m,) the file of an admission lists or implies."""
    try:
        handle = workspace.pairs(owner).open("rb")
    except FileNotFoundError:
        return np.zeros(len(low), bool)
    stored: set[tuple[int, int]] = set()
    # One open file: a decision after a retraction replaces it.
    with handle, pq.ParquetFile(handle) as file:
        dense = dense_cells_in(file.schema_arrow)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["key_a", "key_b"])
            table = table.filter(
                pc.and_(pc.is_in(table["key_a"], pa.array(low)), pc.is_in(table["key_b"], pa.array(high)))
            )
            stored.update(zip(table["key_a"].to_pylist(), table["key_b"].to_pylist(), strict=True))
    listed = np.array([pair in stored for pair in zip(low.tolist(), high.tolist(), strict=True)], bool)
    if dense and not listed.all():
        for cell in dense_cells(workspace, {owner: dense}, LiveTexts(workspace).visible):
            at = [np.minimum(np.searchsorted(cell.members, keys), len(cell.members) - 1) for keys in (low, high)]
            inside = (cell.members[at[0]] == low) & (cell.members[at[1]] == high)
            listed |= inside & (cell.home[at[0]] | cell.home[at[1]])
    return listed
