"""What a source holds is read, or named with the reason; what dedup-assets wrote itself is never a source."""

from __future__ import annotations

import itertools
import json
import os
import random
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.corpus.output import read_manifest
from dedup_assets.errors import DedupError, SourceError, WorkspaceError
from dedup_assets.ingest.hive import typed_partitions
from dedup_assets.ingest.listing import DEAD_LINK, LINK_OUT, NOTE, OWN, SEEN_LINK, UNKNOWN_ENDING, list_source
from dedup_assets.ingest.readers import read_shard
from dedup_assets.ingest.source_files import content_fingerprint, file_state
from dedup_assets.ingest.sources import discover, find_sources
from dedup_assets.storage.own_folders import MARKER_TEXT
from dedup_assets.storage.workspace import Workspace


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("id,text\n")


def files(source: Path | str) -> list[str]:
    return [file.name for file in list_source(str(source)).files]


def unread(source: Path | str) -> dict[str, str]:
    return {item.name: item.reason for item in list_source(str(source)).unread}


def write(path: Path, rows: Sequence[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"v": [1.0, 0.0], **row}) + "\n" for row in rows))


# -- links and endings -------------------------------------------------------------------------------


def test_everything_is_read_or_named_and_notes_of_other_programs_are_neither(tmp_path: Path) -> None:
    source = tmp_path / "in"
    touch(
        source, "a.jsonl", "b.ndjson", "c.jsonl.xz", "d.json.zstd", "e.pq", "f.arrow", "g.csv.bz2", "notes.txt", "x/h"
    )
    touch(
        source, "_SUCCESS", "_committed_1", ".part.crc", "a.jsonl.crc", ".hidden.jsonl", ".git/config.json", "_metadata"
    )
    assert files(source) == ["a.jsonl", "b.ndjson", "c.jsonl.xz", "d.json.zstd", "e.pq", "f.arrow", "g.csv.bz2"]
    assert unread(source) == {"notes.txt": NOTE, "x/h": UNKNOWN_ENDING}


def test_plain_text_is_read_where_it_is_named_or_alone_and_not_beside_other_shards(tmp_path: Path) -> None:
    touch(tmp_path, "a/one.txt", "a/two.txt.gz", "b/README.txt", "b/x.jsonl", "b/deep/notes.TXT.xz")
    assert files(tmp_path / "a") == files(tmp_path / "a" / "*") == ["one.txt", "two.txt.gz"]
    assert files(tmp_path / "b") == ["x.jsonl"]
    assert unread(tmp_path / "b") == {"README.txt": NOTE, "deep/notes.TXT.xz": NOTE}
    assert files(tmp_path / "b" / "*.txt") == files(tmp_path / "b" / "README.txt") == ["README.txt"]
    both = discover([str(tmp_path / "b"), str(tmp_path / "b" / "**" / "*.txt")])
    assert [(file.key, file.format) for file in both] == [("x", "jsonl"), ("README", "txt")]


def test_linked_folders_are_read_once_and_loops_are_named(tmp_path: Path) -> None:
    source, outside = tmp_path / "in", tmp_path / "outside"
    touch(source, "own/a.csv")
    touch(outside, "b.csv", "deep/c.csv")
    (source / "1-loop").symlink_to(source)
    (source / "2-own").symlink_to(source / "own")
    (source / "3-out").symlink_to(outside)
    (source / "4-again").symlink_to(outside / "deep")
    (source / "5-dead").symlink_to(tmp_path / "nowhere")
    (source / "6.csv").symlink_to(source / "own" / "a.csv")
    (outside / "back").symlink_to(tmp_path)
    found = list_source(str(source), "anywhere")
    assert [file.name for file in found.files] == ["3-out/b.csv", "3-out/deep/c.csv", "own/a.csv"]
    seen = ("1-loop", "2-own", "3-out/back", "4-again", "6.csv")
    told = {item.name: item.reason for item in found.unread}
    assert told == {**dict.fromkeys(seen, SEEN_LINK), "5-dead": DEAD_LINK}
    # Without that setting nothing is read that lies elsewhere.
    assert files(source) == ["own/a.csv"]
    told = {"1-loop": SEEN_LINK, "2-own": SEEN_LINK, "3-out": LINK_OUT, "4-again": LINK_OUT}
    assert unread(source) == {**told, "5-dead": DEAD_LINK, "6.csv": SEEN_LINK}


