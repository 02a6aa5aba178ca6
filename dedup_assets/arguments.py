"""Checks of the sources, names and workspaces that Python callers pass, before any work starts.

If records are passed where files are expected, the error says how to write them to a file. Types are recognised by
their methods, so neither pandas nor polars has to be installed.
"""

from __future__ import annotations

import operator
import os
import string
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from dedup_assets import settings
from dedup_assets.credentials import is_url
from dedup_assets.display_text import COLLECTIONS, kind_of, short
from dedup_assets.encoder.text_encoder import AnyEncoder
from dedup_assets.errors import SettingsError, SourceError
from dedup_assets.guard_rule import load_function, parse_guards
from dedup_assets.settings import checked


class Options(TypedDict, total=False):
    """Options of a Python call: the settings (`Settings` describes them), `eps` for 1 - threshold, and `exact_only` for
    no model. The sources to watch are passed separately."""

    text_columns: str | Sequence[str]
    id_column: str
    embedding_column: str
    model: str | AnyEncoder | Callable[[], AnyEncoder]
    exact_only: bool
    revision: str
    prompt: str
    truncate_dim: int
    pooling: settings.Pooling
    max_length: int
    precision: settings.Precision
    max_unknown: float
    vector_dtype: settings.VectorType
    unicode_form: settings.UnicodeForm
    keep_empty: bool
    duplicate_ids: settings.DuplicateIds
    floor: float
    threshold: float
    eps: float
    keep: str
    seed: int
    mode: settings.Mode
    keeper_rule: settings.KeeperRule
    guards: str | Sequence[str]
    against: settings.Against
    watch_seconds: int
    shards_per_run: int
    changed_shards: settings.ChangedShards
    strict: bool
    follow_links: settings.FollowLinks
    max_quarantined: float
    csv_types: settings.CsvTypes
    vanished_shards: settings.VanishedShards
    recurate_cron: str
    clusters: int
    batch_size: int
    trust_remote_code: bool
    dense_limit: int
    memory_limit: str
    device: settings.Device
    scheduler: str
    workers: int
    worker_timeout: int
    output: str


def source_names(sources: Sequence[Any]) -> list[str]:
    """Sources as text: paths, globs and URLs. Raises SourceError for anything else, with what to do instead."""
    names = []
    for source in sources:
        try:
            name = os.fspath(source)
        except TypeError:
            raise SourceError(_not_a_source(source)) from None
        if isinstance(name, bytes):
            raise SourceError(_not_a_source(name))
        names.append(name)
    return names


def record_names(names: Sequence[Any]) -> list[str]:
    """Names of shards and records as text. Raises SettingsError for anything else."""
    for name in names:
        if isinstance(name, str):
            continue
        if isinstance(name, Iterable) and not isinstance(name, bytes | Mapping):
            raise SettingsError(
                f"names of shards and records are given one by one, not in {kind_of(name)}: write *names."
            )
        raise SettingsError(f"{short(name)} is {kind_of(name)}: names of shards and ids of records are text.")
    return list(names)


def workspace_path(workspace: Any) -> Path:
    """The folder of a workspace. Raises SettingsError for anything but a path."""
    if isinstance(workspace, str) or (isinstance(workspace, os.PathLike) and isinstance(os.fspath(workspace), str)):
        return Path(workspace)
    raise SettingsError(f"workspace = {short(workspace)}: expected the path of a folder, not {kind_of(workspace)}.")


