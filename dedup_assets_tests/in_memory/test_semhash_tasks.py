"""What people do with SemHash 0.5, done with this package's calls and a real model."""

from __future__ import annotations

import numpy as np
import pytest

import dedup_assets as da
from dedup_assets.errors import DedupError
from dedup_assets.in_memory.vectors import embed

LINES = [
    "It's dangerous to go alone!",
    "It's a secret to everybody.",
    "Ganondorf has invaded Hyrule!",
]
LIKE_THEM = [
    "It's dangerous to go alone!",
    "It's risky to go alone!",
    "Ganondorf has attacked Hyrule!",
]
NEW = ["The capital of France is Paris.", "Bake the bread for forty minutes."]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def test_self_deduplicate_keeps_the_first_of_each_kind() -> None:
    result = da.deduplicate(LINES + LIKE_THEM, threshold=0.75, progress=False)
    assert result.selected == LINES
    assert [(gone.record, gone.keeper, gone.kind) for gone in result.filtered] == [
        (LIKE_THEM[0], LINES[0], "exact"),
        (LIKE_THEM[1], LINES[0], "semantic"),
        (LIKE_THEM[2], LINES[2], "semantic"),
    ]
    assert (result.duplicate_ratio, result.exact_ratio) == (3 / 6, 1 / 6)
    assert da.deduplicate(NEW, progress=False).selected == NEW


def test_deduplicate_takes_out_what_others_hold() -> None:
    assert da.deduplicate(LIKE_THEM, against=LINES, threshold=0.75, progress=False).selected == []
    assert da.deduplicate(NEW, against=LINES, threshold=0.75, progress=False).selected == NEW


def test_columns_of_dicts_are_compared_together() -> None:
    questions = [
        {"question": "What is the hero's name?", "context": "The hero is Link", "answer": "Link"},
        {"question": "Who is the hero?", "context": "The hero is Link", "answer": "Link"},
        {"question": "Who is the princess?", "context": "The princess is Zelda", "answer": "Zelda"},
    ]
    weights = {"question": 1, "context": 1, "answer": 1}
    result = da.deduplicate(questions, columns=weights, threshold=0.8, progress=False)
    assert result.selected == [questions[0], questions[2]]
    with pytest.raises(DedupError, match="which column"):
        da.deduplicate(questions, progress=False)


def test_embeddings_may_be_given_or_made_by_any_encoder() -> None:
    class Encoder:
        def encode(self, texts: list[str]) -> np.ndarray:
            return embed(texts, MODEL)

    texts = LINES + LIKE_THEM
    plain = da.deduplicate(texts, threshold=0.75, progress=False)
    made = da.deduplicate(texts, model=Encoder(), threshold=0.75, progress=False)
    given = da.deduplicate(texts, vectors=embed(texts, MODEL), threshold=0.75, progress=False)
    assert plain.selected == made.selected == given.selected


def test_a_higher_threshold_lets_records_return_and_a_lower_one_takes_more() -> None:
    result = da.deduplicate(LINES + LIKE_THEM, threshold=0.75, progress=False)
    similarity = sorted(gone.similarity for gone in result.filtered)
    higher = result.rethreshold(similarity[0] + 1e-6)
    assert len(higher.selected) == len(result.selected) + 1
    assert higher.rethreshold(0.75).selected == result.selected
    assert result.least_similar(1)[0].similarity == similarity[0]
    assert len(result.rethreshold(0.05).selected) <= 2


def test_selected_with_duplicates_are_groups() -> None:
    groups = da.deduplicate(LINES + LIKE_THEM, threshold=0.75, progress=False).groups()
    assert [(group.record, [gone.record for gone in group.removed]) for group in groups] == [
        (LINES[0], [LIKE_THEM[0], LIKE_THEM[1]]),
        (LINES[2], [LIKE_THEM[2]]),
    ]


def test_outliers_and_representatives() -> None:
    fruits = ["apple", "banana", "cherry", "strawberry", "blueberry", "raspberry", "grape", "peach", "plum", "mango"]
    found = da.outliers([*fruits, "motorcycle"], fraction=1 / 11, progress=False)
    assert found.filtered == ["motorcycle"] and found.selected == fruits
    others = da.outliers(["apricot", "motorcycle"], against=fruits, fraction=0.5, progress=False)
    assert others.filtered == ["motorcycle"]
    vehicles = ["car", "truck", "motorcycle", "bicycle"]
    chosen = da.representatives(fruits + vehicles, n=2, diversity=0.9, progress=False).selected
    assert len(chosen) == 2 and len(set(chosen) & set(fruits)) == 1
