"""Whether a source file has changed since it was read, and which shards are not finished with the content that was
read."""

from __future__ import annotations

import json

from dedup_assets.errors import ShardError, SourceError, shown_cause
from dedup_assets.ingest.source_files import SourceFile, content_fingerprint, file_state
from dedup_assets.storage.ledger import STAGES, Completion, Shard
from dedup_assets.storage.workspace import Workspace


def source_file(shard: Shard) -> SourceFile:
    """The file of a registered shard."""
    partition = tuple((name, value) for name, value in json.loads(shard.partition))
    return SourceFile(shard.key, shard.uri, shard.format, shard.compression, shard.name, partition)


def source_state(shard: Shard) -> str:
    """Size and modification time from the file system, without reading the file.

    Files with equal states are not read again. That is a shortcut; the content fingerprint decides.
    """
    try:
        return file_state(shard.uri).marks
    except OSError as problem:
        raise SourceError(
            f"Shard {shard.key}: {shard.uri} cannot be read: {problem}. Put the file back, or leave it out."
        ) from shown_cause(problem)


def has_changed(shard: Shard, done: Completion) -> bool:
    """Whether the file's content is not what `done` was read from."""
    if source_state(shard) == done.stats.get("source_state"):
        return False
    return content_fingerprint(source_file(shard)) != done.input_version


def changed_content_error(shard: Shard) -> ShardError:
    """The error where changed content of a shard is refused."""
    return ShardError(
        f"Shard {shard.key}: the content of {shard.uri} changed since it was curated. Published decisions rest on "
        'the old content, and changed_shards = "refuse" is set in curation.toml. Restore the file, add the new '
        'content as a new file, or set "replace".'
    )


def unfinished_shards(workspace: Workspace) -> list[str]:
    """Registered shards, in order, that are not published with the content that was last read; retracted shards count
    as finished."""
    ledger = workspace.ledger
    read, published = ledger.completions(STAGES[0]), ledger.completions(STAGES[-1])
    live = {a.shard: a.fingerprint for a in ledger.live_admissions()}
    return [
        shard.key
        for shard in ledger.shards()
        if shard.retracted is None
        and not (shard.key in published and shard.key in read and live.get(shard.key) == read[shard.key].input_version)
    ]