def test_a_link_that_leads_out_of_its_source_is_read_only_where_that_is_allowed(tmp_path: Path) -> None:
    write(tmp_path / "far" / "secret.jsonl", [{"id": "a", "text": "secret", "v": [1.0, 0.0]}])
    write(tmp_path / "in" / "a.jsonl", [{"id": "b", "text": "known", "v": [0.0, 1.0]}])
    (tmp_path / "in" / "b.jsonl").symlink_to(tmp_path / "far" / "secret.jsonl")
    for source in (tmp_path / "in", tmp_path / "in" / "*.jsonl", f"file://{tmp_path}/in"):
        assert files(source) == ["a.jsonl"] and unread(source) == {"b.jsonl": LINK_OUT}
    assert files(tmp_path / "in" / "b.jsonl") == ["b.jsonl"]  # whoever names a link means what it leads to
    result = da.curate(tmp_path / "in", workspace=tmp_path / "ws", embedding_column="v")
    assert result.summary["kept"] == 1 and result.summary["unread"]["by_reason"] == {LINK_OUT: 1}
    with pytest.raises(SourceError, match="leads out of its source"):
        da.curate(tmp_path / "in", workspace=tmp_path / "ws", strict=True)
    result = da.curate(tmp_path / "in", workspace=tmp_path / "ws", follow_links="anywhere")
    assert result.summary["kept"] == 2
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "b.jsonl").symlink_to(tmp_path / "far" / "secret.jsonl")
    with pytest.raises(SourceError, match=r"no shard files .*leads out of its source"):
        da.curate(tmp_path / "only", workspace=tmp_path / "other")


def test_a_watched_file_that_became_a_link_since_it_was_listed_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "far" / "secret.jsonl", [{"id": "a", "text": "secret", "v": [1.0, 0.0]}])
    write(tmp_path / "in" / "a.jsonl", [{"id": "b", "text": "known", "v": [0.0, 1.0]}])
    da.watch(tmp_path / "in", workspace=tmp_path / "ws", embedding_column="v")
    da.register(tmp_path / "in", workspace=tmp_path / "ws")
    (tmp_path / "in" / "a.jsonl").unlink()
    (tmp_path / "in" / "a.jsonl").symlink_to(tmp_path / "far" / "secret.jsonl")
    with pytest.raises(DedupError, match="leads out of its source"):
        da.curate(workspace=tmp_path / "ws")


