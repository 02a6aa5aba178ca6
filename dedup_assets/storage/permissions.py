"""Whom a workspace may connect to, where it may write and what it may run: what somebody asked for on this machine, and
not what a copied file says.

A Dask scheduler sends code that is run here, a watched URL is fetched, an output elsewhere is written to, a guard may
be a function that is run. `curation.toml` keeps what was asked for, but a workspace can come from anywhere. So what a
caller asks for is sealed with what only this machine knows and with the folder: a copy, or a file written by hand, has
no such seal.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from dedup_assets.credentials import is_url
from dedup_assets.errors import SettingsError
from dedup_assets.guard_rule import Guard
from dedup_assets.settings import Settings
from dedup_assets.storage.publish import publish_text

SEALS_FILE = "asked.json"
SCHEDULER_VARIABLE = "DEDUP_ASSETS_SCHEDULER"


def remember_asked(root: Path, settings: Settings) -> None:
    """Seal what a caller asked for, as it stands in the settings."""
    seals = _seals(root)
    wanted = [_seal(root, name) for name, _ in _reaching_out(root, settings)]
    new = [seal for seal in dict.fromkeys(wanted) if seal not in seals]
    if new:
        publish_text(root / SEALS_FILE, json.dumps([*seals, *new]))


def refuse_unasked(root: Path, settings: Settings) -> None:
    """Raise SettingsError for a scheduler, a watched URL, a function or an output elsewhere that nobody on this machine
    asked this workspace to use."""
    seals = _seals(root)
    for name, problem in _reaching_out(root, settings):
        if _seal(root, name) not in seals:
            raise SettingsError(f"{root} {problem}")


def refuse_unasked_functions(root: Path, guards: Sequence[Guard]) -> None:
    """Raise SettingsError for a guard that is a function which nobody on this machine asked this workspace to run."""
    seals = _seals(root)
    for name, problem in _functions(guards):
        if _seal(root, name) not in seals:
            raise SettingsError(f"{root} {problem}")


def _functions(guards: Sequence[Guard]) -> Iterator[tuple[str, str]]:
    for guard in guards:
        if guard.is_function:
            yield (
                f"guard {guard}",
                f"decides by the function {str(guard)!r}, which nobody asked for on this machine, and whose code would "
                f"run here. If it is meant, ask for it once by `dedup-assets threshold --guard {guard}`, beside the "
                "other guards; else take it out of curation.toml.",
            )


def _reaching_out(root: Path, settings: Settings) -> Iterator[tuple[str, str]]:
    """What in the settings leads out of the workspace: its name for the seal, and what is said where it has none."""
    scheduler = settings.scheduler
    if scheduler not in ("", os.environ.get(SCHEDULER_VARIABLE)):
        yield (
            scheduler,
            f"names the Dask scheduler {scheduler!r}, which nobody asked for on this machine, and whose code would run "
            f"here. If it is yours, ask for it once by --scheduler {scheduler} or set {SCHEDULER_VARIABLE}; else take "
            "it out of curation.toml, or compute on this machine with --scheduler ''.",
        )
    output = root / settings.output
    if not output.resolve().is_relative_to(root.resolve()):
        yield (
            f"output {output}",
            f"publishes to {output}, which nobody asked for on this machine. If that is meant, ask for it once by "
            f"--output {output}; else change it in curation.toml.",
        )
    yield from _functions(settings.guard_rules())
    for source in (*settings.sources, *settings.reference_sources):
        if is_url(source):
            yield (
                f"source {source}",
                f"watches {source!r}, which nobody asked for on this machine. If it is meant, ask for it once by "
                f"`dedup-assets watch {source}`; else take it out of curation.toml.",
            )


def _seals(root: Path) -> list[str]:
    try:
        seals = json.loads((root / SEALS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [seal for seal in seals if isinstance(seal, str)] if isinstance(seals, list) else []


def _seal(root: Path, name: str) -> str:
    words = (_machine(), str(os.getuid()) if hasattr(os, "getuid") else "", str(root.resolve()), name)
    return hashlib.blake2b("\0".join(words).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _machine() -> str:
    """What tells this machine from others and is not in its workspaces."""
    for file in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            known = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if known:
            return known
    return f"{uuid.getnode():x}"
