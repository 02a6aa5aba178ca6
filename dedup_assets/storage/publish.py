"""Atomic publication: write under a temporary name, sync, rename. Readers see the old or the new content, never a
mixture.

Temporary names begin with a dot, so that every reader of a folder (pyarrow, fsspec, shells) skips them. They contain
the process id, which distinguishes leftovers of a killed process from files that a living one is writing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dedup_assets.errors import WorkspaceError
from dedup_assets.interrupts import raise_interrupt

FIRST_SAID, SAID_AGAIN = 10.0, 60.0
"""Seconds after which a wait for a lock is first reported, and then reported again."""

_TEMPORARY = re.compile(r"^\.tmp-(?P<host>[0-9A-Za-z_-]+)-(?P<pid>\d+)-[0-9a-f]{8}(?P<ending>-.*)?$", re.DOTALL)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
_HOST = re.sub(r"[^0-9A-Za-z_]", "_", socket.gethostname())


@contextmanager
def storage_errors(where: Path | str) -> Iterator[None]:
    """Turn errors of the operating system (full disk, no permission) into errors that say what to do."""
    try:
        yield
    except WorkspaceError:
        raise
    except Exception as problem:  # LanceDB reports a full disk in errors of several types
        if not isinstance(problem, OSError) and _reason(problem) != errno.ENOSPC:
            raise
        advice = {
            errno.ENOSPC: "the disk is full: free space or choose another workspace or output, and run "
            "the same command again; nothing half-written was published",
            errno.EDQUOT: "the disk quota is used up: free space and run the same command again",
            errno.EACCES: "no permission to write there: choose another folder or change its permissions",
            errno.EPERM: "no permission to write there: choose another folder or change its permissions",
            errno.EROFS: "the file system is read-only: choose another folder",
            errno.ENOTDIR: "a part of this path is a file, not a folder: choose another folder",
            errno.EEXIST: "a file is in the way where a folder is needed: choose another folder",
        }.get(_reason(problem))
        if advice is None:
            raise
        raise WorkspaceError(f"Cannot write {getattr(problem, 'filename', None) or where}: {advice}.") from problem


def _reason(problem: Exception) -> int:
    """The error number; numpy and LanceDB report a full disk without one."""
    number = getattr(problem, "errno", None)
    if number is None and (_SHORT_WRITE.match(str(problem)) or "No space left on device" in str(problem)):
        return errno.ENOSPC
    return number or 0


def temporary_beside(target: Path) -> Path:
    """A fresh temporary name in the folder of `target`, so that the rename stays on one file system."""
    return target.parent / f".tmp-{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


sync_folder = sync_file  # a folder's entries are synced through a descriptor of the folder


def publish_file(target: Path, write: Callable[[Path], Any], *, sync: bool = True) -> None:
    """Call `write` with a temporary path, then sync the file and rename it to `target`. A link needs no sync."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(target)
        try:
            write(temporary)
            if sync:
                sync_file(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(target.parent)


def publish_text(target: Path, text: str) -> None:
    """Publish a small UTF-8 text file."""
    publish_file(target, lambda path: path.write_text(text, encoding="utf-8"))


def publish_json(target: Path, value: Any) -> None:
    """Publish a value as JSON: sorted keys, so that equal values give equal bytes."""
    publish_text(target, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def publish_link(target: Path, to: str) -> None:
    """Make `target` a symbolic link to `to`; an existing link is replaced in one step.

    Raises WorkspaceError if a file or a folder is in the way.
    """
    if target.is_symlink() and target.readlink() == Path(to):
        return
    if target.exists() and not target.is_symlink():
        raise WorkspaceError(
            f"{target} is in the way: a link to what is published belongs there. Move it, or choose another output."
        )
    publish_file(target, lambda temporary: temporary.symlink_to(to), sync=False)


def publish_copy(target: Path, source: Path) -> None:
    """Publish an already published file under a second name; they share the content, because neither changes."""

    def link(temporary: Path) -> None:
        try:
            temporary.hardlink_to(source)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, temporary)

    publish_file(target, link)


@contextmanager
def publish_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder; when the block ends well, sync all of it and rename it to `target`.

    A folder cannot be replaced in one step, so published folders never change: if `target` already exists, another
    process published the same content first, and this copy is dropped.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(target)
        temporary.mkdir()
        try:
            yield temporary
            for path in temporary.iterdir():
                sync_file(path)
            sync_folder(temporary)
            try:
                temporary.rename(target)
            except OSError as problem:
                if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            sync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A name for a temporary folder, which is removed at the end if it exists, and swept later if the process dies."""
    folder = temporary_beside(parent / "any")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def identity(folder: Path) -> tuple[int, int, int]:
    """Distinguishes a published folder from an earlier one of the same name: device, inode, time of change.

    A published folder never changes, but a workspace may be deleted and created again; caches use this as a key.
    """
    found = folder.stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns


def sweep_temporary(folder: Path, *, deep: bool = True) -> int:
    """Remove the leftovers of killed processes of this host in `folder` and, if `deep`, in the folders below it.

    Returns how many entries were removed. If another process has the process id meanwhile, the leftover waits for a
    later sweep.
    """
    swept = 0
    # Others publish meanwhile, so folders vanish during the walk: os.walk skips them, Path.rglob fails.
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            found = _TEMPORARY.match(name)
            if found is None or found["host"] != _HOST or _alive(int(found["pid"])):
                continue
            path = Path(parent, name)
            if name in folders and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            swept += 1
        folders[:] = [name for name in folders if deep and _TEMPORARY.match(name) is None]
    return swept


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def exclusive_lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock among processes and threads, exclusively or shared. The kernel frees it when its holder dies. A
    process that waits reports the holder.

    Only the owner can read the file, because any process that can read a file can lock it.

    Raises WorkspaceError in a process that multiprocessing is starting: its parent may hold the lock and wait for it.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if (state := os.fstat(descriptor)).st_mode & 0o077 and state.st_uid == os.geteuid():
            os.fchmod(descriptor, 0o600)  # created by an earlier version
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        # The flag that multiprocessing itself uses while it imports the parent's script.
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                raise WorkspaceError(
                    f"{path} is locked, and this process has just been started by multiprocessing, which imports the "
                    "script of its parent and so runs it again. Put what the script does under "
                    "`if __name__ == '__main__':`."
                ) from problem
        _wait_for(path, descriptor, kind)
        try:
            yield
        finally:
            # A process forked meanwhile also has the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _wait_for(path: Path, descriptor: int, kind: int) -> None:
    """Take a lock; after ten seconds, and every minute from then on, say who holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        raise_interrupt()  # an earlier interrupt would not end the wait
    taken = threading.Event()

    def tell() -> None:
        waited, pause = 0.0, FIRST_SAID
        while not taken.wait(pause):
            waited, pause = waited + pause, SAID_AGAIN
            print(f"Waiting for {path}, held by {_holders(descriptor)} ({waited:g} s so far)", file=sys.stderr)

    threading.Thread(target=tell, name="dedup-assets-lock", daemon=True).start()
    try:
        fcntl.flock(descriptor, kind)
    finally:
        taken.set()


def _holders(descriptor: int) -> str:
    """The processes that hold a lock on an open file, as far as the system tells."""
    state = os.fstat(descriptor)
    mine = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
    found = []
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1:2] == ["FLOCK"] and words[5:6] == [mine]:
                name = Path(f"/proc/{words[4]}/comm")
                found.append(f"process {words[4]}" + (f" ({name.read_text().strip()})" if name.is_file() else ""))
    except (OSError, IndexError):
        return "another process"
    return ", ".join(found) or "another process"


def checksum(path: Path) -> str:
    """32 hex digits of BLAKE2b-128 over a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
