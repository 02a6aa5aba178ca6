"""The settings, each declared once: type, default, help and layer.

From a declaration come the option of the command line, the line of `curation.toml` with its comment, the check of a
value and what an error says. A new setting needs a line in `arguments.Options` besides, where type checkers and editors
find it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic.dataclasses import dataclass as declared

from dedup_assets.credentials import holds_credentials
from dedup_assets.errors import SettingsError
from dedup_assets.guard_rule import Guard, parse_guards
from dedup_assets.keep_rule import KeepRule
from dedup_assets.other_names import meant_by

NO_MODEL = "none"
CAME_LATER = {"against", "guards", "revision", "prompt", "truncate_dim"}
"""Settings that older workspaces do not have: with their defaults they do not change fingerprints."""


# -- kinds of values: a type, what holds of it, and, as text, what an error says was expected ---------------


def _unicode(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):  # as in a file name of raw bytes
        raise ValueError("expected valid Unicode, found bytes that are not")
    return text


def _columns(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or "" in names:
        raise ValueError("a name is empty or there is none, expected at least one column that holds the text")
    if len(set(names)) != len(names):
        raise ValueError(f"it names a column twice: {', '.join(names)}")
    return names


def _unweighted(value: Any) -> Any:
    if isinstance(value, Mapping):
        raise ValueError(
            "columns with weights are compared in memory only (deduplicate(..., columns={...})): a workspace has one "
            "vector for each text. Expected the names alone, whose texts are joined, or vectors of yours in a column "
            "(embedding_column)"
        )
    return value


def _sources(names: tuple[str, ...]) -> tuple[str, ...]:
    for source in filter(holds_credentials, names):
        raise SettingsError(
            f"the source {source!r} holds credentials, and what is watched stands in curation.toml. Tell "
            "fsspec of them (its configuration, the environment, .netrc), and name the source without."
        )
    return names


def _keep(rule: str) -> str:
    KeepRule.parse(rule)
    return rule


def _guards(names: tuple[str, ...]) -> tuple[str, ...]:
    # Sorted and in one spelling: order and spelling do not change decisions.
    return tuple(sorted(map(str, parse_guards(names))))


def _cron(text: str) -> str:
    if text:  # Dagster takes seconds to import
        from dagster._utils.schedules import is_valid_cron_string  # what the schedule itself is checked by

        if not is_valid_cron_string(text):
            raise ValueError('expected five fields (minute hour day month weekday), such as "0 3 * * 0", or nothing')
    return text


def _bytes(size: str) -> int:
    from dask.utils import parse_bytes

    return parse_bytes(size)


def _size(text: str) -> str:
    size = text.strip()
    with suppress(ValueError, OverflowError):
        if not size or (size[0].isdigit() and _bytes(size) > 0):  # Dask takes GB for 1GB
            return text
    raise ValueError("expected a size such as 2GB or 500MB, or nothing")


Text = Annotated[str, AfterValidator(_unicode)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
Columns = Annotated[Texts, AfterValidator(_columns), BeforeValidator(_unweighted)]
Sources = Annotated[Texts, AfterValidator(_sources)]
Keep = Annotated[Text, AfterValidator(_keep)]
Guards = Annotated[Texts, AfterValidator(_guards)]
Cron = Annotated[Text, AfterValidator(_cron)]
Size = Annotated[Text, AfterValidator(_size)]
Similarity = Annotated[float, Field(gt=0, le=1), "a cosine similarity above 0 and at most 1, such as 0.95"]
Share = Annotated[float, Field(ge=0, le=1), "a share from 0 to 1"]
Automatic = Annotated[int, Field(ge=0), "0 (automatic) or more"]
Count = Annotated[int, Field(ge=1), "1 or more"]
# What every random generator in use takes.
Seed = Annotated[int, Field(ge=0, lt=2**32), f"a whole number from 0 to {2**32 - 1}"]

Pooling = Literal["auto", "mean", "cls", "last"]
Precision = Literal["float32", "bfloat16", "float16"]
VectorType = Literal["float16", "float32"]
UnicodeForm = Literal["none", "NFC", "NFKC"]
DuplicateIds = Literal["quarantine", "refuse"]
Mode = Literal["append", "rebuild"]
KeeperRule = Literal["leader", "semdedup"]
Against = Literal["everything", "references"]
ChangedShards = Literal["replace", "refuse"]
FollowLinks = Literal["inside", "anywhere"]
CsvTypes = Literal["inferred", "text"]
VanishedShards = Literal["retract", "keep"]
Device = Literal["auto", "cpu", "cuda"]

# -- the settings, by what must be redone after a change ----------------------------------------------------------
#
# The text below a setting is its comment in curation.toml; the first sentence is the help of its option. Where the
# default is 0, empty or false, that sentence ends with what it means.

_CONFIG = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)


@declared(frozen=True, config=_CONFIG)
class _Vectors:
    """what a record is and how its vector is made; fixed for the life of a workspace"""

    text_columns: Columns = ("text",)
    """Columns that make the text; several are joined by one empty line. doc.text is the field text of a struct column
    doc. A column may also hold conversations: lists of messages with role and content."""
    id_column: Text = "id"
    """Column of the record id; if it is the default and absent, ids are SHARD:ROW."""
    embedding_column: Text = ""
    """Column with ready vectors; empty: the model makes them."""
    model: Text = "sentence-transformers/all-MiniLM-L6-v2"
    """Folder or hub id of the encoder, static:MODEL or module:factory. none: no model, and only exact copies are
    removed. A folder or hub id may name a static model, which is a table of token vectors: it takes seconds instead of
    minutes and suits records and near-copies, not paraphrases. static:MODEL makes one from a transformer, once.
    module:factory imports your function, which returns an object with encode(list of texts)."""
    revision: Text = ""
    """Commit, tag or branch of a hub model; empty: its main branch."""
    prompt: Text = "auto"
    """Name of a prompt of the model, or a prefix for every text; auto: the model's own prompt. Empty: none."""
    truncate_dim: Automatic = 0
    """Number of dimensions kept of each vector, for Matryoshka models; 0: all."""
    pooling: Pooling = "auto"
    """How a text's vector is made of its tokens; auto: as the model's files say."""
    max_length: Automatic = 0
    """Tokens read of each text; 0: the model's own window. Longer texts are counted."""
    precision: Precision = "float32"
    """Precision in which the model computes; float32 gives the same vectors on every machine (cosine 0.99999 and more).
    bfloat16 is up to four times as fast on processors that have it and on GPUs, at cosine 0.9998 to float32; float16,
    for GPUs, at 0.99999: decisions near the threshold then differ."""
    max_unknown: Share = 0.5
    """Largest share of unknown tokens in a text; a text above it, or without any token, is compared only by its
    characters, so only its exact copies are removed. 1: only texts without tokens."""
    vector_dtype: VectorType = "float16"
    """Type of the stored vectors. float16 makes the similarity exact in float64, whatever the order of summation."""
    unicode_form: UnicodeForm = "none"
    """Normal form applied before a text is compared."""
    keep_empty: bool = False
    """Empty texts are records like any other; false: they go to quarantine."""
    duplicate_ids: DuplicateIds = "quarantine"
    """A second record with the same id: quarantine it, or refuse its shard."""


