"""Promises of `watch` and `recurate`; what the sensor makes of it is told in the tests of automation."""

from __future__ import annotations

from pathlib import Path

import pytest

import dedup_assets as da
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.cli.commands import Call, write_corpus, write_jsonl


def test_sources_are_kept_absolute_once_and_listed(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path / "shards")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    said = call("watch", "shards", "-w", "ws", "--every", "5", "--recurate", "0 3 * * 0", "--embedding-column", "v")
    assert said.status == 0
    assert said.out.splitlines()[0] == f"{tmp_path}/shards: 2 shard files"
    assert call("watch", "empty", "./shards", "-w", "ws", "--json").json() == {
        "watched": {f"{tmp_path}/shards": 2, f"{tmp_path}/empty": 0}
    }
    assert call("watch", "shards/a.jsonl", "--reference", "-w", "ws").status == 0
    settings = Workspace.open(tmp_path / "ws").settings
    assert settings.sources == (f"{tmp_path}/shards", f"{tmp_path}/empty")
    assert settings.reference_sources == (f"{tmp_path}/shards/a.jsonl",)
    assert (settings.watch_seconds, settings.recurate_cron, settings.embedding_column) == (5, "0 3 * * 0", "v")
    assert call("watch", "-w", "ws", "--recurate", "").status == 0
    assert Workspace.open(tmp_path / "ws").settings.recurate_cron == ""
    assert not Workspace.open(tmp_path / "ws").ledger.shards()  # nothing comes in before the daemon runs


def test_a_source_that_is_not_there_and_a_wrong_cron_change_nothing(tmp_path: Path, call: Call) -> None:
    missing = call("watch", tmp_path / "nothing", "-w", tmp_path / "ws")
    assert missing.status == 1 and "does not exist" in missing.err
    wrong = call("watch", tmp_path, "--recurate", "weekly", "-w", tmp_path / "ws")
    assert wrong.status == 1 and "expected five fields" in wrong.err
    none = call("watch", "-w", tmp_path / "ws")
    assert none.status == 1 and "is not a workspace" in none.err
    assert not (tmp_path / "ws" / "curation.toml").exists()


def test_recurate_makes_one_order_over_all_records_and_lists_what_changed(tmp_path: Path, call: Call) -> None:
    shards, ws = write_corpus(tmp_path / "shards"), tmp_path / "ws"
    longer = {"id": "c0", "text": "much like the first text, and longer", "v": [1.0, 0.05, 0.0]}
    write_jsonl(shards / "c.jsonl", [longer])
    early = call("recurate", "-w", ws)
    assert early.status == 1 and "is not a workspace" in early.err
    da.register(shards, workspace=ws, embedding_column="v", keep="longest")
    nothing = call("recurate", "-w", ws)
    assert nothing.status == 1 and "`dedup-assets curate SOURCE` comes first" in nothing.err
    da.curate(workspace=ws)
    before = set(da.open_curation(ws).kept.to_pandas()["id"])
    summary = call("recurate", "-w", ws, "--json").json()
    curation = da.open_curation(ws)
    assert summary["kept"] == len(curation.kept.to_pandas()) == curation.summary["kept"]
    assert summary["stages"]["embeddings"]["rows"] == 0
    assert (curation.output / "current").resolve().name == "0002"
    assert [path.name for path in (curation.output / "changes").iterdir()] == ["0002.parquet"]
    # In one order by length the last shard's record comes before those it had to yield to.
    assert before == {"a1", "a2", "b2"}
    assert set(curation.kept.to_pandas()["id"]) == {"c0", "a2", "b2"}
