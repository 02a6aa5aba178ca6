"""A full disk, a refused folder, a file in the way: what publishing says, and that nothing half-written stays."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup_assets.errors import WorkspaceError
from dedup_assets.storage import publish
from dedup_assets.storage.embeddings import EmbeddingTable
from dedup_assets.storage.publish import (
    exclusive_lock,
    publish_file,
    publish_folder,
    publish_text,
    storage_errors,
)
from dedup_assets_tests.storage.test_publish import child


def numpy_file(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(10**6))


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("x" * 10**6),
    "numpy": numpy_file,
    "parquet": lambda path: pq.write_table(pa.table({"a": np.random.default_rng(0).random(10**5)}), path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_an_error_that_says_what_to_do_and_nothing_half_written_stays(
    small_disk: Path, writer: str
) -> None:
    old = small_disk / "part"
    publish_text(old, "old")
    with pytest.raises(WorkspaceError, match=r"disk is full: free space .* run the same command again"):
        publish_file(old, WRITERS[writer])
    with (
        pytest.raises(WorkspaceError, match="disk is full"),
        publish_folder(small_disk / "folder") as temporary,
    ):
        WRITERS[writer](temporary / "part")
    assert old.read_text() == "old"
    assert list(small_disk.iterdir()) == [old]


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (errno.ENOSPC, "the disk is full: free space"),
        (errno.EDQUOT, "quota is used up: free space"),
        (errno.EACCES, "no permission to write there: choose another folder"),
        (errno.EPERM, "no permission to write there: choose another folder"),
        (errno.EROFS, "read-only: choose another folder"),
    ],
)
def test_a_refusal_of_the_disk_names_the_place_and_the_way_out(
    tmp_path: Path, reason: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "part"
    publish_text(target, "old")

    def refuse(path: Path) -> None:
        raise OSError(reason, os.strerror(reason), str(path))

    monkeypatch.setattr(publish, "sync_file", refuse)
    with pytest.raises(WorkspaceError, match=advice) as refused:
        publish_text(target, "new")
    assert f"Cannot write {tmp_path}" in str(refused.value)
    assert isinstance(refused.value.__cause__, OSError)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_one_may_not_write_to_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    script = """
from dedup_assets.errors import WorkspaceError
if os.getuid() == 0:  # permission bits do not bind root
    os.setgid(65534)
    os.setuid(65534)
try:
    publish.publish_text(target, "new")
except WorkspaceError as refused:
    print(refused)
"""
    output, problems = child(script, folder / "part").communicate(timeout=30)
    assert problems == ""
    assert f"Cannot write {folder}" in output
    assert "no permission to write there: choose another folder or change its permissions" in output
    assert list(folder.iterdir()) == []


def test_a_file_where_a_folder_is_needed_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with pytest.raises(WorkspaceError, match=r"Cannot write .*/file.*: .* choose another folder"):
        publish_text(tmp_path / "file" / "part", "new")
    with (
        pytest.raises(WorkspaceError, match=r"Cannot write .*/file.*: .* choose another folder"),
        publish_folder(tmp_path / "file" / "deeper" / "folder"),
    ):
        pass
    with (
        pytest.raises(WorkspaceError, match=r"Cannot write .*/file.*: .* choose another folder"),
        exclusive_lock(tmp_path / "file" / "lock"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "content"


def test_an_error_without_a_known_remedy_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path):
        (tmp_path / "absent").read_text()
    with pytest.raises(OSError, match="no number"), storage_errors(tmp_path):
        raise OSError("no number")


# -- locks -------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_inside_the_table_of_embeddings_is_said_in_the_same_words(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        table = EmbeddingTable(folder / "lancedb", 64, "float32")
        hashes = np.arange(40_000, dtype=np.uint64).reshape(-1, 2)
        rows = table.rows([str(i) for i in range(20_000)], ["s"] * 20_000, hashes, np.ones((20_000, 64), np.float32))
        table.known()
        for unknown in (True, False):
            with pytest.raises(WorkspaceError, match=r"disk is full: free space .* run the same command again"):
                table.add([rows], unknown=unknown)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