@declared(frozen=True, config=_CONFIG)
class _Matches:
    """which similarities are stored; fixed for the life of a workspace"""

    floor: Similarity = 0.90
    """Similarity down to which matches are stored; not given: threshold - 0.05. The threshold can move above it."""


@declared(frozen=True, config=_CONFIG)
class _Decisions:
    """what is removed; `dedup-assets threshold` moves it without model or join"""

    threshold: Similarity = 0.95
    """Two records match when the cosine of their stored vectors is at least this."""
    keep: Keep = "first"
    """Which record of a shard comes first and so is kept: first, longest, hard (least like the shard's mean vector),
    easy (most like it), random, or column:NAME[:asc|desc]."""
    seed: Seed = 0
    """Seed of keep = random; the centroids use it too."""
    mode: Mode = "append"
    """append: shards in the order of their admission, nothing decided ever changes; rebuild: one order over all
    records, independent of the shards, and earlier decisions may change."""
    keeper_rule: KeeperRule = "leader"
    """leader: removed only for a record that is itself kept; semdedup: removed when close to any earlier record, even
    a removed one. The latter is for comparison with SemDeDup and NeMo Curator."""
    guards: Guards = ()
    """Further conditions for removing a record: numbers, contains>=X, words>=X, shingles>=X or
    package.module:function; empty: none. numbers: every number in its text is in the keeper's text. contains>=X: at
    least the share X of its runs of three words is in the keeper's text. words>=X, shingles>=X: the two texts have at
    least the share X of all their words, or of all their runs of five characters, in common. Your function gets the
    texts of the keeper and of the record; its code is run."""
    against: Against = "everything"
    """everything: records are removed for earlier records and for references; references: for references only. Then the
    corpus keeps its own duplicates, exact copies too."""


