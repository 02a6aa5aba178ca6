"""The guards of a workspace, and the texts that they compare, read from the shards on demand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow.parquet as pq

from dedup_assets.compute.guards import Covers
from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.errors import SettingsError
from dedup_assets.guard_rule import Guard
from dedup_assets.ingest.record_spec import IngestSpec, ingest_spec
from dedup_assets.ingest.records import read_texts
from dedup_assets.storage.permissions import refuse_unasked_functions
from dedup_assets.storage.raw_table import RawShard
from dedup_assets.storage.shards import Records, read_records
from dedup_assets.storage.struct_columns import find_column
from dedup_assets.storage.workspace import Workspace

HELD_SHARDS = 256
"""Maximum number of shards whose records, without texts, are cached: 40 bytes per record."""


def guards_in_force(workspace: Workspace, living: LiveTexts, guards: Sequence[Guard] | None = None) -> Covers | None:
    """The guards on pairs of text keys; None without guards.

    `guards` default to those of the workspace's settings. Raises SettingsError for a function that cannot be imported,
    or that no user asked for on this machine.
    """
    guards = workspace.settings.guard_rules() if guards is None else guards
    refuse_unasked_functions(workspace.root, guards)
    return Covers(guards, StoredTexts(workspace, living)) if guards else None


class StoredTexts:
    """Joined and normalised texts of live records by their keys; "" for a text without a live record."""

    def __init__(self, workspace: Workspace, living: LiveTexts) -> None:
        self._workspace, self._living = workspace, living
        self._spec = ingest_spec(workspace.settings)
        self._admissions = {a.number: a for a in living.all}
        self._records = lru_cache(maxsize=HELD_SHARDS)(self._read_records)

    def __call__(self, keys: np.ndarray) -> list[str]:
        """The texts of m keys; each shard is read once. Raises SettingsError for a shard without texts."""
        found = np.full(len(keys), "", object)
        for number, at, places in self._places(keys):
            _, raw = self._records(number)
            found[at] = read_texts(raw, self._spec, self._records(number)[0].positions[places])
        return found.tolist()

    def characters(self, keys: np.ndarray) -> np.ndarray:
        """Length of each text in characters: int64 (m,)."""
        found = np.zeros(len(keys), np.int64)
        for number, at, places in self._places(keys):
            found[at] = self._records(number)[0].characters[places]
        return found

    def _places(self, keys: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(admission number, indexes of its keys, positions of these among its records) for each admission."""
        lives = np.flatnonzero(self._living.texts(keys))
        numbers, rows = self._living.places(keys[lives])
        places = []
        for number in np.unique(numbers).tolist():
            mine = np.flatnonzero(numbers == number)
            places.append((number, lives[mine], np.searchsorted(self._records(number)[0].rows, rows[mine])))
        return places

    def _read_records(self, number: int) -> tuple[Records, RawShard]:
        a = self._admissions[number]
        raw = self._workspace.raw(a.shard, a.fingerprint)
        require_texts(raw, a.shard, self._spec)
        return read_records(raw), raw


def require_texts(raw: RawShard, shard: str, spec: IngestSpec) -> None:
    """Raise SettingsError for a shard with vectors but without texts, which guards cannot compare."""
    schema = pq.read_schema(raw.table)
    if any(find_column(schema, name) is None for name in spec.text_columns):
        raise SettingsError(
            f"guards compare texts, and shard {shard} has none: no column {', '.join(spec.text_columns)}. Leave the "
            "guards out (`dedup-assets threshold --no-guards`), or curate shards with texts."
        )
