"""Turns matches between texts into a decision for every record. Arrays in, arrays out.

A *batch* is decided at once: one shard that is appended, or the whole corpus in a new generation. Records with the same
text share one decision. The record that comes first in the curation order represents the text; where the text is kept,
its other records are removed as exact copies of that one; where it is removed, all its records name the same keeper.
Records of a *reference* always stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dedup_assets.compute.audit import Probes
from dedup_assets.compute.decisions import KEPT, REMOVED, UNKNOWN, Walk
from dedup_assets.compute.dense import DenseCell, Vectors
from dedup_assets.compute.dense_guarded import walk_guarded
from dedup_assets.compute.guards import Covers, NamedCovers

NONE = -1

PIECE_ROWS = 4_096
"""Texts of a dense cell that are compared with its references at once."""

_NOTHING = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)


def find_keys(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Index (n,) int64 of each key among the known keys (m,), which are sorted; -1 where the key is unknown."""
    if not len(known):
        return np.full(len(keys), NONE, np.int64)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[at] == keys, at, NONE)


@dataclass(frozen=True)
class TextDecisions:
    """Decided texts, sorted by key.

    Attributes
    ----------
    keys : (m,) int64
    kept : (m,) bool
    keeper : (m,) int64
        Key of the keeper's text, or -1 where the text is kept.
    similarity : (m,) float64
        Canonical similarity to the keeper; NaN where the text is kept.
    place : (m,) int64
        Position of the representing record in the curation order; distinct.
    """

    keys: np.ndarray
    kept: np.ndarray
    keeper: np.ndarray
    similarity: np.ndarray
    place: np.ndarray

    @classmethod
    def empty(cls) -> TextDecisions:
        """No texts."""
        nothing = np.empty(0, np.int64)
        return cls(nothing, np.empty(0, bool), nothing, np.empty(0), nothing)

    def take(self, at: np.ndarray) -> TextDecisions:
        """The texts at some ascending indexes."""
        return TextDecisions(self.keys[at], self.kept[at], self.keeper[at], self.similarity[at], self.place[at])

    @classmethod
    def joined(cls, parts: list[TextDecisions]) -> TextDecisions:
        """Several disjoint sets as one."""
        keys = np.concatenate([np.empty(0, np.int64), *(p.keys for p in parts)])
        order = np.argsort(keys, kind="stable")
        return cls(
            keys[order],
            np.concatenate([np.empty(0, bool), *(p.kept for p in parts)])[order],
            np.concatenate([np.empty(0, np.int64), *(p.keeper for p in parts)])[order],
            np.concatenate([np.empty(0), *(p.similarity for p in parts)])[order],
            np.concatenate([np.empty(0, np.int64), *(p.place for p in parts)])[order],
        )

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Index of each key, or -1."""
        return find_keys(self.keys, keys)


@dataclass(frozen=True)
class BatchDecisions:
    """Decisions of a batch, for each record and for each text that first appears in it.

    Attributes
    ----------
    kept : (n,) bool
    keeper : (n,) int64
        Key of the keeper's text; -1 where the record is kept.
    similarity : (n,) float64
        To the keeper; 1 for an exact copy, NaN where the record is kept.
    exact : (n,) bool
        Whether the record is removed and has the same text as its keeper.
    texts : TextDecisions
    representative : (m,) int64
        For each of `texts`, the index of the record that represents it.
    """

    kept: np.ndarray
    keeper: np.ndarray
    similarity: np.ndarray
    exact: np.ndarray
    texts: TextDecisions
    representative: np.ndarray


def decide_batch(
    record_texts: np.ndarray,
    order: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    threshold: float,
    earlier: TextDecisions,
    rule: str = "leader",
    dense: Sequence[DenseCell] = (),
    vectors: Vectors | None = None,
    *,
    reference: np.ndarray | None = None,
    only: np.ndarray | None = None,
    covers: Covers | None = None,
    first_place: int = 0,
    stats: dict[str, float] | None = None,
) -> BatchDecisions:
    """Decide every record of a batch.

    Parameters
    ----------
    record_texts : (n,) int64
        Text key of each record.
    order : (n,) int64
        Record indexes in curation order (a permutation).
    pairs : (m,) int64, (m,) int64, (m,) float64
        Matches among the batch's texts and between them and earlier ones, all of them except those inside dense cells;
        other pairs are ignored.
    threshold : float
    earlier : TextDecisions
        Every text decided before this batch that one of its records, pairs or dense cells refers to.
    rule : {"leader", "semdedup"}
    dense : sequence of DenseCell, optional
        Members are keys: texts among which matches are not listed.
    vectors : callable, optional
        Stored vectors (m, d) of text keys (m,); needed with dense cells.
    reference : (n,) bool, optional
        Records that always stay, even where they match each other. They come first in `order`, and only references were
        decided before them.
    only : (r,) int64, optional
        Texts of references. If given, only these remove records; other records with the same text all stay.
    covers : Covers, optional
        The guards. A match counts only if all hold for the earlier text as keeper and the later one as removed.
    first_place : int
        Position of the batch's first record in the whole curation order; above the positions of all earlier records.
    stats : dict, optional
        Receives `dense_products`: pairs of texts of dense cells of which a product was taken.

    Notes
    -----
    A removed text names its most similar keeper; among equally similar keepers, the first in the curation order. So no
    decision depends on how that order is split into batches.
    """
    n = len(record_texts)
    standing = np.zeros(n, bool) if reference is None else reference
    ordered_texts = record_texts[order]
    # The first record of each new text in curation order represents it; texts are nodes in that order.
    new_positions = np.flatnonzero(earlier.find(ordered_texts) == NONE)
    unique, first = np.unique(ordered_texts[new_positions], return_index=True)
    by_rank = np.argsort(first, kind="stable")
    rank_of_text = np.empty(len(unique), np.int64)
    rank_of_text[by_rank] = np.arange(len(unique))
    position = new_positions[first]
    representative = order[position]

    nodes_before = len(earlier.keys)
    earlier_order = np.argsort(earlier.place, kind="stable")
    earlier_node = np.empty(nodes_before, np.int64)
    earlier_node[earlier_order] = np.arange(nodes_before)

    def node_of(keys: np.ndarray) -> np.ndarray:
        at = earlier.find(keys)
        nodes = np.where(at >= 0, earlier_node[at], NONE) if nodes_before else at
        if len(unique):
            at = np.minimum(np.searchsorted(unique, keys), len(unique) - 1)
            own = unique[at] == keys
            nodes = np.where(own, nodes_before + rank_of_text[at], nodes)
        return nodes

    node_a, node_b = node_of(pairs[0]), node_of(pairs[1])
    low, high = np.minimum(node_a, node_b), np.maximum(node_a, node_b)
    useful = (low >= 0) & (high >= nodes_before)
    key_of_node = np.concatenate([earlier.keys[earlier_order], unique[by_rank]])
    if only is not None:
        useful &= np.isin(key_of_node[np.maximum(low, 0)], only)
    decided = np.full(nodes_before + len(unique), UNKNOWN, np.int8)
    decided[:nodes_before] = earlier.kept[earlier_order]
    decided[nodes_before:][standing[representative[by_rank]]] = KEPT
    keepers_only = {"leader": True, "semdedup": False}[rule]
    named = covers.of(key_of_node) if covers else None
    if named:
        useful &= (pairs[2] >= threshold) & ~(keepers_only & (decided[np.maximum(low, 0)] == REMOVED))
        at = np.flatnonzero(useful)
        useful[at] = named(low[at], high[at])
    matches = low[useful], high[useful], pairs[2][useful]
    if only is not None and dense and vectors is not None:
        found = nearest_in_cells(dense, only, vectors, threshold, node_of, named)
        matches = tuple(np.concatenate(parts) for parts in zip(matches, found, strict=True))  # type: ignore[assignment]
        dense = ()
    walk = Walk(*matches, len(decided), threshold, decided, keepers_only=keepers_only)
    if dense and vectors is not None:
        fetch = vectors
        cells = [cell.renamed(node_of(cell.members)) for cell in dense]
        products = walk_guarded(walk, cells, lambda some: fetch(key_of_node[some]), decided, named)
        if stats is not None:
            stats["dense_products"] = products
    nodes = walk.advance(walk.n).decisions()
    own_nodes = nodes_before + rank_of_text
    text_kept = nodes.kept[own_nodes]
    keeper_of = nodes.keeper[own_nodes]
    texts = TextDecisions(
        keys=unique,
        kept=text_kept,
        keeper=np.where(text_kept, NONE, key_of_node[np.maximum(keeper_of, 0)]),
        similarity=np.where(text_kept, np.nan, nodes.similarity[own_nodes]),
        place=first_place + position,
    )

    everything = TextDecisions.joined([earlier, texts])
    at = everything.find(record_texts)
    text_is_kept, text_keeper = everything.kept[at], everything.keeper[at]
    stands = standing.copy()
    stands[representative] = True
    if only is not None:
        stands |= ~np.isin(record_texts, only)
    kept = stands & text_is_kept
    exact = text_is_kept & ~kept
    return BatchDecisions(
        kept=kept,
        keeper=np.where(kept, NONE, np.where(exact, record_texts, text_keeper)),
        similarity=np.where(kept, np.nan, np.where(exact, 1.0, everything.similarity[at])),
        exact=exact,
        texts=texts,
        representative=representative,
    )


def nearest_in_cells(
    cells: Sequence[DenseCell],
    references: np.ndarray,
    vectors: Vectors,
    threshold: float,
    node_of: Callable[[np.ndarray], np.ndarray],
    covers: NamedCovers | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each text of dense cells, the most similar reference in them, the first in order among equals: nodes (m,),
    (m,) and similarities (m,) of the matches for which the guards, asked by nodes, hold."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [_NOTHING]
    for cell in cells:
        is_reference = np.isin(cell.members, references)
        theirs, ours = cell.members[is_reference], cell.members[~is_reference]
        order = np.argsort(node_of(theirs), kind="stable")
        theirs = theirs[order]
        if not len(theirs) or not len(ours):
            continue
        probes = Probes(vectors(theirs), threshold)
        for start in range(0, len(ours), PIECE_ROWS):
            part = ours[start : start + PIECE_ROWS]
            rows = vectors(part)
            i, j = probes.near(rows)
            similarity = probes.similarity(rows, i, j)
            good = similarity >= threshold
            if covers is not None:
                one, other = node_of(theirs[i]), node_of(part[j])
                good &= (one >= 0) & (other >= 0)  # what is left out below has no text to ask for
                good[good] = covers(one[good], other[good])
            best = np.lexsort((i, -similarity, j))
            best = best[good[best]]
            _, first = np.unique(j[best], return_index=True)
            best = best[first]
            parts.append((node_of(theirs[i[best]]), node_of(part[j[best]]), similarity[best]))
    one, other, similar = (np.concatenate([part[at] for part in parts]) for at in range(3))
    there = (one >= 0) & (other >= 0)
    return one[there], other[there], similar[there]
