"""Data versions: two results of an asset have the same version exactly if a curation treats them as the same.

They derive from the input versions of the stages in the ledger. Dagster shows a partition as stale where one of its
inputs has another version now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from dedup_assets.corpus.changes import has_changed, source_file, unfinished_shards
from dedup_assets.corpus.generations import DECIDING, PUBLISHING, plan_decisions
from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.errors import SourceError
from dedup_assets.ingest.source_files import content_fingerprint
from dedup_assets.storage.ledger import REFERENCE, STAGES, Ledger
from dedup_assets.storage.workspace import Workspace

RETRACTED = "retracted"
"""The version of all results of a shard that is not in the corpus."""

WITHDRAWN = "withdrawn"
"""The version of a void result without a valid successor."""

_READING, _ADMITTING = STAGES[0], STAGES[3]


def data_version(stage: str, input_version: str) -> str:
    """The version of a finished stage of a shard."""
    if stage != PUBLISHING:
        return input_version
    decided, _, place = input_version.partition(" in ")
    return f"{decided}@{_digest(place)}"


def finished_versions(ledger: Ledger) -> dict[str, dict[str, str]]:
    """By stage, the version of each shard finished there; `RETRACTED` for shards that are not in the corpus."""
    shards = ledger.shards()
    out = {shard.key: RETRACTED for shard in shards if shard.retracted is not None}
    versions: dict[str, dict[str, str]] = {}
    for stage in STAGES:
        done = ledger.completions(stage)
        versions[stage] = out | {key: data_version(stage, d.input_version) for key, d in done.items() if key not in out}
    return versions


def parent_version(stage: str, input_version: str) -> str:
    """The version of the previous stage (for the first stage, of the file) from which a result was computed."""
    if stage == _ADMITTING:
        return input_version.rpartition("#")[0]
    if stage == DECIDING:
        return input_version.rpartition("/")[0]
    if stage == PUBLISHING:
        return input_version.partition(" in ")[0]
    return input_version


def rules_version_in(input_version: str) -> str:
    """The version of the decision rules under which a shard was decided (see `rules_version`)."""
    return input_version.rpartition("/")[2]


def place_version_in(input_version: str) -> str:
    """The version of the folder that a shard was published to (see `place_version`)."""
    return _digest(input_version.partition(" in ")[2])


def place_version(workspace: Workspace) -> str:
    """The version of the output folder."""
    return _digest(str(workspace.output))


def rules_version(workspace: Workspace, changed: Collection[str] = ()) -> str:
    """The version of the decision rules: number and settings of the generation that a curation would produce.

    That is a new generation if settings changed, something was retracted, a rebuild was requested, or shards of the
    corpus have other content. `changed` holds shards whose new content was not read yet.
    """
    ledger, settings = workspace.ledger, workspace.settings
    generation = ledger.generation()
    asked = settings.fingerprint("decisions")[:16]
    if generation is None:
        return f"1-{asked}"
    decided = ledger.completions(DECIDING)
    living = LiveTexts(workspace)
    plan = plan_decisions(ledger, settings, decided, living.live, living.retractions, ())
    read = ledger.completions(_READING)
    other = {a.shard for a in living.live if a.shard in read and a.fingerprint != read[a.shard].input_version}
    if settings.changed_shards == "replace":
        other |= {a.shard for a in living.live}.intersection(changed)
    waiting = set(unfinished_shards(workspace))
    references = {shard.key for shard in ledger.shards() if shard.role == REFERENCE}
    due = (
        (plan is not None and plan.is_new)
        or bool(other)
        or (settings.mode == "rebuild" and bool(waiting))
        or bool(waiting & references and decided.keys() - references)
    )
    return f"{generation.number + due}-{asked}"


def file_versions(workspace: Workspace) -> dict[str, str]:
    """The version of the file of each shard that was read and is in the corpus. A file with the recorded size and time
    is not opened; an unreadable file is left out."""
    done = workspace.ledger.completions(_READING)
    versions: dict[str, str] = {}
    for shard in workspace.ledger.shards():
        if shard.retracted is None and shard.key in done:
            try:
                changed = has_changed(shard, done[shard.key])
                versions[shard.key] = (
                    content_fingerprint(source_file(shard)) if changed else done[shard.key].input_version
                )
            except (SourceError, OSError):
                continue
    return versions


def changed_files(ledger: Ledger, versions: Mapping[str, str]) -> list[str]:
    """Shards whose file has another version than the content that was read, in order."""
    done = ledger.completions(_READING)
    return [
        shard.key
        for shard in ledger.shards()
        if shard.retracted is None
        and shard.key in done
        and versions.get(shard.key, done[shard.key].input_version) != done[shard.key].input_version
    ]


def _digest(place: str) -> str:
    return hashlib.blake2b(place.encode(), digest_size=4).hexdigest()
