"""One typed settings object, its file `curation.toml`, and its fingerprints.

The settings fall into layers, from the most expensive to redo to the cheapest: what makes the vectors,
what is stored of the similarities, what is decided, and what only changes the cost. A workspace keeps
what it was made with; a later call may change a layer only where nothing made under it is spoilt.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from dedup_assets.credentials import holds_credentials
from dedup_assets.errors import SettingsError
from dedup_assets.keep_rule import KeepRule
from dedup_assets.other_names import meant_by

NO_MODEL = "none"


def _setting(default: Any, layer: str, comment: str, choices: tuple[str, ...] = ()) -> Any:
    """A field of `Settings`: `layer` says what a change spoils, `comment` goes into curation.toml."""
    metadata = {"layer": layer, "comment": comment, "choices": choices}
    if isinstance(default, list | tuple):
        return field(default=tuple(default), metadata=metadata)
    return field(default=default, metadata=metadata)


LAYERS = {
    "vectors": "what a record is and how its vector is made; fixed for the life of a workspace",
    "matches": "which similarities are stored; fixed for the life of a workspace",
    "decisions": "what is removed; `dedup-assets threshold` moves it without model or join",
    "arrival": "where shards come from and when; a change spoils nothing",
    "cost": "how the work is done; changes no result",
}


@dataclass(frozen=True)
class Settings:
    """Everything that shapes a curation. Immutable; `fingerprint()` names it.

    Each is an option of `curate`, `register` and `watch` by its name, and an entry of WORKSPACE/curation.toml.

    Examples
    --------
    >>> import dedup_assets as da
    >>> da.Settings(threshold=0.9, keep="longest").threshold
    """

    # -- vectors ------------------------------------------------------------------------------------
    text_columns: tuple[str, ...] = _setting(
        ("text",), "vectors", "Columns that make the text; several are joined by one empty line."
    )
    id_column: str = _setting(
        "id", "vectors", "Column of the record id. If it is the default and absent, ids are SHARD:ROW."
    )
    embedding_column: str = _setting("", "vectors", "Column with ready vectors; empty: the model below makes them.")
    model: str = _setting(
        "sentence-transformers/all-MiniLM-L6-v2",
        "vectors",
        "Local folder or hub id of the encoder. none: no model at all, and only exact copies go.",
    )
    pooling: str = _setting("auto", "vectors", "auto reads the model's own files.", ("auto", "mean", "cls", "last"))
    max_length: int = _setting(
        0, "vectors", "Tokens read of each text; 0: the model's own window. Longer texts are counted."
    )
    precision: str = _setting(
        "float32",
        "vectors",
        "In which the model computes. float32 gives the same vectors on every machine (cosine 0.99999 and more). "
        "bfloat16 is up to four times as fast on processors that have it and on GPUs, at cosine 0.9998 to float32; "
        "float16, for GPUs, at 0.99999: pairs near the threshold are decided otherwise.",
        ("float32", "bfloat16", "float16"),
    )
    max_unknown: float = _setting(
        0.5,
        "vectors",
        "Largest share of a text's tokens that the model may not know. A text above it, or without any token, is "
        "compared by its own characters only: exact copies go, nothing else. 1: texts without a token alone.",
    )
    vector_dtype: str = _setting(
        "float16",
        "vectors",
        "Stored vectors. float16 makes the similarity exact in float64, whatever the order of summation.",
        ("float16", "float32"),
    )
    unicode_form: str = _setting(
        "none", "vectors", "Normal form applied before a text is compared.", ("none", "NFC", "NFKC")
    )
    keep_empty: bool = _setting(
        False, "vectors", "true: empty texts are records like any other; false: they go to quarantine."
    )
    duplicate_ids: str = _setting(
        "quarantine",
        "vectors",
        "A second record with the same id: quarantine it, or refuse its shard.",
        ("quarantine", "refuse"),
    )
    # -- matches ------------------------------------------------------------------------------------
    floor: float = _setting(
        0.90, "matches", "Similarity down to which matches are stored; the threshold can move above it."
    )
    # -- decisions ----------------------------------------------------------------------------------
    threshold: float = _setting(
        0.95, "decisions", "Two records match when the cosine of their stored vectors is at least this."
    )
    keep: str = _setting(
        "first",
        "decisions",
        "Which record of a shard comes first and so is kept: first, longest, hard (least like the "
        "shard's mean vector), easy (most like it), random, or column:NAME[:asc|desc].",
    )
    seed: int = _setting(0, "decisions", "Seed of keep = random; the centroids use it too.")
    mode: str = _setting(
        "append",
        "decisions",
        "append: shards in the order of their admission, nothing decided ever changes. "
        "rebuild: one order over all records, independent of the shards; earlier decisions may change.",
        ("append", "rebuild"),
    )
    keeper_rule: str = _setting(
        "leader",
        "decisions",
        "leader: removed only for a record that is itself kept. semdedup: removed when close to any "
        "earlier record, even a removed one (for comparison with SemDeDup and NeMo Curator).",
        ("leader", "semdedup"),
    )
    against: str = _setting(
        "everything",
        "decisions",
        "What records are held against. everything: all earlier records and all references. references: references "
        "alone; the corpus keeps its own duplicates, exact copies too, and loses what stands in a reference.",
        ("everything", "references"),
    )
    # -- arrival ------------------------------------------------------------------------------------
    sources: tuple[str, ...] = _setting(
        (),
        "arrival",
        "Files, folders, globs or URLs that are watched for shards while the Dagster daemon runs.",
    )
    reference_sources: tuple[str, ...] = _setting(
        (), "arrival", "The same for references: what matches them leaves the corpus, they are never written out."
    )
    watch_seconds: int = _setting(
        30, "arrival", "Seconds between two looks at the sources; read when Dagster loads the definitions."
    )
    shards_per_run: int = _setting(
        100,
        "arrival",
        "Shards that one look brings in at most. What they bring is read and decided together, so more of them "
        "cost less each, and fewer are published sooner.",
    )
    changed_shards: str = _setting(
        "replace",
        "arrival",
        "A shard whose file has other content now: replace the old content, which makes a new generation of "
        "decisions, or refuse the file.",
        ("replace", "refuse"),
    )
    strict: bool = _setting(
        False, "arrival", "true: a file in a source that is not read is an error; false: it is named in the summary."
    )
    follow_links: str = _setting(
        "inside",
        "arrival",
        "inside: a link in a source is followed where it leads to something in the same source; others are named and "
        "not read, since whoever may write into the folder would choose which files of yours are published. "
        "anywhere: all links are followed.",
        ("inside", "anywhere"),
    )
    max_quarantined: float = _setting(
        0.9,
        "arrival",
        "Largest share of a shard's rows that may go to quarantine. A shard above it is more likely another kind of "
        "file than a corpus with bad rows: it fails, and nothing of it is published. 1: any share.",
    )
    csv_types: str = _setting(
        "inferred",
        "arrival",
        "inferred: a column of a CSV file becomes numbers or booleans where writing them out again gives the file's "
        "own text. text: every column stays text. A column that orders keepers is read as numbers in both.",
        ("inferred", "text"),
    )
    vanished_shards: str = _setting(
        "retract",
        "arrival",
        "A shard whose file is gone from a watched folder that still holds others: retract it, after which what was "
        "removed only because of it comes back, or keep it.",
        ("retract", "keep"),
    )
    recurate_cron: str = _setting(
        "",
        "arrival",
        'When the corpus is curated anew in one order, such as "0 3 * * 0" for Sundays at three (UTC); empty: never. '
        "Read when Dagster loads the definitions.",
    )
    # -- cost ---------------------------------------------------------------------------------------
    clusters: int = _setting(0, "cost", "Number of k-means cells; 0: chosen from the corpus size.")
    batch_size: int = _setting(0, "cost", "Texts per batch of the encoder at most; 0: by token count.")
    dense_limit: int = _setting(
        256,
        "cost",
        "Matches per text from which a cell of near-copies is not listed pair by pair in pairs/; its texts are "
        "decided against their keepers all the same. 0: every match is listed.",
    )
    memory_limit: str = _setting(
        "",
        "cost",
        "Memory for data held at once in the join, such as 2GB or 500MB; matches beyond it spill to disk. It hardly "
        "lowers the peak of the process: about 1 GB of libraries, the shards while they are read and the matches "
        "while they are decided come on top. Empty: half of what is free.",
    )
    device: str = _setting("auto", "cost", "Where to compute.", ("auto", "cpu", "cuda"))
    scheduler: str = _setting("", "cost", "Address of a running Dask scheduler; empty: a local cluster.")
    workers: int = _setting(0, "cost", "Workers of the local cluster; 0: one per GPU, or one on the CPU.")
    worker_timeout: int = _setting(
        120,
        "cost",
        "Seconds without a sign of life after which a Dask worker counts as lost, and a run ends without any.",
    )
    output: str = _setting("output", "cost", "Where the result is published; relative to the workspace.")

    def __post_init__(self) -> None:
        for item in fields(self):
            value, choices = getattr(self, item.name), item.metadata["choices"]
            if choices and value not in choices:
                raise SettingsError(f"{item.name} = {value!r}: expected one of {', '.join(choices)}.")
        for name in ("threshold", "floor"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and 0.0 < value <= 1.0):
                raise SettingsError(
                    f"{name} = {value!r}: expected a cosine similarity above 0 and at most 1, such as 0.95."
                )
        for name in ("max_quarantined", "max_unknown"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SettingsError(f"{name} = {getattr(self, name)}: expected a share from 0 to 1.")
        if self.floor > self.threshold:
            raise SettingsError(
                f"floor = {self.floor} lies above threshold = {self.threshold}: matches between them would "
                "be missing. Give a floor at or below the threshold, or leave it out."
            )
        if not self.text_columns or any(not name for name in self.text_columns):
            raise SettingsError("text_columns is empty: name at least one column that holds the text.")
        if len(set(self.text_columns)) != len(self.text_columns):
            raise SettingsError(f"text_columns names a column twice: {', '.join(self.text_columns)}.")
        for name in ("clusters", "batch_size", "max_length", "workers", "dense_limit"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} = {getattr(self, name)}: expected 0 (automatic) or more.")
        for name in ("watch_seconds", "shards_per_run", "worker_timeout"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} = {getattr(self, name)}: expected 1 or more.")
        if self.recurate_cron and not _is_cron(self.recurate_cron):
            raise SettingsError(
                f"recurate_cron = {self.recurate_cron!r}: expected five fields (minute hour day month weekday), such "
                'as "0 3 * * 0", or nothing.'
            )
        for source in (*self.sources, *self.reference_sources):
            if holds_credentials(source):
                raise SettingsError(
                    f"the source {source!r} holds credentials, and what is watched stands in curation.toml. Tell "
                    "fsspec of them (its configuration, the environment, .netrc), and name the source without."
                )
        parse_bytes(self.memory_limit)
        if not 0 <= self.seed < 2**32:  # what every random generator in use takes
            raise SettingsError(f"seed = {self.seed}: expected a whole number from 0 to {2**32 - 1}.")
        self.keep_rule()

    @property
    def exact_only(self) -> bool:
        """Whether nothing but exact copies is looked for: texts have no vectors then."""
        return self.model == NO_MODEL and not self.embedding_column

    def keep_rule(self) -> KeepRule:
        """The order in which the records of a shard are judged."""
        return KeepRule.parse(self.keep)

    def fingerprint(self, *layers: str) -> str:
        """32 hex digits naming the settings of the given layers (default: all that shape a result)."""
        wanted = layers or ("vectors", "matches", "decisions")
        shaping = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["layer"] in wanted}
        if shaping.get("against") == "everything":
            del shaping["against"]  # it came later: what was decided without it stands
        text = json.dumps(shaping, sort_keys=True, ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_toml(self) -> str:
        """The text of curation.toml: every setting with its comment, grouped by layer."""
        lines = [
            "# Settings of this curation. Written by the first call, read by every later one.",
            "# Change decisions with the commands; settings of the first two groups are fixed.",
        ]
        for layer, meaning in LAYERS.items():
            lines += ["", f"# -- {layer}: {meaning}"]
            for item in fields(self):
                if item.metadata["layer"] == layer:
                    lines += ["", f"# {item.metadata['comment']}"]
                    lines.append(f"{item.name} = {_toml_value(getattr(self, item.name))}")
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, where: str) -> Settings:
        """Read curation.toml. Raises SettingsError for broken TOML, unknown names and wrong types."""
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as problem:
            raise SettingsError(f"{where} is not valid TOML: {problem}.") from problem
        return cls.from_mapping(values, where)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "settings") -> Settings:
        """Build settings from plain values; names and types are checked."""
        return replace(cls(), **_checked(values, where))

    def changed(self, values: Mapping[str, Any], where: str = "options") -> Settings:
        """A copy with some values replaced; names and types are checked."""
        return replace(self, **_checked(values, where))

    def layer(self, name: str) -> dict[str, Any]:
        """The settings of one layer by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["layer"] == name}

    def differences(self, other: Settings, *layers: str) -> dict[str, tuple[Any, Any]]:
        """Names whose values differ in the given layers, with both values (mine, the other's)."""
        return {
            f.name: (getattr(self, f.name), getattr(other, f.name))
            for f in fields(self)
            if f.metadata["layer"] in layers and getattr(self, f.name) != getattr(other, f.name)
        }