@declared(frozen=True, config=_CONFIG)
class _Arrival:
    """where shards come from and when; a change spoils nothing"""

    sources: Sources = ()
    """Files, folders, globs or URLs that are watched for shards while the Dagster daemon runs."""
    reference_sources: Sources = ()
    """The same for references: records that match them leave the corpus; references are never written out."""
    watch_seconds: Count = 30
    """Seconds between two checks of the sources; read when Dagster loads the definitions."""
    shards_per_run: Count = 100
    """Maximum number of new shards taken at one check. They are read and decided together: a larger number costs less
    per shard, a smaller one publishes sooner."""
    changed_shards: ChangedShards = "replace"
    """A shard whose file has changed: replace the old content, or refuse the file. Replacing makes a new
    generation of decisions."""
    strict: bool = False
    """A file in a source that is not read is an error; false: it is named in the summary."""
    follow_links: FollowLinks = "inside"
    """inside: a link in a source is followed if it leads to something in the same source; anywhere: all links are
    followed. Other links are reported and not read: otherwise, a user with write access to the folder could choose
    which of your files are published."""
    max_quarantined: Share = 0.9
    """Largest share of a shard's rows that may go to quarantine; a shard above it fails. It is more likely a wrong
    kind of file than a corpus with bad rows, so it is not published. 1: any share."""
    csv_types: CsvTypes = "inferred"
    """inferred: a column of a CSV file becomes numbers or booleans if writing them gives the text of the file again;
    text: every column stays text. A column that orders keepers is read as numbers in both cases."""
    vanished_shards: VanishedShards = "retract"
    """A shard whose file is gone from a watched folder with other files: retract it, so that records removed only
    because of it come back, or keep it."""
    recurate_cron: Cron = ""
    """When everything is decided again in one order, such as "0 3 * * 0" for Sundays at three (UTC); empty: never. Read
    when Dagster loads the definitions."""


@declared(frozen=True, config=_CONFIG)
class _Cost:
    """how the work is done; changes no result"""

    clusters: Automatic = 0
    """Number of k-means cells; 0: chosen from the corpus size."""
    batch_size: Automatic = 0
    """Maximum number of texts per batch of the encoder; 0: by token count."""
    trust_remote_code: bool = False
    """Run the Python code that comes with a model; false: refuse it. Use it only for code that you have read: the code
    has all your permissions. The model's fingerprint covers the files with the code, so this changes no result."""
    dense_limit: Automatic = 256
    """Matches per text from which a cell of near-copies is not listed pair by pair in pairs/; 0: every match is
    listed. The texts of such a cell are still compared with their keepers."""
    memory_limit: Size = ""
    """Memory for data held at once in the join, such as 2GB, not for the whole process; empty: half of the free memory.
    Matches beyond it spill to disk. Additional memory is needed for libraries (about 1 GB), for shards while they are
    read, and for matches while they are decided."""
    device: Device = "auto"
    """Where to compute."""
    scheduler: Text = ""
    """Address of a running Dask scheduler; empty: a local cluster."""
    workers: Automatic = 0
    """Workers of the local cluster; 0: one per GPU, or one on the CPU."""
    worker_timeout: Count = 120
    """Seconds without a sign of life after which a Dask worker counts as lost. A run without workers ends after this
    time."""
    output: Text = "output"
    """Where the result is published; not given: WORKSPACE/output. A relative path in this file starts at the
    workspace."""


