"""Whether the process of a run is still alive.

Dagster cannot see that a local process was killed: its run counts as started until it is reported otherwise, and until
then blocks the next run and its shards. Therefore a run holds a lock of the operating system, which ends with its
process. The module does not use Dagster.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dedup_assets.storage.publish import storage_errors


def _path(root: Path, run_id: str) -> Path:
    return root / "locks" / "runs" / run_id


@contextmanager
def holding_run(root: Path, run_id: str) -> Iterator[None]:
    """Mark, for the duration of the block, that this process works on a run in the workspace at `root`. Blocks of one
    run may overlap, in one or several processes: the last one removes the mark."""
    path = _path(root, run_id)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.pwrite(descriptor, socket.gethostname().encode(), 0)
        yield
    finally:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        os.close(descriptor)


def has_died(root: Path, run_id: str) -> bool:
    """Whether the process of a run is known to be gone.

    Also False if that is unknown: the run has not begun, has just ended, or belongs to another machine, whose locks are
    not always visible here.
    """
    try:
        descriptor = os.open(_path(root, run_id), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        if os.pread(descriptor, 255, 0) != socket.gethostname().encode():
            return False
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.fstat(descriptor).st_nlink > 0  # a run that ends removes its file before it releases the lock
        return False
    finally:
        os.close(descriptor)


def forget_run(root: Path, run_id: str) -> None:
    """Remove the mark of a dead run, once its death is recorded."""
    _path(root, run_id).unlink(missing_ok=True)
