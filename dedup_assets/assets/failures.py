"""Whether a failure affects one shard, which then fails alone, or all shards."""

from __future__ import annotations

import errno

from dedup_assets.errors import DedupError, ShardError, SourceError

_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)


class ShardFailure(Exception):
    """One shard failed; `__cause__` is the error."""

    def __init__(self, shard: str) -> None:
        super().__init__(shard)
        self.shard = shard


def affects_all_shards(problem: Exception) -> bool:
    """Whether an error affects all shards: a full disk, a lost cluster, a missing model."""
    if isinstance(problem, OSError) and problem.errno in _OF_THE_MACHINE:
        return True
    return isinstance(problem, DedupError) and not isinstance(problem, ShardError | SourceError)
