"""Promises about one input file: its bytes and their fingerprint."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest

from dedup_assets.errors import ShardError
from dedup_assets.ingest.source_files import content_fingerprint
from dedup_assets.ingest.sources import discover


def test_the_fingerprint_is_of_the_raw_bytes(tmp_path: Path) -> None:
    data = gzip.compress(os.urandom(5_000_000))
    (tmp_path / "a.csv.gz").write_bytes(data)
    (source,) = discover([str(tmp_path)])
    assert content_fingerprint(source) == hashlib.blake2b(data, digest_size=16).hexdigest()
    Path(source.uri).unlink()
    with pytest.raises(ShardError, match=r"a\.csv\.gz"):
        content_fingerprint(source)
