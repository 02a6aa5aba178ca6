"""Whatever goes wrong with one shard, in whichever asset, fails that shard alone and keeps nobody from working."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dedup_assets as da
from dedup_assets.errors import DedupError, UnexpectedError
from dedup_assets_tests.assets.corpora import assert_same_tree, corpus, curate, tree, write_shards

BAD = "s01"

# In each asset, a function that works on one shard (or on a group of them), and how its arguments name the shard.
PLACES = {
    "raw_shards": "ingest_shard",
    "embeddings": "_new_texts",
    "kmeans_centroids": "_fit",
    "cluster_partitions": "_settle",
    "pairwise_similarities": "_write",
    "duplicate_ids": "load_shard",
    "deduplicated_dataset": "publish_shard",
}


def names_it(arguments: tuple[Any, ...]) -> bool:
    """Whether a call is about the bad shard, by its arguments or what they hold."""
    named = [getattr(argument, "shard", getattr(argument, "key", argument)) for argument in arguments]
    return any(
        isinstance(name, str | dict) and (name == BAD or (isinstance(name, dict) and BAD in name)) for name in named
    )


def inject(monkeypatch: pytest.MonkeyPatch, stage: str, error: Exception) -> None:
    module, name = importlib.import_module(f"dedup_assets.assets.{stage}"), PLACES[stage]
    real = getattr(module, name)
    bad_ids = {f"r{i:04d}" for i in range(30, 50)}

    def broken(*arguments: Any, **named: Any) -> Any:
        first = arguments[0]
        is_bad = names_it(arguments)
        if stage == "cluster_partitions":  # it is given the records alone
            is_bad = set(first.ids.to_pylist()) <= bad_ids and len(first) > 0
        if is_bad:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, broken)


@pytest.mark.parametrize("stage", PLACES)
def test_an_unforeseen_failure_of_one_shard_stops_no_other_and_is_over_with_its_cause(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = corpus("clustered", (30, 20, 30, 10), seed=4)
    paths = write_shards(tmp_path / "in", tables)
    without = curate([paths[0], paths[2]], tmp_path / "without", threshold=0.9)
    ws = tmp_path / "ws"
    with monkeypatch.context() as broken:
        inject(broken, stage, RuntimeError("no kernel for\nthis and pages of it"))
        with pytest.raises(DedupError) as caught:
            curate(paths[:3], ws, threshold=0.9)
        said = str(caught.value)
        assert said.startswith("1 shard failed; all others are finished.")
        assert f"{BAD}: " in said and f"{stage} failed unexpectedly: RuntimeError: no kernel for." in said
        assert "pages of it" not in said and "Traceback" not in said
        assert decisions(ws) == decisions(tmp_path / "without")
        # A later call brings in what is new, and fails for the same shard alone.
        with pytest.raises(DedupError, match="1 shard failed"):
            curate(paths, ws)
        curate([paths[0], paths[2], paths[3]], tmp_path / "without", threshold=0.9)
        assert decisions(ws) == decisions(tmp_path / "without")
        assert all(
            check.passed or check.is_warning for check in da.audit(workspace=ws) if check.name != "nothing_waits"
        )
    curate(paths, ws)
    again = curate([paths[0], paths[2], paths[3], paths[1]], tmp_path / "order", threshold=0.9)
    assert da.open_curation(ws).summary["kept"] == again.summary["kept"]
    assert decisions(ws) == decisions(tmp_path / "order"), "as if it had come last"
    assert without.summary["shards"] == 2


def decisions(workspace: Path) -> Any:
    result = da.open_curation(workspace)
    return (
        sorted(result.kept.to_arrow().column("id").to_pylist()),
        sorted(map(str, result.removed.to_arrow().drop_columns(["group_id"]).to_pylist())),
    )


def test_a_failure_of_the_machine_is_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (8, 8), seed=1))
    inject(monkeypatch, "duplicate_ids", OSError(28, "No space left on device"))
    monkeypatch.setattr("dedup_assets_tests.assets.test_isolation.BAD", "s00")
    with pytest.raises((DedupError, OSError), match="No space left"):
        curate(paths, tmp_path / "ws")


def test_what_is_published_stays_where_its_shard_fails_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", (30, 20, 30), seed=4))
    curate(paths, tmp_path / "ws", threshold=0.9)
    before = tree(tmp_path / "ws" / "output")
    with monkeypatch.context() as broken:
        inject(broken, "duplicate_ids", RuntimeError("broken"))
        with pytest.raises(UnexpectedError, match="RuntimeError: broken"):
            da.rethreshold(0.95, workspace=tmp_path / "ws")
    assert_same_tree(tree(tmp_path / "ws" / "output"), before)
    da.rethreshold(0.95, workspace=tmp_path / "ws")
    assert np.isclose(da.open_curation(tmp_path / "ws").summary["threshold"], 0.95)
