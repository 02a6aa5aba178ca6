"""Promises of publishing: the old or the new and never a half, whatever happens to the writer."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dedup_assets.errors import WorkspaceError
from dedup_assets.storage import publish
from dedup_assets.storage.publish import (
    exclusive_lock,
    publish_file,
    publish_folder,
    publish_json,
    publish_text,
    sweep_temporary,
    temporary_beside,
)

PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from dedup_assets.storage import publish
target = Path(sys.argv[1])
def die(*ignored, **ignored_too):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A separate process that runs `script` after the prelude."""
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def leftovers(folder: Path) -> list[Path]:
    return sorted(folder.rglob(".tmp-*"))


# -- readers -----------------------------------------------------------------------------------------


def test_a_reader_never_sees_a_half_written_file(tmp_path: Path) -> None:
    target, size = tmp_path / "part.bin", 200_000
    publish_file(target, lambda path: path.write_bytes(b"a" * size))
    done = threading.Event()
    halves: list[bytes] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not done.is_set():
            content = target.read_bytes()
            reads += 1
            if len(content) != size or content.count(content[:1]) != size:
                halves.append(content)

    def write_slowly(path: Path, letter: bytes) -> None:
        with path.open("wb") as file:
            for _ in range(10):
                file.write(letter * (size // 10))
                file.flush()
                time.sleep(0.0005)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        publish_file(target, lambda path, turn=turn: write_slowly(path, b"ab"[turn % 2 : turn % 2 + 1]))
    done.set()
    reader.join()
    assert reads > 60
    assert not halves
    assert [path.name for path in tmp_path.iterdir()] == ["part.bin"]


def test_a_reader_never_sees_a_folder_without_all_its_files(tmp_path: Path) -> None:
    done = threading.Event()
    counts: set[int] = set()

    def read() -> None:
        while not done.is_set():
            for folder in tmp_path.glob("shard-*"):
                counts.add(len(list(folder.iterdir())))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        with publish_folder(tmp_path / f"shard-{turn}") as temporary:
            for name in "abcd":
                (temporary / name).write_text(name)
    done.set()
    reader.join()
    assert counts == {4}


def test_what_is_being_written_is_invisible_to_readers_of_the_folder(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, 3]})
    publish_file(tmp_path / "one.parquet", lambda path: pq.write_table(table, path))

    def look(path: Path) -> None:
        path.write_bytes(b"PAR1 half of a file")
        assert ds.dataset(tmp_path, format="parquet").to_table().num_rows == 3
        assert pq.read_table(tmp_path).num_rows == 3
        pq.write_table(table, path)
        assert pq.read_table(tmp_path).num_rows == 3

    publish_file(tmp_path / "two.parquet", look)
    with publish_folder(tmp_path / "three") as temporary:
        pq.write_table(table, temporary / "part.parquet")
        assert ds.dataset(tmp_path, format="parquet").to_table().num_rows == 6
    assert ds.dataset(tmp_path, format="parquet").to_table().num_rows == 9


def test_equal_values_give_equal_json_bytes(tmp_path: Path) -> None:
    publish_json(tmp_path / "a.json", {"b": [1, "é"], "a": {"y": 1, "x": 2}})
    publish_json(tmp_path / "b.json", {"a": {"x": 2, "y": 1}, "b": [1, "é"]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"a": {"x": 2, "y": 1}, "b": [1, "é"]}


# -- writers that fail -------------------------------------------------------------------------------


def test_a_file_writer_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "part"

    def broken(path: Path) -> None:
        path.write_text("half")
        raise KeyError("a defect")

    with pytest.raises(KeyError, match="a defect"):
        publish_file(target, broken)
    assert list(target.parent.iterdir()) == []
    publish_text(target, "old")
    with pytest.raises(KeyError, match="a defect"):
        publish_file(target, broken)
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_writer_that_raises_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), publish_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("half")
        raise KeyError("a defect")
    assert list(tmp_path.iterdir()) == []


