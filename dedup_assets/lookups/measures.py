"""What the pictures show, counted from what is stored: best matches, removals by threshold, cell sizes.

Reads matches, decisions and cells of what lives; decides nothing that is kept, and draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from dedup_assets.compute.curation import find_keys, nearest_in_cells
from dedup_assets.compute.decisions import KEPT, UNKNOWN, Walk
from dedup_assets.compute.dense_guarded import walk_guarded
from dedup_assets.corpus.guarded_texts import guards_in_force
from dedup_assets.corpus.live_texts import LiveTexts, reference_texts
from dedup_assets.storage.cells import ShardCells
from dedup_assets.storage.dense_texts import dense_cells
from dedup_assets.storage.ledger import REFERENCE, Admission, Generation
from dedup_assets.storage.shards import AdmittedShard
from dedup_assets.storage.tables import read_pairs
from dedup_assets.storage.text_vectors import TextVectors
from dedup_assets.storage.workspace import Workspace, admission_name

INTERVALS = 40
"""Bars of the histogram between floor and 1: fifteen pixels each."""

STEPS = 20
"""Thresholds between floor and 1 at which the removals are counted, besides the one in force."""

FEW_STEPS, MANY_DENSE = 5, 50_000
"""As many where more texts than this are in dense cells: every threshold costs as much as deciding them did,
about a second for each 10,000."""


def decided_admissions(workspace: Workspace) -> list[Admission]:
    """Live admissions with decisions in force, in the order of their numbers."""
    decided = workspace.ledger.completions("duplicate_ids")
    return [a for a in workspace.ledger.live_admissions() if a.shard in decided]


class DecidedTexts:
    """The texts that some admissions brought, as decided in a generation, sorted by key.

    Attributes
    ----------
    keys, place, admission : (n,) int64
        `place` is that in the curation order, `admission` that of the record which stands for the text.
    kept : (n,) bool
    similarity : (n,) float64
        To the keeper; NaN where the text is kept.
    """

    def __init__(self, workspace: Workspace, generation: Generation, admissions: Sequence[Admission]) -> None:
        names = ("text", "kept", "record_admission", "similarity", "place")
        parts = []
        for a in admissions:
            path = workspace.decisions(generation.number, "texts", admission_name(a))
            if path.is_file():  # where it is not, none of its texts live
                parts.append(pq.read_table(path, columns=list(names)))
        empty = (np.int64, np.bool_, np.int64, np.float64, np.int64)
        columns = [
            np.concatenate([np.empty(0, kind), *(part.column(name).to_numpy() for part in parts)])
            for name, kind in zip(names, empty, strict=True)
        ]
        order = np.argsort(columns[0], kind="stable")
        self.keys, self.kept, self.admission, self.similarity, self.place = (column[order] for column in columns)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Index of each key, or -1."""
        return find_keys(self.keys, keys)


# -- best matches ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BestMatches:
    """Distinct texts by the similarity of their best match.

    Attributes
    ----------
    edges : (b + 1,) float
    kept, removed : (b,) int
        Texts whose best match lies in each interval.
    unmatched : int
        Texts without a stored match.
    """

    edges: np.ndarray
    kept: np.ndarray
    removed: np.ndarray
    unmatched: int

    @property
    def matched(self) -> int:
        """Texts with a stored match."""
        return int(self.kept.sum() + self.removed.sum())


def best_matches(workspace: Workspace, generation: Generation, admission: Admission | None = None) -> BestMatches:
    """Best matches of all texts, or of those that one admission brought with what was admitted up to it.

    Matches inside dense cells are not listed; there a removed text counts with its keeper, a kept one with
    what else it matches.
    """
    owners = LiveTexts(workspace).visible if admission is None else [admission]
    texts = DecidedTexts(workspace, generation, owners)
    best = np.where(np.isnan(texts.similarity), -1.0, texts.similarity)
    for a in owners:
        if not workspace.pairs(a).is_file():
            continue
        first, second, similarity, _ = read_pairs(workspace.pairs(a), workspace.settings.floor)
        ends = texts.find(first), texts.find(second)
        # Of a pair with a text that no record has any more, nothing is left to show.
        counts = (ends[0] >= 0) & (ends[1] >= 0) if admission is None else np.ones(len(first), bool)
        for at in ends:
            there = counts & (at >= 0)
            np.maximum.at(best, at[there], similarity[there])
    settings = workspace.settings
    edges = np.linspace(settings.floor, 1.0, INTERVALS + 1)
    # A match at the threshold is a match: the border nearest the threshold is moved onto it.
    edges[np.argmin(np.abs(edges - settings.threshold))] = settings.threshold
    matched = best >= 0
    inside = np.clip(np.searchsorted(edges, best[matched], side="right") - 1, 0, INTERVALS - 1)
    kept, removed = (np.bincount(inside[texts.kept[matched] == which], minlength=INTERVALS) for which in (True, False))
    return BestMatches(edges, kept, removed, int(np.count_nonzero(~matched)))


# -- removals by threshold ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Removals:
    """How many records of the corpus would be removed at which threshold.

    Attributes
    ----------
    thresholds : (n,) float, ascending
    removed : (n,) int
        Removed records at each, exact copies included.
    identical : int
        Records whose text is that of another one: removed at any threshold.
    records : int
        Records of the corpus, references left out.
    """

    thresholds: np.ndarray
    removed: np.ndarray
    identical: int
    records: int


