"""Entering files in the ledger as shards: new ones, those that are back, and those that continue elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dedup_assets.errors import DedupError
from dedup_assets.ingest.source_files import SourceFile, content_fingerprint
from dedup_assets.storage.ledger import CORPUS, STAGES, TAKEDOWN, Ledger, Registration, Shard


@dataclass(frozen=True)
class Registered:
    """`due` are the keys to be curated: new ones, and those that had vanished and are back. `moved` says of shards
    that continue under another address where they were and where they are."""

    due: list[str]
    moved: dict[str, tuple[str, str]]


def register_files(ledger: Ledger, files: Sequence[SourceFile], role: str = CORPUS) -> Registered:
    """Register files as shards, in their order.

    A shard whose file is named at another address continues there if the content is that which was read, or if
    nothing of it could ever be read. Raises WorkspaceError where other content would take a shard's name.
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