_LAYERS: dict[str, Any] = dict(vectors=_Vectors, matches=_Matches, decisions=_Decisions, arrival=_Arrival, cost=_Cost)
LAYERS = {name: inspect.getdoc(part) or "" for name, part in _LAYERS.items()}
"""Groups of settings by what must be redone after a change, from the most expensive to the cheapest."""


@dataclass(frozen=True)
class Settings(_Cost, _Arrival, _Decisions, _Matches, _Vectors):
    """Everything that shapes a curation. Immutable; `fingerprint()` names it.

    Each is an option of `curate`, `register` and `watch` by its name, and an entry of WORKSPACE/curation.toml.

    Examples
    --------
    >>> import dedup_assets as da
    >>> da.Settings(threshold=0.9, keep="longest").threshold
    """

    def __post_init__(self) -> None:
        vars(self).update(checked(vars(self)))
        if self.floor > self.threshold:
            raise SettingsError(
                f"floor = {self.floor} lies above threshold = {self.threshold}: matches between them would "
                "be missing. Give a floor at or below the threshold, or leave it out."
            )

    @property
    def exact_only(self) -> bool:
        """Whether nothing but exact copies is looked for: texts have no vectors then."""
        return self.model == NO_MODEL and not self.embedding_column

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit in bytes; None where none is set."""
        return _bytes(self.memory_limit) if self.memory_limit.strip() else None

    def keep_rule(self) -> KeepRule:
        """The order in which the records of a shard are judged."""
        return KeepRule.parse(self.keep)

    def guard_rules(self) -> tuple[Guard, ...]:
        """The guards: further conditions for removing a record."""
        return parse_guards(self.guards)

    def fingerprint(self, *layers: str) -> str:
        """32 hex digits naming the settings of the given layers (default: all that shape a result)."""
        wanted = layers or ("vectors", "matches", "decisions")
        shaping = {name: value for layer in wanted for name, value in self.layer(layer).items()}
        for name in CAME_LATER & shaping.keys():
            if shaping[name] == DECLARED[name].default:
                del shaping[name]  # so results made without it stay valid
        text = json.dumps(shaping, sort_keys=True, ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_toml(self) -> str:
        """The text of curation.toml: every setting with its comment, grouped by layer."""
        import tomlkit

        lines = [
            "# Settings of this curation. Written by the first call, read by every later one.",
            "# Change decisions with the commands; settings of the first two groups are fixed.",
        ]
        for layer, meaning in LAYERS.items():
            lines += ["", f"# -- {layer}: {meaning}"]
            for name, value in self.layer(layer).items():
                lines += ["", f"# {DECLARED[name].comment}", f"{name} = {tomlkit.item(value).as_string()}"]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, where: str) -> Settings:
        """Read curation.toml. Raises SettingsError for broken TOML, unknown names and wrong values."""
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as problem:
            raise SettingsError(f"{where} is not valid TOML: {problem}.") from problem
        return cls.from_mapping(values, where)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "settings") -> Settings:
        """Build settings from plain values, which are checked."""
        return cls(**checked(values, where))

    def changed(self, values: Mapping[str, Any], where: str = "options") -> Settings:
        """A copy with some values replaced, which are checked."""
        return replace(self, **checked(values, where))

    def layer(self, name: str) -> dict[str, Any]:
        """The settings of one layer by name."""
        return {item.name: getattr(self, item.name) for item in DECLARED.values() if item.layer == name}

    def differences(self, other: Settings, *layers: str) -> dict[str, tuple[Any, Any]]:
        """Names whose values differ in the given layers, with both values (mine, the other's)."""
        mine, its = ({k: v for layer in layers for k, v in each.layer(layer).items()} for each in (self, other))
        return {name: (mine[name], its[name]) for name in mine if mine[name] != its[name]}


# -- what follows from the declarations ---------------------------------------------------------------------


class Declared(NamedTuple):
    """One setting as it is declared."""

    name: str
    layer: str
    default: Any
    choices: tuple[str, ...]
    conditions: Sequence[Any]
    """What pydantic holds a value against, and in words what is expected then."""
    comment: str

    @property
    def bounds(self) -> dict[str, Any]:
        """The least and the largest value as `ge` and `le`, where they are allowed themselves."""
        return {end: getattr(each, end) for each in self.conditions for end in ("ge", "le") if hasattr(each, end)}

    def expected(self, wrong_type: bool) -> str:
        """What an error asks for."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = [each for each in self.conditions if isinstance(each, str)]
        return _TYPES[type(self.default)] if wrong_type or not words else words[0]


_TYPES = {tuple: "a list of strings", str: "text", bool: "true or false", int: "a whole number", float: "a number"}

DECLARED = {
    name: Declared(
        name,
        layer,
        info.default,
        get_args(info.annotation) if get_origin(info.annotation) is Literal else (),
        info.metadata,
        " ".join(info.description.split()),
    )
    for layer, part in _LAYERS.items()
    for name, info in part.__pydantic_fields__.items()
}
"""Every setting by name, layer by layer."""

_HINTS = get_type_hints(Settings, include_extras=True)
_Given = create_model("_Given", __config__=_CONFIG, **{name: (_HINTS[name], None) for name in DECLARED})  # type: ignore[call-overload]


def checked(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Some settings by name, with values of their types.

    Raises SettingsError for unknown names and wrong values, with a line for each that begins with `where`.
    """
    try:
        given = _Given.model_validate(dict(values))
    except ValidationError as problem:
        wrong = {str(error["loc"][0]): error for error in problem.errors()}
        start = f"{where}: " if where else ""
        raise SettingsError("\n".join(start + _refusal(name, values[name], wrong[name]) for name in wrong)) from None
    return {name: getattr(given, name) for name in values}


def _refusal(name: str, value: Any, error: Any) -> str:
    if name not in DECLARED:
        meant = meant_by(name, [*DECLARED, "eps", "workspace"])
        # eps is not kept: in curation.toml the threshold stands.
        advice = f" Write {'threshold = 1 - eps' if meant == 'eps' else meant}." if meant else ""
        return f"unknown setting {name!r}. Known: {', '.join(sorted(DECLARED))}.{advice}"
    if error["type"] == "value_error":
        return f"{name} = {value!r}: {error['ctx']['error']}."
    return f"{name} = {value!r}: expected {DECLARED[name].expected(error['type'].endswith('_type'))}."


def _described() -> str:
    """The docstring of `Settings` with each of them, from where it is declared."""
    head, examples, rest = inspect.cleandoc(Settings.__doc__ or "").partition("Examples\n")
    entries = [f"{d.name} : {d.expected(True)}, default {d.default!r}\n    {d.comment}" for d in DECLARED.values()]
    return "\n".join([f"{head}Parameters\n----------", *entries, "", examples + rest])


Settings.__doc__ = _described()


def default_floor(threshold: float) -> float:
    """The threshold minus 0.05: room to lower the threshold by half again without a new join.

    At 0.95 this stores matches down to 0.90, which costs about twice the ghosts of the bare threshold.
    """
    return max(round(threshold - 0.05, 6), 1e-6)