def removals_by_threshold(workspace: Workspace, generation: Generation, steps: int | None = None) -> Removals:
    """Decide the whole corpus at `steps` + 1 thresholds, by the keeper rule in force and from stored matches.

    The same walk in the same order as the decisions, so at the threshold in force the number is theirs, and at
    any other it is what `dedup-assets threshold` would come to.
    """
    settings = workspace.settings
    living = LiveTexts(workspace)
    visible = living.visible
    texts = DecidedTexts(workspace, generation, visible)
    decided_shards = decided_admissions(workspace)
    references = [a.number for a in decided_shards if a.role == REFERENCE]
    facts = workspace.ledger.completions("duplicate_ids")
    records = sum(facts[a.shard].stats["rows"] for a in decided_shards if a.role != REFERENCE)

    order = np.argsort(texts.place)  # nodes of the walk are texts in curation order
    node = np.empty(len(order) + 1, np.int64)
    node[order] = np.arange(len(order))
    node[-1] = -1  # where `find` finds nothing
    keys, own = texts.keys[order], ~np.isin(texts.admission[order], references)
    decided = np.where(own, UNKNOWN, KEPT).astype(np.int8)
    i, j, similarity, named = _stored_matches(workspace, visible, lambda found: node[texts.find(found)])
    dense = dense_cells(workspace, named, visible)
    cells = [cell.renamed(node[texts.find(cell.members)]) for cell in dense]
    vectors = TextVectors(workspace)
    guards = guards_in_force(workspace, living)
    covers = guards.of(keys) if guards else None
    many = np.ones(len(order), np.int64)  # records that go with a text, beside the copies that go at any threshold
    identical = records - int(np.count_nonzero(own))
    if settings.against == "references":
        only = reference_texts(workspace, living)
        many, identical = _records_of(workspace, living, keys, only)
        at = np.isin(keys[np.minimum(i, j)], only)
        listed = i[at], j[at], similarity[at]
        nearest = nearest_in_cells(dense, only, vectors, settings.floor, lambda found: node[texts.find(found)], covers)
        i, j, similarity = (np.concatenate(part) for part in zip(listed, nearest, strict=True))
        i, j, cells = np.minimum(i, j), np.maximum(i, j), []
    if covers:
        i, j = np.minimum(i, j), np.maximum(i, j)
        holds = covers(i, j)
        i, j, similarity = i[holds], j[holds], similarity[holds]
    if steps is None:
        steps = STEPS if sum(len(cell.members) for cell in cells) <= MANY_DENSE else FEW_STEPS
    thresholds = np.unique(np.append(np.linspace(settings.floor, 1.0, steps + 1).round(6), settings.threshold))
    removed = []
    for threshold in thresholds.tolist():
        leader = settings.keeper_rule == "leader"
        walk = Walk(i, j, similarity, len(order), threshold, decided, keepers_only=leader)
        if cells:
            walk_guarded(walk, cells, lambda some: vectors(keys[some]), decided, covers)
        kept = walk.advance(walk.n).decisions().kept
        removed.append(identical + int(many[own & ~kept].sum()))  # of a kept text, one record stays
    return Removals(thresholds, np.array(removed), identical, records)


def _records_of(workspace: Workspace, living: LiveTexts, keys: np.ndarray, only: np.ndarray) -> tuple[np.ndarray, int]:
    """How many records of the corpus have each text (n,), and how many have that of a reference."""
    counts, identical = np.zeros(len(keys), np.int64), 0
    order = np.argsort(keys, kind="stable")
    for a in decided_admissions(workspace):
        if a.role == REFERENCE:
            continue
        admitted = AdmittedShard.read(workspace.admitted(a))
        found = admitted.record_texts[living.accepted(a, admitted)]
        identical += int(np.isin(found, only).sum())
        at = np.minimum(np.searchsorted(keys, found, sorter=order), len(keys) - 1)
        there = keys[order[at]] == found
        np.add.at(counts, order[at[there]], 1)
    return counts, identical


def _stored_matches(
    workspace: Workspace, admissions: Sequence[Admission], node_of: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[Admission, list[int]]]:
    """Matches (m,) between nodes, those without a node left out, and the dense cells that each admission names."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    named: dict[Admission, list[int]] = {}
    for a in admissions:
        if workspace.pairs(a).is_file():
            first, second, similarity, named[a] = read_pairs(workspace.pairs(a), workspace.settings.floor)
            first, second = node_of(first), node_of(second)
            alive = (first >= 0) & (second >= 0)
            parts.append((first[alive], second[alive], similarity[alive]))
    kinds = (np.int64, np.int64, np.float64)
    i, j, similarity = (np.concatenate([np.empty(0, kind), *(p[at] for p in parts)]) for at, kind in enumerate(kinds))
    return i, j, similarity, named


# -- cells -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CellSizes:
    """Texts at home in each cell, and listed there as ghosts: (k,) int each."""

    homes: np.ndarray
    ghosts: np.ndarray

    @property
    def skew(self) -> float:
        """Size of the fullest cell over the mean one; 0 without texts."""
        return float(self.homes.max() / self.homes.mean()) if self.homes.any() else 0.0


def cell_sizes(workspace: Workspace, admissions: Sequence[Admission], codebook: int) -> CellSizes:
    """How some admissions' texts spread over the cells of a codebook."""
    book = workspace.ledger.codebooks()[codebook]
    homes, ghosts = np.zeros(book.cells, np.int64), np.zeros(book.cells, np.int64)
    for a in admissions:
        cells = ShardCells.read(workspace.cells(book, a))
        if len(cells.rows):
            homes += cells.home_counts
            ghosts += cells.ghost_counts
    return CellSizes(homes, ghosts)