def _described(kind: type[Settings]) -> str:
    """The docstring of the settings with each of them, from where it is declared."""
    head, examples, rest = inspect.cleandoc(kind.__doc__ or "").partition("Examples\n")
    entries = [
        f"{item.name} : {item.type}, default {item.default!r}\n    {item.metadata['comment']}" for item in fields(kind)
    ]
    return "\n".join([f"{head}Parameters\n----------", *entries, "", examples + rest])


Settings.__doc__ = _described(Settings)


def _is_cron(text: str) -> bool:
    from dagster._utils.schedules import is_valid_cron_string  # what the schedule itself is checked by

    return is_valid_cron_string(text)


def parse_bytes(text: str) -> int | None:
    """Bytes of a size such as 2GB, 500 MB or 1.5GiB; None where it is empty. Raises SettingsError."""
    if not text.strip():
        return None
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found["number"]) * _UNITS[found["unit"].lower()]) if found else 0
    if size <= 0:
        raise SettingsError(f"memory_limit = {text!r}: expected a size such as 2GB or 500MB, or nothing.")
    return size


_SIZE = re.compile(r"(?P<number>\d{1,15}(\.\d{1,15})?)\s*(?P<unit>([kmgt]i?)?b?)", re.IGNORECASE | re.ASCII)
_UNITS = {
    f"{prefix}{binary}{ending}": (1024 if binary else 1000) ** power
    for power, prefix in enumerate(("", "k", "m", "g", "t"))
    for binary in (("", "i") if prefix else ("",))
    for ending in ("", "b")
}


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {f.name: f for f in fields(Settings)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise SettingsError(
                f"{where}: unknown setting {name!r}. Known: {', '.join(sorted(known))}.{_instead_of(name, known)}"
            )
        default = known[name].default
        if isinstance(default, tuple) and isinstance(value, list | tuple):
            if not all(isinstance(part, str) for part in value):
                raise SettingsError(f"{where}: {name} = {value!r}: expected a list of strings.")
            value = tuple(value)
        elif isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not type(default):
            expected = {
                tuple: "a list of strings",
                str: "text",
                bool: "true or false",
                int: "a whole number",
                float: "a number",
            }[type(default)]
            raise SettingsError(f"{where}: {name} = {value!r}: expected {expected}.")
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, str) and _has_surrogates(part):
                raise SettingsError(f"{where}: {name} = {value!r}: expected valid Unicode, found bytes that are not.")
        checked[name] = value
    return checked


def _instead_of(name: str, known: Iterable[str]) -> str:
    """What is said beside an unknown name: the setting that it means here."""
    meant = meant_by(name, [*known, "eps", "workspace"])
    if meant == "eps":  # not kept: in `curation.toml` the threshold stands
        return " Write threshold = 1 - eps."
    return f" Write {meant}." if meant else ""


def _has_surrogates(text: str) -> bool:
    """Whether the text cannot be written as UTF-8, as a file name of raw bytes cannot."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(part) for part in value) + "]"
    if isinstance(value, str):
        # JSON strings are TOML basic strings once DEL is escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def default_floor(threshold: float) -> float:
    """The threshold minus 0.05: room to lower the threshold by half again without a new join.

    At 0.95 this stores matches down to 0.90, which costs about twice the ghosts of the bare threshold.
    """
    return max(round(threshold - 0.05, 6), 1e-6)
