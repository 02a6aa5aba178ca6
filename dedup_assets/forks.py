"""Refuses to compute in a process that was forked from one that has computed.

The threads of torch, OpenMP, LanceDB and Dask do not exist in such a process, and their locks stay locked: the first
call of one of these libraries would hang.
"""

from __future__ import annotations

import os

from dedup_assets.errors import DedupError

_computing: int | None = None


def require_own_threads() -> None:
    """Note that this process computes. Raises DedupError if it was forked from one that did."""
    global _computing
    if _computing is None:
        _computing = os.getpid()
    elif _computing != os.getpid():
        raise DedupError(
            f"This process was forked from process {_computing}, which has computed before: the threads of its "
            "libraries are not here, and this would hang. Start it by multiprocessing.get_context('spawn'), or with "
            "subprocess."
        )
