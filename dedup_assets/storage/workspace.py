"""A workspace on disk: its paths, its settings, its ledger and its locks.

curation.toml            settings, with comments
ledger.sqlite            shards, admissions, completion records
raw/SHARD@CONTENT/       parsed rows, valid records, quarantine
lancedb/                 table `embeddings`: one row per distinct text
codebooks/NUMBER.npy     centroids
admitted/ADMISSION/      the text of each record, and the texts that the shard introduces
cells/NUMBER/ADMISSION/  the new texts by home cell, and their ghosts, under one codebook
pairs/ADMISSION.parquet  every match of the shard with itself and with shards admitted before it; dense cells are
                         named in the file's metadata, and their matches are not listed
decisions/GENERATION/    decisions per record and per text
output/generations/GENERATION/   the published files of a generation
output/current           link to the current generation; output/deduplicated and the like lead through it
output/changes/          changes of each generation from the one before
dagster/                 the embedded Dagster instance

ADMISSION is NUMBER-SHARD@CONTENT: a shard whose content changes is admitted again, under another number.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dedup_assets.errors import SettingsError, WorkspaceError
from dedup_assets.settings import CAME_LATER, Settings, checked, default_floor
from dedup_assets.storage.ledger import Admission, Codebook, Ledger
from dedup_assets.storage.locks import Lock
from dedup_assets.storage.own_folders import MARKER, MARKER_TEXT
from dedup_assets.storage.permissions import seal_requests
from dedup_assets.storage.publish import exclusive_lock, publish_text, storage_errors, sweep_temporary
from dedup_assets.storage.raw_table import RawShard

SETTINGS_FILE = "curation.toml"

_REACHING_OUT = ("scheduler", "output", "sources", "reference_sources", "model", "trust_remote_code")
_FIXED_LAYERS = ("vectors", "matches")
_SETTLED = "settings"  # names of their values in the ledger, set with the first stored shard


@dataclass(frozen=True)
class Workspace:
    """One workspace: `root` is absolute."""

    root: Path
    settings: Settings

    # -- opening ------------------------------------------------------------------------------------

    @classmethod
    def open(cls, root: Path | str) -> Workspace:
        """Open an existing workspace. Raises WorkspaceError where there is none."""
        path = Path(root).expanduser().absolute()
        file = path / SETTINGS_FILE
        if not file.is_file():
            raise WorkspaceError(
                f"{path} is not a workspace: it has no {SETTINGS_FILE}. Make one with "
                "`dedup-assets curate SOURCE --workspace DIR`, or name the right folder."
            )
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as problem:
            raise SettingsError(f"{file} is not valid UTF-8 ({problem}): write it as UTF-8 again.") from problem
        workspace = cls(path, Settings.from_toml(text, str(file)))
        workspace.ledger.create()
        stored = workspace.ledger.meta(_SETTLED)
        if stored is not None:
            workspace._refuse_other(json.loads(stored))
        return workspace

    @classmethod
    def create_or_open(cls, root: Path | str, options: Mapping[str, Any]) -> Workspace:
        """Open a workspace with the options of a caller; it is created on first use.

        Options of a new workspace become its settings. In an existing one an option that differs is refused unless it
        can change without redoing stored work. Options that affect decisions are stored in curation.toml; options that
        affect only cost apply to this call alone.
        """
        options = checked(options, "options")
        path = Path(root).expanduser().absolute()
        file = path / SETTINGS_FILE
        if not str(path).isprintable() or set(str(path)) & set("*?[%"):
            raise WorkspaceError(
                f"Cannot make the workspace {str(path)!r}: LanceDB takes no control characters in a path, and "
                "Dagster reads *, ? and [ as patterns and % as an escape. Choose another folder."
            )
        with storage_errors(path):
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)  # only the owner may read the texts
            except OSError as problem:
                if problem.errno not in (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
                    raise
                raise WorkspaceError(
                    f"Cannot make the workspace {path}: {problem.strerror}. Choose another folder."
                ) from problem
        with exclusive_lock(path / "locks" / Lock.SETTINGS):  # of two that create it at once, one finds it there
            if not file.is_file():
                floor = default_floor(options.get("threshold", Settings.threshold))
                settings = Settings(**{"floor": floor, **options})
                workspace = cls(path, settings)
                workspace.ledger.create()
                publish_text(path / MARKER, MARKER_TEXT)
                publish_text(file, settings.to_toml())
                seal_requests(path, settings)
                return workspace
        workspace = cls.open(path).with_options(options)
        asked = {name: options[name] for name in _REACHING_OUT if options.get(name)}
        if "trust_remote_code" in asked:
            asked["model"] = workspace.settings.model  # whose code it is
        seal_requests(path, Settings().changed(asked))
        return workspace

    def with_options(self, options: Mapping[str, Any]) -> Workspace:
        """This workspace under a caller's options; see `create_or_open`."""
        options = checked(options, "options")
        stored = self.settings
        file = self.root / SETTINGS_FILE
        threshold = options.get("threshold", stored.threshold)
        if "floor" not in options and threshold < stored.floor:
            raise SettingsError(
                f"threshold {threshold} lies below the floor {stored.floor} of {self.root}: matches under "
                f"the floor were never stored. Choose one of at least {stored.floor}, or curate into a new "
                f"workspace with --threshold {threshold}."
            )
        wanted = replace(stored, **options)
        spoilt = stored.differences(wanted, "vectors", "matches")
        if spoilt:
            listed = "; ".join(f"{name} is {old!r}, asked for {new!r}" for name, (old, new) in spoilt.items())
            why = (
                f"Nothing is stored there yet, so you may correct {file} or delete the folder."
                if self.ledger.meta(_SETTLED) is None
                else f"What is stored there fits only the settings in {file}."
            )
            raise SettingsError(
                f"{self.root} was made under other settings: {listed}. {why} Leave the option out, or curate into "
                "a new workspace."
            )
        lasting = {name: new for name, (_, new) in stored.differences(wanted, "decisions", "arrival").items()}
        for name in ("output", "trust_remote_code"):  # a look-up has no options for them
            if getattr(wanted, name) != getattr(stored, name):
                lasting[name] = getattr(wanted, name)
        if lasting:
            self._keep(lambda _: lasting)
        if wanted.guards and "guards" in options:
            seal_requests(self.root, Settings().changed({"guards": wanted.guards}))
        return replace(self, settings=wanted)

    def with_sources(self, setting: str, sources: Sequence[str]) -> Workspace:
        """This workspace with more watched sources, stored in `sources` or `reference_sources`, at a user's request."""
        seal_requests(self.root, Settings().changed({setting: tuple(sources)}))
        return replace(
            self,
            settings=self._keep(lambda stored: {setting: tuple(dict.fromkeys([*getattr(stored, setting), *sources]))}),
        )

    def _keep(self, change: Callable[[Settings], Mapping[str, Any]]) -> Settings:
        """Change the settings on disk; another process may have changed them since they were read."""
        file = self.root / SETTINGS_FILE
        with exclusive_lock(self.root / "locks" / Lock.SETTINGS):
            stored = Settings.from_toml(file.read_text(encoding="utf-8"), str(file))
            settings = stored.changed(change(stored))
            if settings != stored:
                publish_text(file, settings.to_toml())
        return settings

    def settle(self) -> None:
        """Record the settings that determine stored data, before any is stored. Raises SettingsError if they are
        already recorded and differ."""
        mine = {name: value for layer in _FIXED_LAYERS for name, value in self.settings.layer(layer).items()}
        self._refuse_other(json.loads(self.ledger.settle_meta(_SETTLED, json.dumps(mine, sort_keys=True))))

    def _refuse_other(self, stored: Mapping[str, Any]) -> None:
        """Raise if curation.toml was changed so that it no longer fits the stored data."""
        fixed = {name: value for layer in _FIXED_LAYERS for name, value in Settings().layer(layer).items()}
        stored = {**{name: value for name, value in fixed.items() if name in CAME_LATER}, **stored}
        mine = json.loads(json.dumps({name: getattr(self.settings, name) for name in stored}))
        changed = [name for name in stored if stored[name] != mine[name]]
        if changed:
            listed = "; ".join(f"{name} was {stored[name]!r}, is now {mine[name]!r}" for name in changed)
            raise SettingsError(
                f"{self.root / SETTINGS_FILE} was changed after data was stored under it: {listed}. These settings "
                "are fixed for the life of a workspace: change them back, or curate into a new workspace."
            )

    # -- places -------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.root / "ledger.sqlite")

    @property
    def report(self) -> Path:
        """Default path of the report."""
        return self.root / "report.html"

    @property
    def dagster_home(self) -> Path:
        return self.root / "dagster"

    @property
    def output(self) -> Path:
        return self.root / self.settings.output  # an absolute output replaces the root

    @property
    def lancedb(self) -> Path:
        return self.root / "lancedb"

    def raw(self, shard: str, fingerprint: str) -> RawShard:
        return RawShard(self.root / "raw" / version_name(shard, fingerprint))

    def admitted(self, admission: Admission) -> Path:
        return self.root / "admitted" / admission_name(admission)

    def codebook(self, codebook: Codebook) -> Path:
        return self.root / "codebooks" / f"{codebook.name}.npy"

    def cells(self, codebook: Codebook, admission: Admission) -> Path:
        return self.root / "cells" / codebook.name / admission_name(admission)

    def pairs(self, admission: Admission) -> Path:
        return self.root / "pairs" / f"{admission_name(admission)}.parquet"

    def generation(self, number: int) -> Path:
        """Folder of the decisions of a generation."""
        return self.root / "decisions" / f"{number:04d}"

    def decisions(self, generation: int, level: str, name: str) -> Path:
        """Decisions on `records`, by shard, or on `texts`, by the name of the admission that brought them."""
        return self.generation(generation) / level / f"{name}.parquet"

    def output_generation(self, number: int) -> Path:
        """Folder of the published files of a generation."""
        return self.output / "generations" / f"{number:04d}"

    @property
    def output_current(self) -> Path:
        """Link to the folder of the current generation; readers resolve it once."""
        return self.output / "current"

    # -- order among processes ----------------------------------------------------------------------

    @contextmanager
    def lock(self, name: Lock, *, shared: bool = False) -> Iterator[None]:
        """Hold a lock of this workspace. `locks` says what each protects and in which order they are taken."""
        with exclusive_lock(self.root / "locks" / name, shared=shared):
            yield

    def sweep(self) -> int:
        """Remove half-written files of killed processes, in the workspace and in the output."""
        swept = sweep_temporary(self.root, deep=False) + sum(
            sweep_temporary(self.root / part)
            for part in ("raw", "admitted", "codebooks", "cells", "pairs", "decisions")
        )
        return swept + sweep_temporary(self.output)


def admission_name(admission: Admission) -> str:
    """Folder name of one admission. Its content depends on the shards admitted before, so the number is part of the
    name: leftovers of a killed run under another number are never used for it."""
    return f"{admission.number:06d}-{version_name(admission.shard, admission.fingerprint)}"


def version_name(shard: str, fingerprint: str) -> str:
    """Folder name of one content of one shard; '@' cannot occur in a shard key."""
    return f"{shard}@{fingerprint[:16]}"


def load_settings_or_default(path: Path | str) -> Settings:
    """The settings of a workspace that are needed before one is opened, such as how often to look.

    The defaults where there is no workspace yet, or where its file is broken; opening it then reports the error.
    """
    file = Path(path).expanduser() / SETTINGS_FILE
    try:
        return Settings.from_toml(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError, SettingsError):
        return Settings()
