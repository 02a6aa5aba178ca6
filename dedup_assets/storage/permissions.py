"""Checks that a user on this machine asked for the connections, outputs and code that a workspace uses.

A Dask scheduler sends code that is run here, a watched URL is fetched, an output elsewhere is written, an encoder or
guard named by `module:function` is imported, and the code of a model is run. `curation.toml` stores these requests, but
a workspace may be a copy from anywhere. So every request is sealed with an identifier of this machine, the user and the
folder: a copied workspace and a file written by hand have no such seal.
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
from dedup_assets.named_code import folder, home_of, module_and_factory
from dedup_assets.settings import Settings
from dedup_assets.storage.publish import publish_text

SEALS_FILE = "asked.json"
SCHEDULER_VARIABLE = "DEDUP_ASSETS_SCHEDULER"


def seal_requests(root: Path, settings: Settings) -> None:
    """Seal the requests in the settings of a caller."""
    seals = _seals(root)
    wanted = [_seal(root, name) for name, _ in _external_settings(root, settings)]
    new = [seal for seal in dict.fromkeys(wanted) if seal not in seals]
    if new:
        publish_text(root / SEALS_FILE, json.dumps([*seals, *new]))


def refuse_unsealed(root: Path, settings: Settings) -> None:
    """Raise SettingsError for a scheduler, a watched URL, code or an output elsewhere that no user asked for on this
    machine."""
    _require_seals(root, _external_settings(root, settings))


def refuse_unasked_code(root: Path, settings: Settings) -> None:
    """Raise SettingsError for code of an encoder that no user asked for; look-ups run this code too."""
    _require_seals(root, _code(settings))


def _require_seals(root: Path, wanted: Iterator[tuple[str, str]]) -> None:
    seals = _seals(root)
    for name, problem in wanted:
        if _seal(root, name) not in seals:
            raise SettingsError(f"{root} {problem}")


def refuse_unasked_functions(root: Path, guards: Sequence[Guard]) -> None:
    """Raise SettingsError for a guard function that no user asked for on this machine."""
    _require_seals(root, _functions(guards))


def _functions(guards: Sequence[Guard]) -> Iterator[tuple[str, str]]:
    for name in (str(guard) for guard in guards if guard.is_function):
        home = home_of(name.partition(":")[0])  # the file is part of the seal, as for encoders
        yield (
            f"guard {name} {home}",
            f"decides by the function {name!r} (its module is {home}), which nobody asked for on this machine, and "
            f"whose code would run here. If it is yours, ask for it once by `dedup-assets threshold --guard {name}`, "
            "beside the other guards; else take it out of curation.toml.",
        )


def _code(settings: Settings) -> Iterator[tuple[str, str]]:
    parts = module_and_factory(settings.model)
    if parts is not None:
        # The file is part of the seal: another working folder may have a module of the same name.
        home = home_of(parts[0])
        found = "" if home is None else f" (its module is {home})"
        yield (
            f"encoder {settings.model} {home}",
            f"names the encoder {settings.model!r}{found}, which nobody asked for on this machine, and whose code "
            f"would run here. If it is yours, ask for it once by --model {settings.model}."
            if found
            else f"names the encoder {settings.model!r}, and there is no module {parts[0]!r} on sys.path or in "
            f"{folder()}. Install it, or run from the folder that has it.",
        )
    if settings.trust_remote_code:
        yield (
            f"code of {settings.model}",
            f"asks for the Python code that comes with {settings.model} to be run (trust_remote_code), which nobody "
            "asked for on this machine. If you have read that code, ask for it once by --trust-remote-code; else set "
            "trust_remote_code = false in curation.toml.",
        )


def _external_settings(root: Path, settings: Settings) -> Iterator[tuple[str, str]]:
    """(name for the seal, message if the seal is missing) of each setting that reaches outside the workspace."""
    yield from _code(settings)
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
    """An identifier of this machine that is not stored in its workspaces."""
    for file in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            known = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if known:
            return known
    return f"{uuid.getnode():x}"
