"""Whom a workspace may connect to: what somebody asked for on this machine, and not what a copied file says.

A Dask scheduler sends code that is run here. `curation.toml` keeps the address that was asked for, but a workspace can
come from anywhere. So what a caller asks for is sealed with what only this machine knows and with the folder: a copy,
or a file written by hand, has no such seal.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path

from dedup_assets.errors import SettingsError
from dedup_assets.storage.publish import publish_text

SEALS_FILE = "asked.json"
SCHEDULER_VARIABLE = "DEDUP_ASSETS_SCHEDULER"


def remember_asked(root: Path, scheduler: str) -> None:
    """Seal a scheduler that a caller asked for."""
    seal, seals = _seal(root, scheduler), _seals(root)
    if scheduler and seal not in seals:
        publish_text(root / SEALS_FILE, json.dumps([*seals, seal]))


def refuse_unasked(root: Path, scheduler: str) -> None:
    """Raise SettingsError for a scheduler that nobody on this machine asked this workspace to use."""
    if scheduler in ("", os.environ.get(SCHEDULER_VARIABLE)) or _seal(root, scheduler) in _seals(root):
        return
    raise SettingsError(
        f"{root} names the Dask scheduler {scheduler!r}, which nobody asked for on this machine, and whose code would "
        f"run here. If it is yours, ask for it once by --scheduler {scheduler} or set {SCHEDULER_VARIABLE}; else take "
        "it out of curation.toml, or compute on this machine with --scheduler ''."
    )


def _seals(root: Path) -> list[str]:
    try:
        seals = json.loads((root / SEALS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [seal for seal in seals if isinstance(seal, str)] if isinstance(seals, list) else []


def _seal(root: Path, scheduler: str) -> str:
    words = (_machine(), str(os.getuid()) if hasattr(os, "getuid") else "", str(root.resolve()), scheduler)
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