def test_strict_makes_what_is_not_read_an_error_and_the_summary_names_it(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", [{"id": "a", "text": "x"}])
    touch(tmp_path / "in", "notes.md", "more.md")
    with pytest.raises(SourceError, match=r"2 files are not read: 2 unknown ending \(such as 'more.md'\)"):
        da.curate(tmp_path / "in", workspace=tmp_path / "ws", embedding_column="v", strict=True)
    assert not (tmp_path / "ws").exists()
    result = da.curate(tmp_path / "in", workspace=tmp_path / "ws", embedding_column="v")
    told = result.summary["unread"]
    assert told["files"] == 2 and told["by_reason"] == {UNKNOWN_ENDING: 2}
    assert told["examples"] == ["more.md", "notes.md"]


def test_a_glob_follows_no_link_round_a_loop_and_reads_each_file_once(tmp_path: Path) -> None:
    source = tmp_path / "in"
    touch(source, "a.csv", "d/b.csv")
    touch(tmp_path / "far", "c.csv")
    (source / "d" / "loop").symlink_to(source)
    (source / "d" / "out").symlink_to(tmp_path / "far")
    (source / "0.csv").symlink_to(source / "a.csv")
    glob = source / "**" / "*.csv"
    assert [file.name for file in list_source(str(glob), "anywhere").files] == ["a.csv", "d/b.csv", "d/out/c.csv"]
    assert files(glob) == ["a.csv", "d/b.csv"]
    told = unread(glob)
    assert told.pop("d/out/c.csv") == LINK_OUT
    assert told["0.csv"] == SEEN_LINK and set(told.values()) == {SEEN_LINK}


# -- folders that speak for their files --------------------------------------------------------------


def saved_dataset(folder: Path, parts: Sequence[pa.Table], **state: object) -> None:
    """A folder as `datasets.Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        with ipc.new_stream(str(folder / name), part.schema) as stream:
            stream.write_table(part)
    (folder / "dataset_info.json").write_text('{"features": {}}')
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], **state}))


def test_a_saved_dataset_is_read_as_what_it_is(tmp_path: Path) -> None:
    part = pa.table({"id": ["1"], "text": ["a"]})
    saved_dataset(tmp_path / "one", [part, part])
    touch(tmp_path / "one", "cache-0a.arrow")
    assert files(tmp_path / "one") == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert list(unread(tmp_path / "one")) == ["cache-0a.arrow"]
    (first, _) = discover([str(tmp_path / "one")])
    assert next(read_shard(first).batches).table.equals(part)

    for split in ("train", "test"):
        saved_dataset(tmp_path / "dict" / split, [part])
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert files(tmp_path / "dict") == [f"{split}/data-00000-of-00001.arrow" for split in ("train", "test")]
    assert not unread(tmp_path / "dict")

    both = [f"data-0000{i}-of-00002.arrow" for i in (1, 0)]  # the order is that of the state, not that of the names
    saved_dataset(tmp_path / "dict" / "test2", [part, part], _data_files=[{"filename": name} for name in both])
    touch(tmp_path / "dict", "zeta.csv", "a.csv")
    assert files(tmp_path / "dict") == [
        "a.csv",
        "train/data-00000-of-00001.arrow",
        "test/data-00000-of-00001.arrow",
        *(f"test2/{name}" for name in both),
        "zeta.csv",
    ]

    saved_dataset(tmp_path / "chosen", [part], _indices_data_files=[{"filename": "indices.arrow"}])
    assert (
        not files(tmp_path / "chosen")
        and "selection of rows" in unread(tmp_path / "chosen")["data-00000-of-00001.arrow"]
    )
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(SourceError, match="lacks"):
        list_source(str(tmp_path / "one"))


def test_other_peoples_state_files_are_json_like_any_other(tmp_path: Path) -> None:
    touch(tmp_path, "state.json", "dataset_info.json")
    assert files(tmp_path) == ["dataset_info.json", "state.json"]


@pytest.mark.parametrize(
    ("kind", "sign"), [("Delta", "_delta_log/0.json"), ("Iceberg", "metadata/v1.metadata.json"), ("Hudi", ".hoodie/x")]
)
def test_tables_with_a_log_are_refused_and_named_where_they_lie_deeper(tmp_path: Path, kind: str, sign: str) -> None:
    touch(tmp_path, f"t/{sign}", "t/part.parquet", "a.csv")
    with pytest.raises(SourceError, match=f"table of {kind}.*export"):
        list_source(str(tmp_path / "t"))
    assert files(tmp_path) == ["a.csv"]
    assert kind in unread(tmp_path)["t/part.parquet"]
    assert files(tmp_path / "t" / "*.parquet") == ["part.parquet"]


def test_partition_values_are_typed_as_pyarrow_types_them(tmp_path: Path) -> None:
    layouts = [
        ["year=2018/lang=en", "year=2019/lang=de%20at", "year=-3/lang=__HIVE_DEFAULT_PARTITION__"],
        ["k=1", "k=x"],
        ["k=007", "k=8"],
        ["k=99999999999", "k=1"],
        ["k=1.5"],
        ["k=2020-01-01"],
    ]
    for number, folders in enumerate(layouts):
        names = [f"{folder}/p.parquet" for folder in folders]
        for name in names:
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True)
            pq.write_table(pa.table({"id": [name]}), path)
        theirs = ds.dataset(tmp_path / str(number), partitioning="hive").to_table().to_pylist()
        expected = [{key: value for key, value in row.items() if key != "id"} for row in theirs]
        mine = {name: dict(columns) for name, columns in zip(names, typed_partitions(names), strict=True)}
        assert [mine[row["id"]] for row in theirs] == expected


def test_partition_values_are_columns_of_the_result_and_order_keepers(tmp_path: Path) -> None:
    source, ws = tmp_path / "t", tmp_path / "ws"
    for year, vectors in ((2018, [1.0, 0.0]), (2019, [1.0, 0.01])):
        path = source / f"year={year}" / "lang=en" / "part-0.jsonl"
        write(path, [{"id": f"r{year}", "text": f"text of {year}", "v": vectors}])
    result = da.curate(source, workspace=ws, embedding_column="v", keep="column:year", mode="rebuild", threshold=0.9)
    (kept,) = result.kept.to_arrow().select(["id", "year", "lang"]).to_pylist()
    assert kept == {"id": "r2019", "year": 2019, "lang": "en"}
    sources = [shard["source"] for shard in read_manifest(Workspace.open(ws))["shards"]]
    assert sources == [f"year={year}/lang=en/part-0.jsonl" for year in (2018, 2019)]
    # A later call reads the same columns from the ledger.
    path = source / "year=2018" / "lang=en" / "part-0.jsonl"
    write(path, [{"id": "r2018", "text": "other", "v": [0.0, 1.0]}])
    again = da.curate(workspace=ws)
    assert again.summary["rows_in"] == 2
    again = da.curate(source, workspace=ws)
    assert sorted(again.kept.to_arrow().column("year").to_pylist()) == [2018, 2019]


def test_a_ledger_without_names_and_folders_gets_the_columns(tmp_path: Path) -> None:
    import sqlite3

    write(tmp_path / "a.jsonl", [{"id": "a", "text": "x"}])
    da.curate(tmp_path / "a.jsonl", workspace=tmp_path / "ws", embedding_column="v")
    with sqlite3.connect(tmp_path / "ws" / "ledger.sqlite") as connection:
        connection.execute("ALTER TABLE shard DROP COLUMN name")
        connection.execute("ALTER TABLE shard DROP COLUMN partition")
    write(tmp_path / "b.jsonl", [{"id": "b", "text": "y"}])
    assert da.curate(tmp_path / "b.jsonl", workspace=tmp_path / "ws").summary["shards"] == 2


# -- names -------------------------------------------------------------------------------------------

ODD = ["a::b", "zip::c", "s3:__d", "e%20f", "g#h", "i?j", "k[1]", "l*", "~m", "n o", "p;q", "memory:r", "ü", "s::t://u"]


def test_what_a_listing_returned_is_opened_as_listed(tmp_path: Path) -> None:
    for name in ODD:
        write(tmp_path / f"{name}.jsonl", [{"id": name, "text": f"text of {name}"}])
    found = discover([str(tmp_path)])
    assert sorted(file.uri for file in found) == sorted(str(tmp_path / f"{name}.jsonl") for name in ODD)
    for file in found:
        assert file_state(file.uri).size == os.path.getsize(file.uri)  # noqa: PTH202
        assert len(content_fingerprint(file)) == 32
        (row,) = next(read_shard(file).batches).table.column("id").to_pylist()
        assert file.uri == str(tmp_path / f"{row}.jsonl")
        assert discover([file.uri])[0].uri == file.uri, "named itself, as an absolute path"


def test_odd_names_on_a_remote_file_system_are_opened_as_listed_or_named() -> None:
    memory = fsspec.filesystem("memory")
    names = [name.replace("/", "_") for name in ODD if "://" not in name]
    for name in names:
        memory.pipe(f"/odd/{name}.jsonl", json.dumps({"id": name}).encode())
    try:
        listing = find_sources(["memory://odd"])
        assert {item.name for item in listing.unread} == {f"{name}.jsonl" for name in names if "::" in name}
        read = {next(read_shard(file).batches).table.column("id")[0].as_py() for file in listing.files}
        assert read == {name for name in names if "::" not in name}
    finally:
        memory.rm("/odd", recursive=True)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_file_in_an_archive_is_read_from_there(tmp_path: Path, kind: str) -> None:
    path, archive = tmp_path / "in" / "a.jsonl", tmp_path / f"packed.{kind}"
    write(path, [{"id": str(i), "text": "x" * i} for i in range(3_000)])
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.write(path, "a.jsonl")
    else:
        with tarfile.open(archive, "w") as packed_tar:
            packed_tar.add(path, "a.jsonl")
    for url in (f"{kind}://a.jsonl::{archive}", f"simplecache::{kind}://a.jsonl::file://{archive}"):
        (file,) = discover([url])
        assert sum(batch.table.num_rows for batch in read_shard(file).batches) == 3_000
        assert len(content_fingerprint(file)) == 32 and file_state(file.uri).marks


@pytest.mark.parametrize(
    "url", ["blockcache::file://{}/a.csv", "blockcache::zip://a.csv::{}/p.zip", "zip://a.csv::blockcache::file://{}/p"]
)
def test_a_cache_of_blocks_before_files_without_blocks_is_refused_by_name(tmp_path: Path, url: str) -> None:
    touch(tmp_path, "a.csv")
    with pytest.raises(SourceError, match=r"cannot be read in blocks\. Write filecache:: or simplecache::"):
        list_source(url.format(tmp_path))


# -- workspaces and outputs --------------------------------------------------------------------------


def test_a_workspace_inside_its_source_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", [{"id": "a", "text": "x"}])
    write(tmp_path / "b.jsonl", [{"id": "b", "text": "y", "v": [0.0, 1.0]}])
    for _ in range(3):
        result = da.curate(".", workspace="dedup-workspace", embedding_column="v", output=str(tmp_path / "published"))
        assert (result.summary["rows_in"], result.summary["shards"]) == (2, 2)
    assert set(result.summary["unread"]["by_reason"]) == {OWN}
    da.retract("shard:b", workspace="dedup-workspace")
    again = da.curate(".", workspace="dedup-workspace")
    assert again.kept.to_arrow().column("id").to_pylist() == ["a"]
    other = da.curate(".", workspace="another", embedding_column="v")
    assert other.summary["shards"] == 2
    for inside in ("published/deduplicated/a.parquet", "dedup-workspace/pairs"):
        with pytest.raises(SourceError, match="workspace or an output"):
            da.curate(inside, workspace="third", embedding_column="v")


def test_no_arrangement_of_workspace_output_links_and_sources_feeds_a_corpus_with_itself(tmp_path: Path) -> None:
    """Every place of the output, with links between all of them, named in every way."""
    rng = random.Random(7)
    where = {
        "inside the source": "src/out",
        "beside": "out",
        "in the workspace": "src/ws/output",
        "deep": "src/x/y/out",
    }
    for number, (place, link_out, link_ws) in enumerate(
        itertools.product(where.values(), (False, True), (False, True))
    ):
        root = tmp_path / str(number)
        write(root / "src" / "a.jsonl", [{"id": "a", "text": "x"}])
        write(root / "src" / "x" / "b.jsonl", [{"id": "b", "text": "y", "v": [0.0, 1.0]}])
        options = {"workspace": root / "src" / "ws", "embedding_column": "v", "output": str(root / place)}
        first = da.curate(root / "src", **options)
        assert (first.summary["rows_in"], first.summary["shards"]) == (2, 2)
        if link_out:
            (root / "src" / "l1").symlink_to(root / place)
            (root / "src" / "l2.parquet").symlink_to(root / place / "deduplicated" / "a.parquet")
        if link_ws:
            (root / "src" / "x" / "l3").symlink_to(root / "src" / "ws" / "raw")
        named = rng.choice(
            [str(root / "src"), str(root / "src" / "**" / "*"), f"file://{root}/src", str(root / "src" / ".")]
        )
        found = find_sources([named])
        assert {Path(file.uri).name for file in found.files} == {"a.jsonl", "b.jsonl"}, (place, named)


def test_own_folders_are_known_on_a_remote_file_system_too() -> None:
    memory = fsspec.filesystem("memory")
    for name in (
        "a.csv",
        "ws/.dedup-assets",
        "ws/raw/x.parquet",
        "old/curation.toml",
        "old/ledger.sqlite",
        "old/p.parquet",
    ):
        memory.pipe(f"/own/{name}", b"id,text\n")
    try:
        found = find_sources(["memory://own"])
        assert [file.key for file in found.files] == ["a"]
        assert {item.name for item in found.unread} == {
            "ws/raw/x.parquet",
            "old/curation.toml",
            "old/ledger.sqlite",
            "old/p.parquet",
        }
        assert not find_sources(["memory://own/*.csv"]).unread
    finally:
        memory.rm("/own", recursive=True)


SIGNS = {
    "marked": {".dedup-assets": MARKER_TEXT.encode()},
    "workspace before there was a marker": {"curation.toml": b"", "ledger.sqlite": b"SQLite format 3\0"},
    "output before there was a marker": {"manifest.json": b"{}", "generations/1/m.json": b"{}"},
}


@pytest.mark.parametrize("signs", SIGNS.values(), ids=SIGNS)
def test_a_url_that_leads_into_an_own_folder_is_refused(signs: dict[str, bytes]) -> None:
    memory = fsspec.filesystem("memory")
    for name, content in {**signs, "raw/x.csv": b"id,text\n1,a\n"}.items():
        memory.pipe(f"/up/ws/{name}", content)
    memory.pipe("/up/a.csv", b"id,text\n1,a\n")
    memory.pipe("/up/.dedup-assets", b"<html>a server that answers to every name</html>")
    try:
        for url in ("ws", "ws/raw", "ws/raw/x.csv", "ws/raw/*.csv"):
            with pytest.raises(SourceError, match="workspace or an output"):
                list_source(f"memory://up/{url}")
        memory.rm("/up/.dedup-assets")
        for glob, names in (("**/*.csv", {"a.csv"}), ("*/raw/*.csv", set())):
            listing = list_source(f"memory://up/{glob}")
            assert {file.name for file in listing.files} == names
            assert {item.name: item.reason for item in listing.unread} == {"ws/raw/x.csv": OWN}
    finally:
        memory.rm("/up", recursive=True)


def test_an_archive_in_an_own_folder_and_an_own_folder_in_an_archive_are_refused(tmp_path: Path) -> None:
    for archive, inside in ((tmp_path / "ws" / "p.zip", "a.csv"), (tmp_path / "p.zip", "ws/raw/a.csv")):
        archive.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(inside, "id,text\n1,a\n")
            packed.writestr("ws/.dedup-assets", MARKER_TEXT)
        (tmp_path / "ws" / ".dedup-assets").write_text(MARKER_TEXT)
        with pytest.raises(SourceError, match="workspace or an output"):
            list_source(f"zip://{inside}::{archive}")


# -- moved corpora -----------------------------------------------------------------------------------


def test_the_same_content_at_another_address_continues_and_other_content_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "old" / f"{name}.jsonl", [{"id": name, "text": f"text {name}"}])
    da.curate(tmp_path / "old", workspace=tmp_path / "ws", embedding_column="v")
    (tmp_path / "old").rename(tmp_path / "new")
    moved = da.curate(tmp_path / "new", workspace=tmp_path / "ws")
    assert moved.summary["shards"] == 2 and set(moved.summary["moved"]) == {"a", "b"}
    assert moved.summary["moved"]["a"] == tuple(str(tmp_path / part / "a.jsonl") for part in ("old", "new"))
    assert not da.curate(tmp_path / "new", workspace=tmp_path / "ws").summary["moved"]
    write(tmp_path / "third" / "a.jsonl", [{"id": "a", "text": "other"}])
    with pytest.raises(WorkspaceError, match="collides"):
        da.curate(tmp_path / "third", workspace=tmp_path / "ws")


def test_a_file_that_was_never_read_does_not_keep_its_name(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.parquet").write_bytes(b"PAR1")
    da.curate(tmp_path / "bad", workspace=tmp_path / "ws", embedding_column="v", check=False)
    write(tmp_path / "good" / "a.jsonl", [{"id": "a", "text": "x"}])
    assert da.curate(tmp_path / "good", workspace=tmp_path / "ws").summary["shards"] == 1