def test_a_published_folder_never_changes(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("first", "second"):
        with publish_folder(target) as temporary:
            (temporary / "a").write_text(content)
    assert (target / "a").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


# -- processes that die ------------------------------------------------------------------------------

KILLED_IN_FILE = {
    "while writing": "publish.publish_file(target, lambda path: (path.write_text('ne'), die()))",
    "before the sync": "publish.sync_file = die; publish.publish_text(target, 'new')",
    "before the rename": "Path.replace = die; publish.publish_text(target, 'new')",
    "after the rename": "publish.sync_folder = die; publish.publish_text(target, 'new')",
}


@pytest.mark.parametrize("moment", KILLED_IN_FILE)
def test_a_process_killed_in_publish_file_leaves_the_old_or_the_new_and_is_swept(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "deep" / "part.txt"
    publish_text(target, "old")
    assert child(KILLED_IN_FILE[moment], target).wait(30) == -signal.SIGKILL
    renamed = moment == "after the rename"
    assert target.read_text() == ("new" if renamed else "old")
    assert len(leftovers(tmp_path)) == (0 if renamed else 1)
    assert sweep_temporary(tmp_path) == (0 if renamed else 1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [target]
    publish_text(target, "new")
    assert target.read_text() == "new"


KILLED_IN_FOLDER = {
    "while writing": "die()",
    "before the sync": "publish.sync_file = die",
    "before the rename": "Path.rename = die",
    "after the rename": "publish.sync_folder = lambda path, real=publish.sync_folder: "
    "die() if path == target.parent else real(path)",
}


@pytest.mark.parametrize("moment", KILLED_IN_FOLDER)
def test_a_process_killed_in_publish_folder_leaves_nothing_or_all_and_is_swept(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "deep" / "folder"
    script = f"""
with publish.publish_folder(target) as temporary:
    (temporary / "a").write_text("1")
    (temporary / "b").write_text("2")
    {KILLED_IN_FOLDER[moment]}
"""
    assert child(script, target).wait(30) == -signal.SIGKILL
    renamed = moment == "after the rename"
    assert target.exists() == renamed
    assert sweep_temporary(tmp_path) == (0 if renamed else 1)
    assert leftovers(tmp_path) == []
    with publish_folder(target) as temporary:
        (temporary / "a").write_text("1")
        (temporary / "b").write_text("2")
    assert {path.name: path.read_text() for path in target.iterdir()} == {"a": "1", "b": "2"}


def test_the_sweep_leaves_what_a_living_process_is_writing(tmp_path: Path) -> None:
    script = """
with publish.publish_folder(target) as temporary:
    (temporary / "a").write_text("1")
    print("writing", flush=True)
    time.sleep(60)
"""
    living = child(script, tmp_path / "folder")
    try:
        assert living.stdout is not None and living.stdout.readline() == "writing\n"
        mine = temporary_beside(tmp_path / "mine")
        mine.write_text("half")
        assert sweep_temporary(tmp_path) == 0
        assert len(leftovers(tmp_path)) == 2
    finally:
        living.kill()
        living.wait(30)
    assert sweep_temporary(tmp_path) == 1
    assert leftovers(tmp_path) == [mine]


def test_the_sweep_leaves_other_hosts_and_names_that_are_not_its_own(tmp_path: Path) -> None:
    dead = child("", tmp_path)
    dead.wait(30)
    swept = temporary_beside(tmp_path / "x").name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    others = [
        swept.replace(".tmp-", ".tmp-another_host-", 1),
        ".tmp-mine",
        f".tmp-{dead.pid}",
        swept[1:],
        f"{swept}x",
    ]
    for name in (swept, *others):
        (tmp_path / name).write_text("content")
    assert sweep_temporary(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == set(others)
    assert sweep_temporary(tmp_path / "not there") == 0


def test_a_shallow_sweep_stays_in_its_folder(tmp_path: Path) -> None:
    assert child(KILLED_IN_FILE["while writing"], tmp_path / "sub" / "a").wait(30) == -signal.SIGKILL
    assert sweep_temporary(tmp_path, deep=False) == 0
    assert sweep_temporary(tmp_path / "sub", deep=False) == 1


def test_the_sweep_runs_beside_processes_that_publish(tmp_path: Path) -> None:
    done = threading.Event()
    published = 0

    def write(writer: int) -> None:
        nonlocal published
        while not done.is_set():
            with publish_folder(tmp_path / f"{published % 50}" / f"{writer}-{published}") as temporary:
                (temporary / "nested").mkdir()
            published += 1

    writers = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for writer in writers:
        writer.start()
    try:
        ends = time.monotonic() + 1.5
        while time.monotonic() < ends:
            assert sweep_temporary(tmp_path) == 0
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert published > 0
    assert leftovers(tmp_path) == []


def test_a_lock_lets_one_process_in_at_a_time(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    script = """
for _ in range(25):
    with publish.exclusive_lock(target.parent / "locks" / "counter"):
        count = int(target.read_text())
        time.sleep(0.001)
        target.write_text(str(count + 1))
"""
    children = [child(script, counter) for _ in range(3)]
    assert [process.wait(60) for process in children] == [0, 0, 0]
    assert counter.read_text() == "75"


def test_a_lock_lets_one_thread_in_at_a_time(tmp_path: Path) -> None:
    inside, seen = 0, []

    def work() -> None:
        nonlocal inside
        for _ in range(20):
            with exclusive_lock(tmp_path / "lock"):
                inside += 1
                time.sleep(0.0005)
                seen.append(inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 60


def test_a_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive_lock(tmp_path / "lock"):
        raise KeyError
    with exclusive_lock(tmp_path / "lock"):
        pass


def test_a_lock_is_freed_when_its_holder_is_killed(tmp_path: Path) -> None:
    script = """
with publish.exclusive_lock(target):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = child(script, tmp_path / "lock")
    entered = threading.Event()

    def enter() -> None:
        with exclusive_lock(tmp_path / "lock"):
            entered.set()

    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        waiting = threading.Thread(target=enter, daemon=True)
        waiting.start()
        assert not entered.wait(0.3)
    finally:
        holder.kill()
        holder.wait(30)
    assert entered.wait(10)
    waiting.join(10)


# -- links and second names --------------------------------------------------------------------------


def test_a_link_is_turned_in_one_step_and_leads_where_it_says(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    link = tmp_path / "current"
    publish.publish_link(link, "one")
    assert (link / "file").read_text() == "one"
    publish.publish_link(link, "two")
    publish.publish_link(link, "two")
    assert link.is_symlink() and (link / "file").read_text() == "two"
    assert (tmp_path / "one" / "file").read_text() == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "one", "two"]


def test_a_folder_where_a_link_belongs_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    with pytest.raises(WorkspaceError, match=r"current is in the way: a link .*another output"):
        publish.publish_link(tmp_path / "current", "one")
    assert (tmp_path / "current").is_dir() and not (tmp_path / "current").is_symlink()


def test_a_link_that_a_killed_process_left_is_swept_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file").write_text("one")
    left = publish.temporary_beside(tmp_path / "current")
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", "-999999999-"))
    left.symlink_to("one")
    assert publish.sweep_temporary(tmp_path) == 1
    assert not left.is_symlink() and (tmp_path / "one" / "file").read_text() == "one"


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_has_the_content_of_the_first(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, source: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refused)
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_text("content")
    publish.publish_copy(target, source)
    publish.publish_copy(target, source)
    assert target.read_text() == "content" and target.samefile(source) == links
    assert [path.name for path in target.parent.iterdir()] == ["target"]


# -- locks that others look at -----------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from dedup_assets.storage.publish import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), shared=True):
    print("held", flush=True)
    time.sleep(600)
"""


def test_who_waits_for_a_lock_says_who_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(publish, "FIRST_SAID", 0.2)
    monkeypatch.setattr(publish, "SAID_AGAIN", 0.2)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "lock"], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    threading.Timer(1.5, holder.kill).start()
    with publish.exclusive_lock(tmp_path / "lock"):
        said = capfd.readouterr().err
    holder.wait()
    assert f"Waiting for {tmp_path / 'lock'}, held by process {holder.pid} (python" in said
    assert 3 <= said.count("Waiting for") <= 8


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_reader_who_may_not_write_cannot_hold_a_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch(0o644)  # as an earlier version made it
    with publish.exclusive_lock(lock):
        pass
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    code = f"import os; os.setuid(65534); os.open({str(lock)!r}, os.O_RDONLY)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PermissionError" in done.stderr and stat.S_IMODE(lock.stat().st_mode) == 0o600
