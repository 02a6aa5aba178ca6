"""The benchmarks of static models run on a few texts, and what they print is true."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score

from dedup_assets_tests.benchmarks import encoders, static, static_texts
from dedup_assets_tests.encoder.test_static import saved


def test_average_precision_is_that_of_scikit_learn() -> None:
    source = np.random.default_rng(1)
    for _ in range(20):
        similarity = source.integers(0, 12, 60) / 11  # with ties
        same = source.random(60) < similarity
        area, threshold, precision, recall = encoders.average_precision(similarity, same)
        assert area == pytest.approx(average_precision_score(same, similarity))
        taken = similarity >= threshold
        assert precision == pytest.approx(same[taken].mean()) and recall == pytest.approx(
            same[taken].sum() / same.sum()
        )


def test_pairs_of_one_label_are_ranked_among_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"a": "red house", "b": "the house red", "c": "a slow train", "d": "stone"}
    pq.write_table(pa.table({"id": list(texts), "text": list(texts.values())}), tmp_path / "data.parquet")
    file = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"id_a": ["b"], "id_b": ["a"], "label": [1]}), file)
    _, first, second, same = encoders.labelled(file)
    assert len(first) == 6 and [(f, s) for f, s, x in zip(first, second, same, strict=True) if x] == [(0, 1)]
    pq.write_table(pa.table({"id_a": ["b", "c"], "id_b": ["a", "d"], "label": [1, 0]}), file)
    _, first, _, same = encoders.labelled(file)
    assert first.tolist() == [1, 2] and same.tolist() == [True, False]
    model = saved(tmp_path / "model")
    row = encoders.measure(file, [str(model)])
    assert row["models"][str(model)]["average_precision"] == 1.0


def test_the_cost_of_static_embedding_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": f"text number {i}"}) + "\n" for i in range(50)))
    model = str(saved(tmp_path / "model"))
    monkeypatch.setattr(
        sys, "argv", ["static", str(tmp_path / "texts.jsonl"), "--model", model, "--repeats", "1", "--json"]
    )
    static.main()
    report = json.loads(capsys.readouterr().out)
    assert report["texts"] == 50 and report["by_words"] and report["least_cosine"] > 0.999


def test_texts_with_a_static_model_are_judged_by_every_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = static_texts.noisy(["red house", "the slow train", "a stone house"], 40)
    assert len(set(texts)) == len(texts) == 40 and texts == static_texts.noisy(texts[:3], 40)
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    model = str(saved(tmp_path / "model"))
    arguments = [str(file), "--rows", "40", "--repeats", "1", "--alone", "--model", model]
    kept = static_texts._ours(texts, model, 0.9)[0]
    command = {"seconds": 1.0, "cpu_seconds": 1.0, "kept": kept}
    monkeypatch.setattr(static_texts, "curated", lambda *_: command)  # it takes seconds
    assert static_texts.main(arguments) == 0
    command["kept"] = kept[1:]
    assert static_texts.main(arguments) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "recall of deduplicate: 1.0000"
