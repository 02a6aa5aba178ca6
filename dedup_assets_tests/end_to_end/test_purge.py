"""What was taken down is in no file of the workspace once it is purged: neither the text nor the vector."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.corpus.retraction import retract_ids
from dedup_assets.encoder.settled import open_table
from dedup_assets.errors import WorkspaceError
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.cli.commands import Call
from dedup_assets_tests.cli.conftest import call  # noqa: F401

SECRET = "Quentin of Waterdeep keeps his silver under the seventh stone of the well."
LIKE_IT = "Quentin of Waterdeep keeps all his silver under the seventh stone of the well."
OTHERS = ["A lighthouse shows ships where the rocks are.", "Bread rises because yeast makes gas from sugar."]
HIDDEN = ("seventh stone", "silver under")


def texts_in(path: Path) -> str:
    """All that a file says, also where it is compressed."""
    if path.suffix == ".parquet":
        return json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False)
    return path.read_bytes().decode("utf-8", "replace")


def holding(folder: Path, vectors: np.ndarray) -> tuple[set[str], set[str]]:
    """The parts of a workspace that hold the text, and those that hold a vector."""
    with_text, with_vector = set(), set()
    for path in (path for path in folder.rglob("*") if path.is_file()):
        part = path.relative_to(folder).parts[0]
        if any(words in texts_in(path) for words in HIDDEN):
            with_text.add(part)
        data = path.read_bytes()
        if any(np.asarray(v, kind).tobytes()[:64] in data for v in vectors for kind in ("float16", "float32")):
            with_vector.add(part)
    return with_text, with_vector


def write(path: Path, *rows: tuple[str, str | None]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"id": name, "text": text, "note": text}) + "\n" for name, text in rows))
    return path


@pytest.mark.parametrize("by_shard", [False, True], ids=["single records", "a whole shard"])
def test_nothing_of_what_was_taken_down_is_left(by_shard: bool, tmp_path: Path) -> None:
    ws = tmp_path / "ws"
    inside = [("gone 1", SECRET), ("gone 2", LIKE_IT), ("gone 3", SECRET)]
    around = [("stays 1", OTHERS[0]), ("stays 2", OTHERS[0]), ("empty", None)]
    first = write(tmp_path / "in" / "a.jsonl", *(inside if by_shard else [*around[:1], *inside, *around[1:]]))
    second = write(tmp_path / "in" / "b.jsonl", ("stays 3", OTHERS[1]), *(around if by_shard else []))
    # A row that was quarantined, with an id that goes.
    third = write(tmp_path / "in" / "c.jsonl", ("stays 4", OTHERS[1]), ("gone 1", SECRET))
    da.curate(first, second, third, workspace=ws, threshold=0.9, progress=False)
    space = Workspace.open(ws)
    table = open_table(space)
    hashes = table.hashes()
    vectors, _ = table.find_vectors(hashes)
    norms = np.abs(vectors.astype(np.float64) @ vectors[:1].astype(np.float64).T)
    assert len(norms) == 4
    (ws / "report.html").write_text("a report with " + SECRET)
    secret = vectors[[row["id"].startswith("gone") for row in rows_of(table, hashes)]]
    assert len(secret) == 2
    before = holding(ws, secret)
    assert before[0] >= {"raw", "output", "dagster", "report.html"} and before[1] >= {"lancedb", "cells"}

    da.retract(*(["a"] if by_shard else ["gone 1", "gone 2", "gone 3"]), workspace=ws, progress=False)
    kept = da.open_curation(ws).kept.to_arrow().to_pylist()
    freed = da.purge(workspace=ws)
    assert freed.counts["events of Dagster with texts"] >= 1 and freed.counts["reports"] == 1
    found = holding(ws, secret)
    assert found[0] == set()
    # The mean of a cell with one text is its vector: `maintain --help` says so.
    assert found[1] <= {"codebooks"}

    # All else is as it was, and goes on.
    assert da.open_curation(ws).kept.to_arrow().to_pylist() == kept
    assert [check.name for check in da.audit(workspace=ws) if not check.passed] == []
    again = da.purge(workspace=ws)
    assert not {"contents of rows", "vectors in cells", "reports"} & set(again.counts)
    last = write(tmp_path / "in" / "d.jsonl", ("new", SECRET), ("gone 2", LIKE_IT), ("copy", OTHERS[0]))
    result = da.curate(last, workspace=ws, progress=False)
    assert {row["id"] for row in result.kept} - {row["id"] for row in kept} == {"new"}
    da.rethreshold(0.95, workspace=ws, progress=False)
    da.recurate(workspace=ws, progress=False)
    assert [check.name for check in da.audit(workspace=ws) if not check.passed] == []


def rows_of(table: object, hashes: np.ndarray) -> list[dict[str, str]]:
    """Id of each text of the table, in the order of its hashes."""
    found = table._table.search().select(["id", "text_hash"]).to_arrow().to_pylist()  # type: ignore[attr-defined]
    assert len(found) == len(hashes)
    return found


def test_a_purge_waits_for_the_retraction_to_be_published_and_the_command_says_what_remains(
    tmp_path: Path,
    call: Call,  # noqa: F811
) -> None:
    ws = tmp_path / "ws"
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "x", "v": [1, 0]}\n{"id": "b", "text": "y", "v": [0, 1]}\n')
    da.curate(tmp_path / "a.jsonl", workspace=ws, embedding_column="v", progress=False)
    retract_ids(Workspace.open(ws), ["a"])
    with pytest.raises(WorkspaceError, match="not published yet: run `dedup-assets curate`, and purge again"):
        da.purge(workspace=ws)
    done = call("retract", "b", "--workspace", ws)
    assert done.status == 0 and "maintain --purge" in done.out
    done = call("maintain", "--purge", "--json", "--workspace", ws)
    assert done.status == 0 and json.loads(done.out)["removed"]["contents of rows"]["count"] == 2
    vectors = np.load(next((ws / "raw").rglob("vectors.npy")))
    assert not vectors.any()
