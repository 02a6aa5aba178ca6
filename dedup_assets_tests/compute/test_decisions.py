import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute.decisions import KEPT, REMOVED, UNKNOWN, Decisions, Walk


def cover(i, j, similarity, n, threshold, decided=None, *, keepers_only=True) -> Decisions:
    """The whole walk in one piece."""
    return Walk(i, j, similarity, n, threshold, decided, keepers_only=keepers_only).advance(n).decisions()


@st.composite
def graphs(draw):
    n = draw(st.integers(0, 25))
    pairs = [(i, j) for j in range(n) for i in range(j)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=80)) if pairs else []
    scores = draw(st.lists(st.sampled_from([0.85, 0.9, 0.95, 1.0]), min_size=len(edges), max_size=len(edges)))
    return n, edges, scores


def arrays(edges, scores):
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], np.array(scores, np.float64)


def by_definition(n, edges, scores, threshold, decided, keepers_only):
    kept, named = {}, {}
    for node in range(n):
        earlier = [
            (-s, i)
            for (i, j), s in zip(edges, scores, strict=True)
            if j == node and s >= threshold and (kept[i] or not keepers_only)
        ]
        kept[node] = not earlier if decided[node] == UNKNOWN else decided[node] == KEPT
        named[node] = min(earlier) if earlier and not kept[node] else (np.nan, -1)
    return kept, named


@settings(max_examples=200, deadline=None)
@given(graphs(), st.sampled_from([0.8, 0.9, 0.95, 1.0]), st.booleans(), st.randoms(use_true_random=False))
def test_decisions_follow_the_definition(graph, threshold, keepers_only, random):
    n, edges, scores = graph
    decided = np.array([random.choice([UNKNOWN, UNKNOWN, REMOVED, KEPT]) for _ in range(n)], np.int8)
    result = cover(*arrays(edges, scores), n, threshold, decided, keepers_only=keepers_only)
    kept, named = by_definition(n, edges, scores, threshold, decided, keepers_only)
    assert result.kept.tolist() == [kept[node] for node in range(n)]
    assert result.keeper.tolist() == [named[node][1] for node in range(n)]
    for node in range(n):
        assert (result.similarity[node] == -named[node][0]) or (
            np.isnan(result.similarity[node]) and named[node][1] == -1
        )


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_every_removed_node_names_a_kept_match_and_no_two_kept_nodes_match(graph):
    n, edges, scores = graph
    result = cover(*arrays(edges, scores), n, 0.9)
    match = {e: s for e, s in zip(edges, scores, strict=True) if s >= 0.9}
    for node in np.flatnonzero(~result.kept):
        keeper = result.keeper[node]
        assert result.kept[keeper] and match[(keeper, node)] == result.similarity[node]
    assert not any(result.kept[i] and result.kept[j] for i, j in match)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 25), st.randoms(use_true_random=False))
def test_appending_in_two_steps_gives_the_decisions_of_one(graph, cut, random):
    n, edges, scores = graph
    cut = min(cut, n)
    whole = cover(*arrays(edges, scores), n, 0.9)
    early = [(e, s) for e, s in zip(edges, scores, strict=True) if e[1] < cut]
    first = cover(*arrays([e for e, _ in early], [s for _, s in early]), cut, 0.9)
    decided = np.full(n, UNKNOWN, np.int8)
    decided[:cut] = first.kept
    late = [(e, s) for e, s in zip(edges, scores, strict=True) if e[1] >= cut]
    random.shuffle(late)
    second = cover(*arrays([e for e, _ in late], [s for _, s in late]), n, 0.9, decided)
    assert (second.kept == whole.kept).all() and (second.keeper[cut:] == whole.keeper[cut:]).all()


@settings(max_examples=60, deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_order_direction_and_repeats_of_edges_do_not_matter(graph, random):
    n, edges, scores = graph
    both = list(zip(edges, scores, strict=True)) + list(zip(edges, scores, strict=True))[::2]
    random.shuffle(both)
    turned = [((j, i), s) if random.random() < 0.5 else ((i, j), s) for (i, j), s in both]
    for keepers_only in (True, False):
        one = cover(*arrays(edges, scores), n, 0.9, keepers_only=keepers_only)
        turned_edges, turned_scores = [e for e, _ in turned], [s for _, s in turned]
        other = cover(*arrays(turned_edges, turned_scores), n, 0.9, keepers_only=keepers_only)
        assert (one.kept == other.kept).all() and (one.keeper == other.keeper).all()


def test_a_chain_shows_how_the_two_rules_differ():
    chain = np.array([0, 1]), np.array([1, 2]), np.array([0.95, 0.95])
    assert cover(*chain, 3, 0.9).kept.tolist() == [True, False, True]
    assert cover(*chain, 3, 0.9, keepers_only=False).kept.tolist() == [True, False, False]
    assert cover(*chain, 3, 0.9, keepers_only=False).keeper.tolist() == [-1, 0, 1]


def test_wrong_input_is_refused():
    none = np.empty(0, np.int64)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        cover(np.array([0]), np.array([2]), np.array([1.0]), 2, 0.9)
    with pytest.raises(ValueError, match="itself"):
        cover(np.array([1]), np.array([1]), np.array([1.0]), 2, 0.9)
    with pytest.raises(ValueError, match="decided"):
        cover(none, none, np.empty(0), 2, 0.9, np.array([1, 7], np.int8))
    with pytest.raises(ValueError, match="one length"):
        cover(none, none, np.array([1.0]), 2, 0.9)
