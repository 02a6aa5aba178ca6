"""The sources of a call: lists their files, registers them as shards, reports unread files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dedup_assets.arguments import resolve_options, source_names, workspace_path
from dedup_assets.corpus.registration import Registered, register_files
from dedup_assets.errors import SettingsError, SourceError, WorkspaceError
from dedup_assets.ingest.listing import Unread, unread_in_words
from dedup_assets.ingest.source_files import SourceFile
from dedup_assets.ingest.sources import Found, find_sources
from dedup_assets.storage.ledger import CORPUS, REFERENCE, TAKEDOWN
from dedup_assets.storage.workspace import Workspace, load_settings_or_default

_EXAMPLES = 10


def brought_in(
    sources: Sequence[str | Path], workspace: str | Path, role: str, options: Mapping[str, Any]
) -> tuple[Workspace, Found, Registered]:
    """The workspace with the shards of some sources registered, and the files of the sources."""
    wanted = resolve_options(options)
    path = workspace_path(workspace)
    follow = wanted.get("follow_links", load_settings_or_default(path).follow_links)
    found = find_sources(source_names(sources), follow) if sources else Found([], [])
    _refuse_unread(found, bool(wanted.get("strict")))  # before an unnecessary workspace is created
    space = Workspace.create_or_open(path, wanted)
    _refuse_unread(found, space.settings.strict)
    space.sweep()
    return space, found, _register(space, found.files, role)


def _refuse_unread(found: Found, strict: bool) -> None:
    if strict and found.unread:
        raise SourceError(
            f"{unread_in_words(found.unread)}. strict asks for sources of which everything is read: take these files "
            "out, name the others, or leave --strict out."
        )


def unread_summary(unread: Sequence[Unread]) -> dict[str, Any]:
    """The unread files of the sources: their number, the number for each reason, and examples."""
    return {
        "files": len(unread),
        "by_reason": dict(Counter(item.reason for item in unread)),
        "examples": [item.name for item in unread[:_EXAMPLES]],
        "words": unread_in_words(unread) if unread else "",
    }


def _register(space: Workspace, files: Sequence[SourceFile], role: str) -> Registered:
    """Register files as shards. Raises WorkspaceError if all of them were taken down before."""
    if role not in (CORPUS, REFERENCE):
        raise SettingsError(f"role = {role!r}: expected {CORPUS} or {REFERENCE}.")
    registered = register_files(space.ledger, files, role)
    down = {shard.key for shard in space.ledger.shards() if shard.retracted == TAKEDOWN}
    named = [file.key for file in files]
    if named and down.issuperset(named):
        raise WorkspaceError(
            f"{', '.join(named)}: taken down from {space.root}, and what was taken down does not return. Curate into "
            "a new workspace if it should."
        )
    return registered
