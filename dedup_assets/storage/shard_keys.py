"""Valid names of shards, safe wherever they are used."""

from __future__ import annotations

import re

from dedup_assets.errors import SourceError

SHARD_KEY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}\Z")
"""Pattern of a shard key: safe as a file name, in a URL and inside an SQL string literal."""


def validate_shard_key(key: str) -> str:
    """Return `key` if it may be used as a shard key; raise `SourceError` otherwise."""
    if not SHARD_KEY_PATTERN.match(key) or ".." in key:
        raise SourceError(
            f"{key!r} is not a valid shard key: expected 1 to 120 letters, digits, '.', '_' or '-', "
            "the first one a letter or a digit, and no '..'."
        )
    return key
