"""Registers files in the ledger as shards: new files, returned files, and moved files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dedup_assets.errors import DedupError
from dedup_assets.ingest.source_files import SourceFile, content_fingerprint
from dedup_assets.storage.ledger import CORPUS, STAGES, TAKEDOWN, Ledger, Registration, Shard


@dataclass(frozen=True)
class Registered:
    """`due` holds the keys to curate: new ones, and those that had vanished and are back. `moved` gives the old and new
    address of shards whose file moved."""

    due: list[str]
    moved: dict[str, tuple[str, str]]


def register_files(ledger: Ledger, files: Sequence[SourceFile], role: str = CORPUS) -> Registered:
    """Register files as shards, in the given order.

    A shard whose file is now at another address is moved there if the content is the same, or if its old file could
    never be read. Raises WorkspaceError where other content would take a shard's name.
    """
    known = {shard.key: shard for shard in ledger.shards()}
    moved = {}
    for file in files:
        shard = known.get(file.key)
        if shard is not None and shard.uri != file.uri and continues(ledger, shard, file):
            ledger.move(_entry(file))
            moved[file.key] = (shard.uri, file.uri)
    return Registered(ledger.register([_entry(file) for file in files], role), moved)


def continues(ledger: Ledger, shard: Shard, file: SourceFile) -> bool:
    """Whether a file at another address is the registered shard."""
    if shard.retracted == TAKEDOWN or any(other.uri == file.uri for other in ledger.shards()):
        return False
    read = [done.input_version for done in ledger.history(shard.key) if done.stage == STAGES[0]]
    if not read:
        return True
    try:
        return content_fingerprint(file) == read[-1]
    except DedupError:
        return False


def _entry(file: SourceFile) -> Registration:
    return file.key, file.uri, file.format, file.compression, file.name, json.dumps(file.partition)