def at_least_one(name: str, value: Any) -> int:
    """A number of things to be shown. Raises SettingsError for anything but a whole number from 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise SettingsError(f"{name} = {short(value)}: expected a whole number, 1 or more.")
    return operator.index(value)


def as_text(name: str, value: Any) -> str:
    """An id, a shard or a text to look up; a whole number is the id written so. Raises SettingsError for others."""
    if isinstance(value, bool) or not (isinstance(value, str) or hasattr(value, "__index__")):
        raise SettingsError(f"{name} = {short(value)}: expected text, not {kind_of(value)}.")
    return str(value)


def resolve_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from a caller's options: `eps` becomes a threshold, `exact_only` no model; None means not given."""
    given = {name: value for name, value in options.items() if value is not None}
    if "eps" in given:
        if "threshold" in given:
            raise SettingsError("threshold and eps say the same thing (threshold = 1 - eps): give one of them.")
        eps = given.pop("eps")
        if not isinstance(eps, int | float) or isinstance(eps, bool) or not 0.0 <= eps < 1.0:
            raise SettingsError(f"eps = {eps!r}: expected a number from 0 to below 1, such as 0.05.")
        given["threshold"] = round(1.0 - eps, 12)
    if given.pop("exact_only", False):
        if given.get("model", settings.NO_MODEL) != settings.NO_MODEL or given.get("embedding_column"):
            raise SettingsError("exact_only looks at no vectors: leave model and embedding_column out.")
        given["model"] = settings.NO_MODEL
    if not isinstance(given.get("model", ""), str):
        from dedup_assets.encoder.foreign import name_of

        given["model"] = name_of(given["model"])
    for name in ("text_columns", "guards"):
        if isinstance(given.get(name), str):
            given[name] = (given[name],)
    _refuse_missing_functions(given.get("guards", ()))
    return given


def _refuse_missing_functions(guards: Any) -> None:
    """Raise SettingsError for a guard function that cannot be imported, before any work starts."""
    for guard in parse_guards(checked({"guards": guards})["guards"]):
        if guard.is_function:
            load_function(guard)


def _not_a_source(value: Any) -> str:
    return f"sources are paths or URLs of files, and this is {kind_of(value)}{_shown(value)}. {_instead(value)}"


def _instead(value: Any) -> str:
    """A sentence that says what to do instead of passing this value as a source."""
    write = "Write the records to a file and name that"
    if isinstance(value, bytes):
        return "Name a path as text: os.fsdecode makes it from bytes."
    if hasattr(value, "to_frame"):
        method = "write_parquet" if type(value).__module__.startswith("polars") else "to_parquet"
        return f'{write}: column.to_frame("text").{method}("records.parquet").'
    for method in ("to_parquet", "write_parquet", "sink_parquet"):
        if callable(getattr(value, method, None)):
            return f'{write}: frame.{method}("records.parquet").'
    if hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__"):
        return f'{write}: pyarrow.parquet.write_table(pyarrow.table(records), "records.parquet").'
    if isinstance(value, Mapping):
        return f'{write}: pyarrow.parquet.write_table(pyarrow.table(columns), "records.parquet").'
    if isinstance(value, Iterable):
        items = list(islice(value, 1000)) if isinstance(value, Sequence | Set) else []
        unpack = "Unpack what names files: curate(*files, workspace=...)"
        if items and all(map(_names_a_file, items)):
            return f"{unpack}."
        item = "record" if items and isinstance(items[0], Mapping) else '{"text": record}'
        lines = f'Path("records.jsonl").write_text("\\n".join(json.dumps({item}) for record in records))'
        return f"{write}: {lines}." if items else f"{unpack}. {write}: {lines}."
    return "Name a file, a folder, a glob or an fsspec URL."


def _names_a_file(item: Any) -> bool:
    """Whether an item of a list is more likely the name of a file than a record."""
    if not isinstance(item, str):
        return isinstance(item, os.PathLike)
    return (is_url(item) and not set(item) & set(string.whitespace)) or os.path.lexists(item)


def _shown(value: Any) -> str:
    """A value behind a colon, on one line: of a collection its first item, of a table nothing."""
    if isinstance(value, COLLECTIONS):
        value = next(iter(value), None)
    return f": {short(value)}" if isinstance(value, str | bytes | int | float | Mapping | os.PathLike) else ""
