"""Promises of finding and naming shard files."""

from __future__ import annotations

import hashlib
import os
import sys
from importlib import import_module
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_assets.errors import SourceError
from dedup_assets.ingest.source_files import SourceFile, content_fingerprint, open_source
from dedup_assets.ingest.sources import SHARD_KEY_PATTERN, discover, shard_key, validate_shard_key


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def keys(sources: list[SourceFile]) -> list[str]:
    return [source.key for source in sources]


def test_a_folder_is_searched_for_known_endings_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "part-10.jsonl", "part-2.jsonl", "part-1.parquet", "README.md", ".hidden.csv", ".x/a.csv")
    touch(tmp_path, "sub/part-3.csv.gz")
    found = discover([str(tmp_path)])
    assert keys(found)[:3] == ["part-1", "part-2", "part-10"]
    assert found[3].key.startswith("sub_part-3-")
    assert (found[3].format, found[3].compression) == ("csv", "gzip")
    assert all(Path(source.uri).is_absolute() for source in found)


@pytest.mark.parametrize(
    ("name", "file_format", "compression"),
    [
        ("a.parquet", "parquet", None),
        ("a.jsonl", "jsonl", None),
        ("a.json", "jsonl", None),
        ("a.json.gz", "jsonl", "gzip"),
        ("a.jsonl.gz", "jsonl", "gzip"),
        ("a.json.zst", "jsonl", "zstd"),
        ("a.jsonl.zst", "jsonl", "zstd"),
        ("a.csv", "csv", None),
        ("a.csv.gz", "csv", "gzip"),
        ("a.csv.zst", "csv", "zstd"),
        ("a.JSONL", "jsonl", None),
    ],
)
def test_the_ending_tells_format_and_compression(
    tmp_path: Path, name: str, file_format: str, compression: str | None
) -> None:
    touch(tmp_path, name)
    uri = str(tmp_path / name)
    assert discover([uri]) == [SourceFile("a", uri, file_format, compression)]


def test_sources_keep_their_order_and_a_file_named_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "b.csv", "a.csv", "c.csv")
    found = discover([str(tmp_path / "c.csv"), str(tmp_path), str(tmp_path / "x" / ".." / "b.csv")])
    assert keys(found) == ["c", "a", "b"]


def test_globs_find_files_of_one_folder_and_of_many(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.csv", "one/b.csv", "two/a.csv", "one/notes.md")
    assert keys(discover([str(tmp_path / "one" / "*")])) == ["a", "b"]
    many = discover([str(tmp_path / "*" / "a.csv")])
    assert [key.rsplit("-", 1)[0] for key in keys(many)] == ["one_a", "two_a"]


def test_an_existing_file_with_glob_characters_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].csv", "a1.csv")
    assert [source.uri for source in discover([str(tmp_path / "a[1].csv")])] == [str(tmp_path / "a[1].csv")]


def test_fsspec_urls_name_files_folders_and_globs() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/part-2.jsonl", b"two")
    memory.pipe("/corpus/part-10.jsonl", b"ten")
    memory.pipe("/corpus/.hidden.jsonl", b"")
    try:
        for url in ("memory://corpus", "memory://corpus/part-*.jsonl"):
            found = discover([url])
            assert keys(found) == ["part-2", "part-10"]
        (one,) = discover(["memory://corpus/part-2.jsonl"])
        assert one == found[0]
        assert open_source(one).read() == b"two"
        assert content_fingerprint(one) == hashlib.blake2b(b"two", digest_size=16).hexdigest()
        with pytest.raises(SourceError, match="does not exist"):
            discover(["memory://corpus/none.jsonl"])
    finally:
        memory.rm("/corpus", recursive=True)


def test_a_file_system_that_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, url in (("huggingface_hub", "hf://datasets/org/name"), ("s3fs", "s3://bucket/a.jsonl")):
        monkeypatch.delitem(import_module("fsspec.registry")._registry, url.partition(":")[0], raising=False)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(SourceError, match=rf"not installed: .*`pip install {module}`"):
            discover([url])


def test_a_file_url_is_the_local_path(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv")
    assert discover([f"file://{tmp_path}/a.csv"]) == discover([str(tmp_path / "a.csv")])


def test_errors_say_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path, "notes.md")
    with pytest.raises(SourceError, match=r"\.parquet, \.jsonl"):
        discover([str(tmp_path)])
    with pytest.raises(SourceError, match="does not exist"):
        discover([str(tmp_path / "none.csv")])
    with pytest.raises(SourceError, match="unknown ending"):
        discover([str(tmp_path / "notes.md")])
    with pytest.raises(SourceError, match="no shard files"):
        discover([str(tmp_path / "*.csv")])
    with pytest.raises(SourceError, match="no source"):
        discover([])
    with pytest.raises(SourceError, match=r"cannot be listed|not installed"):
        discover(["nosuchprotocol://x"])


@pytest.mark.parametrize(("one", "other"), [("a.csv", "a.jsonl"), ("Part.csv", "part.jsonl")])
def test_two_files_with_the_same_key_are_refused_by_name(tmp_path: Path, one: str, other: str) -> None:
    touch(tmp_path, one, other)
    with pytest.raises(SourceError) as caught:
        discover([str(tmp_path)])
    assert one in str(caught.value) and other in str(caught.value) and "Rename" in str(caught.value)


def test_same_names_in_two_folders_are_refused_apart_and_accepted_below_one_source(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.csv", "y/a.csv")
    with pytest.raises(SourceError, match="same shard key"):
        discover([str(tmp_path / "x"), str(tmp_path / "y")])
    assert len(discover([str(tmp_path)])) == 2


@pytest.mark.parametrize("name", ["with space", "a..b", "größe", "new\nline", "文書", "a'; drop", "x" * 200])
def test_odd_file_names_get_safe_keys_that_differ_from_their_neighbours(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"{name}.csv", f"{name}+.csv")
    first, second = discover([str(tmp_path)])
    for key in (first.key, second.key):
        assert validate_shard_key(key) == key
    assert first.key.casefold() != second.key.casefold()


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"a\xff.csv")  # noqa: PTH118 - bytes have no Path
    Path(os.fsdecode(path)).write_bytes(b"")
    with pytest.raises(SourceError, match="not valid UTF-8"):
        discover([str(tmp_path)])


@given(st.text(min_size=1, max_size=150))
def test_every_name_gets_a_valid_key_that_depends_on_the_name_alone(name: str) -> None:
    key = shard_key(name)
    assert SHARD_KEY_PATTERN.match(key) and ".." not in key and "\n" not in key
    assert shard_key(name) == key


@given(st.sets(st.text(alphabet="ab./ é", min_size=1, max_size=6), min_size=2, max_size=40))
def test_different_names_have_different_keys(names: set[str]) -> None:
    assert len({shard_key(name) for name in names}) == len(names)


@pytest.mark.parametrize("key", ["", "../up", "a/b", ".a", "a..b", "a b", "a\n", "é", "x" * 121])
def test_invalid_keys_are_refused(key: str) -> None:
    with pytest.raises(SourceError, match="not a valid shard key"):
        validate_shard_key(key)
