"""Promises of the settings: their file, what is refused, and what their fingerprints name."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dedup_assets as da
from dedup_assets.arguments import Options
from dedup_assets.encoder.text_encoder import AnyEncoder
from dedup_assets.errors import SettingsError
from dedup_assets.keep_rule import ORDERS, KeepRule
from dedup_assets.settings import DECLARED, LAYERS, Settings, default_floor

ODD = ['"', "'", "\\", "\n", "\r\n", "\t", "\x00", "\x1b", "\x7f", "\x85", "\u2028", "é", "雪", "😀", "#", "]", "= 1"]
odd_text = st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=4)), max_size=6).map("".join)
odd_name = odd_text.filter(bool)
similarity = st.floats(1e-9, 1.0)
keeps = st.one_of(
    st.sampled_from(ORDERS),
    st.tuples(odd_name, st.sampled_from(["", ":asc", ":desc"])).map(lambda parts: f"column:{parts[0]}{parts[1]}"),
)
guard_lists = st.one_of(
    st.just([]),
    st.floats(1e-9, 1.0).map(lambda bound: ["numbers", "package.module:function", f"contains>={bound!r}"]),
)
FREE_TEXT = ("id_column", "embedding_column", "model", "revision", "prompt", "scheduler", "output")


@st.composite
def setting_values(draw: st.DrawFn) -> dict[str, Any]:
    """Values for every setting, all of them allowed."""
    floor, threshold = sorted((draw(similarity), draw(similarity)))
    values: dict[str, Any] = {name: draw(odd_text) for name in FREE_TEXT}
    for item in DECLARED.values():
        if item.choices:
            values[item.name] = draw(st.sampled_from(item.choices))
    for name in ("max_length", "truncate_dim", "clusters", "batch_size", "workers", "dense_limit"):
        values[name] = draw(st.integers(0, 2**40))
    return values | {
        "text_columns": tuple(draw(st.lists(odd_name, min_size=1, max_size=3, unique=True))),
        "strict": draw(st.booleans()),
        "max_unknown": draw(st.floats(0.0, 1.0)),
        "max_quarantined": draw(st.floats(0.0, 1.0)),
        "keep_empty": draw(st.booleans()),
        "trust_remote_code": draw(st.booleans()),
        "floor": floor,
        "threshold": threshold,
        "keep": draw(keeps),
        "guards": tuple(sorted(draw(guard_lists))),
        "memory_limit": draw(st.sampled_from(["", "2GB", "1.5 GiB", "200mb", "4096"])),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "sources": tuple(draw(st.lists(odd_text, max_size=2))),
        "reference_sources": tuple(draw(st.lists(odd_text, max_size=2))),
        "watch_seconds": draw(st.integers(1, 10**6)),
        "shards_per_run": draw(st.integers(1, 10**6)),
        "worker_timeout": draw(st.integers(1, 10**6)),
        "recurate_cron": draw(st.sampled_from(["", "0 3 * * 0", "*/15 * 1,15 jan-jun mon"])),
    }


def test_every_setting_has_a_layer_a_comment_and_a_generated_value() -> None:
    for item in DECLARED.values():
        assert item.layer in LAYERS
        assert item.comment.endswith(".")


def test_guards_name_a_fingerprint_of_their_own_and_their_order_and_spelling_do_not() -> None:
    bare = Settings().fingerprint("decisions")
    assert (
        Settings(guards=()).fingerprint("decisions") == bare == "df0cafd137ac5da8c73375eb392c4c67"
    )  # of workspaces before there were guards
    one = Settings(guards=("contains >= .80", "numbers"))
    assert one.guards == ("contains>=0.8", "numbers")
    assert (
        one.fingerprint("decisions") == Settings(guards=("numbers", "contains>=0.8")).fingerprint("decisions") != bare
    )
    assert one.fingerprint("vectors", "matches") == Settings().fingerprint("vectors", "matches")


@pytest.mark.parametrize(
    "guard",
    [
        *("same:column", "differs:column", "within:year:1", "fitted", "cross-encoder:model>=0.5", "", "numbers>=0.5"),
        *("contains", "contains>=0", "contains>=1.1", "contains>=nan", "contains>=x", "words<=0.5", "1module:function"),
    ],
)
def test_what_is_no_guard_is_refused_with_what_is(guard: str) -> None:
    with pytest.raises(SettingsError, match=r"expected numbers, contains>=X|no share above 0"):
        Settings(guards=(guard,))


def test_a_guard_is_given_once() -> None:
    with pytest.raises(SettingsError, match="'contains' is given twice"):
        Settings(guards=("contains>=0.8", "contains>=0.9"))


@settings(deadline=None)  # the first cron imports Dagster
@given(setting_values())
def test_what_is_written_to_toml_is_read_back_equal(values: dict[str, Any]) -> None:
    assert set(values) == {item.name for item in DECLARED.values()}
    written = Settings.from_mapping(values)
    text = written.to_toml()
    again = Settings.from_toml(text, "curation.toml")
    assert again == written
    assert again.fingerprint() == written.fingerprint()
    assert again.to_toml() == text
    assert text.encode("utf-8").decode("utf-8") == text


def test_the_file_shows_every_setting_under_its_comment_and_its_layer() -> None:
    lines = Settings().to_toml().splitlines()
    for item in DECLARED.values():
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{item.name} = "))
        assert lines[at - 1] == f"# {item.comment}"
        layer = next(line for line in reversed(lines[:at]) if line.startswith("# -- "))
        assert layer.startswith(f"# -- {item.layer}: ")
    assert set(tomllib.loads("\n".join(lines))) == {item.name for item in DECLARED.values()}


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_toml("treshold = 0.9\n", "ws/curation.toml")
    message = str(refused.value)
    assert "ws/curation.toml" in message and "'treshold'" in message
    assert all(item.name in message for item in DECLARED.values())


@pytest.mark.parametrize(
    ("name", "found", "expected"),
    [
        ("threshold", "0.9", "a number"),
        ("threshold", True, "a number"),
        ("floor", None, "a number"),
        ("clusters", 3.0, "a whole number"),
        ("clusters", "3", "a whole number"),
        ("seed", False, "a whole number"),
        ("keep_empty", 1, "true or false"),
        ("keep_empty", "yes", "true or false"),
        ("model", 5, "text"),
        ("output", ["a"], "text"),
        ("text_columns", "text", "a list of strings"),
        ("text_columns", ["a", 1], "a list of strings"),
    ],
)
def test_a_wrong_type_is_refused_with_what_was_found_and_expected(name: str, found: Any, expected: str) -> None:
    for build in (Settings.from_mapping, Settings().changed):
        with pytest.raises(SettingsError) as refused:
            build({name: found}, "here")
        assert str(refused.value) == f"here: {name} = {found!r}: expected {expected}."


def test_all_that_is_wrong_in_a_file_is_named_at_once_by_file_key_and_value() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_toml('threshold = "high"\nclusters = -1\ndevice = "tpu"\nkeep = "best"\n', "ws/curation.toml")
    assert sorted(str(refused.value).splitlines()) == [
        "ws/curation.toml: clusters = -1: expected 0 (automatic) or more.",
        "ws/curation.toml: device = 'tpu': expected one of auto, cpu, cuda.",
        "ws/curation.toml: keep = 'best': expected first, longest, hard, easy, random or column:NAME[:asc|desc].",
        "ws/curation.toml: threshold = 'high': expected a number.",
    ]


def test_settings_made_directly_are_checked_and_of_one_type() -> None:
    with pytest.raises(SettingsError, match="threshold = 7: expected a cosine similarity"):
        Settings(threshold=7)
    assert type(Settings(threshold=1).threshold) is float and type(Settings(floor=np.float64(0.5)).floor) is float


def test_weights_of_columns_are_refused_with_where_they_are_taken() -> None:
    for build in (Settings.from_mapping, Settings().changed):
        with pytest.raises(SettingsError, match=r"in memory only \(deduplicate\(.*vectors of yours"):
            build({"text_columns": {"title": 2.0, "body": 1.0}})


def test_a_set_gives_no_order_and_is_refused() -> None:
    with pytest.raises(SettingsError, match="expected a list of strings"):
        Settings.from_mapping({"text_columns": {"a", "b"}})


def test_callers_from_python_see_every_setting_with_its_type() -> None:
    typed, declared = get_type_hints(Options), get_type_hints(Settings)
    assert {name: typed.pop(name) for name in ("eps", "exact_only")} == {"eps": float, "exact_only": bool}
    several = ("text_columns", "guards")
    assert all(typed.pop(name) == str | Sequence[str] for name in several)  # one may stand for itself
    assert typed.pop("model") == str | AnyEncoder | Callable[[], AnyEncoder]
    elsewhere = {*several, "model", "sources", "reference_sources"}  # the last two are named by `watch`
    assert typed == {name: declared[name] for name in DECLARED if name not in elsewhere}
    for function in (da.curate, da.register, da.watch):
        assert inspect.signature(function).parameters["options"].annotation == "Unpack[Options]"


def test_a_default_of_nothing_says_what_it_means() -> None:
    # The help of the option shows it as the default.
    for item in DECLARED.values():
        if item.default in (0, "", False) and item.name != "seed":
            empty = {int: "0", bool: "false"}.get(type(item.default), "empty")
            assert f"; {empty}: " in item.comment.partition(". ")[0], item.name


@pytest.mark.parametrize("item", [f for f in DECLARED.values() if f.choices], ids=lambda f: f.name)
def test_a_wrong_choice_is_refused_with_the_choices(item: Any) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_mapping({item.name: "wrong"})
    assert f"{item.name} = 'wrong'" in str(refused.value)
    assert ", ".join(item.choices) in str(refused.value)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.0000001, float("nan"), float("inf"), 95])
@pytest.mark.parametrize("name", ["threshold", "floor"])
def test_a_similarity_that_is_no_cosine_above_zero_is_refused(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=rf"{name} = .*expected a cosine similarity above 0 and at most 1"):
        Settings.from_mapping({name: value})


@given(similarity, similarity)
def test_a_floor_above_the_threshold_is_refused_and_no_other(a: float, b: float) -> None:
    floor, threshold = a, b
    if floor <= threshold:
        assert Settings(floor=floor, threshold=threshold).floor == floor
        return
    with pytest.raises(SettingsError) as refused:
        Settings(floor=floor, threshold=threshold)
    assert f"floor = {floor} lies above threshold = {threshold}" in str(refused.value)
    assert "at or below the threshold" in str(refused.value)


@given(st.floats(1e-6, 1.0))
def test_the_default_floor_always_fits_its_threshold(threshold: float) -> None:
    assert Settings(threshold=threshold, floor=default_floor(threshold)).floor <= threshold


@pytest.mark.parametrize("name", ["clusters", "batch_size", "max_length", "workers", "dense_limit"])
def test_a_negative_number_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name} = -1: expected 0 \(automatic\) or more"):
        Settings.from_mapping({name: -1})


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(SettingsError, match=f"seed = {seed}: expected a whole number from 0"):
        Settings.from_mapping({"seed": seed})


@pytest.mark.parametrize("name", ["watch_seconds", "shards_per_run", "worker_timeout"])
def test_an_interval_or_a_bound_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name} = 0: expected 1 or more"):
        Settings.from_mapping({name: 0})


@pytest.mark.parametrize("cron", ["weekly", "0 3 * *", "0 3 * * 9", "61 * * * *", "0 0 3 * * 0", "0 0 30 2 *"])
def test_a_cron_that_no_schedule_takes_is_refused(cron: str) -> None:
    with pytest.raises(SettingsError, match=r"recurate_cron = .*expected five fields .*such as \"0 3 \* \* 0\""):
        Settings.from_mapping({"recurate_cron": cron})


def test_text_columns_must_name_distinct_columns() -> None:
    for columns, problem in (([], "empty"), ([""], "empty"), (["a", "b", "a"], "twice: a, b, a")):
        with pytest.raises(SettingsError, match=problem):
            Settings.from_mapping({"text_columns": columns})


def test_broken_toml_is_refused_with_file_and_place() -> None:
    with pytest.raises(SettingsError, match=r"ws/curation\.toml is not valid TOML: .*line 2"):
        Settings.from_toml('model = "a"\nmodel = = 3\n', "ws/curation.toml")


@pytest.mark.parametrize("name", ["model", "output", "text_columns"])
def test_a_name_of_bytes_that_are_no_unicode_is_refused_before_it_is_stored(name: str) -> None:
    value = b"caf\xe9".decode("utf-8", "surrogateescape")
    with pytest.raises(SettingsError, match=rf"{name} = .*valid Unicode"):
        Settings.from_mapping({name: [value] if name == "text_columns" else value})


# -- fingerprints ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(setting_values(), setting_values(), st.data())
def test_a_layers_fingerprint_changes_exactly_with_that_layer(
    mine: dict[str, Any], theirs: dict[str, Any], data: st.DataObject
) -> None:
    item = data.draw(st.sampled_from([*DECLARED.values()]))
    before = Settings.from_mapping(mine | {"floor": 1e-9, "threshold": 1.0})
    value = theirs[item.name]
    after = before.changed({item.name: value})
    differs = getattr(before, item.name) != value
    for layer in LAYERS:
        moved = before.fingerprint(layer) != after.fingerprint(layer)
        assert moved == (differs and layer == item.layer)
    shapes_results = item.layer not in ("arrival", "cost")
    assert (before.fingerprint() != after.fingerprint()) == (differs and shapes_results)
    expected = {item.name: (getattr(before, item.name), value)} if differs else {}
    assert before.differences(after, *LAYERS) == expected
    assert before.differences(after, *(layer for layer in LAYERS if layer != item.layer)) == {}


def test_whole_numbers_and_floats_of_one_value_make_one_fingerprint() -> None:
    assert Settings.from_mapping({"threshold": 1}).fingerprint() == Settings(threshold=1.0).fingerprint()


def test_no_two_single_changes_share_a_fingerprint() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"text_columns": ["text", "id"]},
        {"text_columns": ["text, id"]},
        {"id_column": "text"},
        {"embedding_column": "text"},
        {"model": "text"},
        {"floor": 0.91},
        {"threshold": 0.91},
        {"seed": 1},
        {"keep": "random"},
        {"prompt": ""},
        {"prompt": "query"},
        {"revision": "query"},
        {"truncate_dim": 7},
    ]
    seen = {Settings().changed(change).fingerprint() for change in changes}
    assert len(seen) == len(changes)
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in seen)


# -- keep --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "column"),
    [
        *((choice, None) for choice in ORDERS),
        ("column:score", ("score", True)),
        ("column:score:desc", ("score", True)),
        ("column:score:asc", ("score", False)),
        ("column:a:b", ("a:b", True)),
        ("column:a:b:asc", ("a:b", False)),
        ("column:asc", ("asc", True)),
        ("column:desc:asc", ("desc", False)),
        ("column:two words\n", ("two words\n", True)),
        ("column:two\nlines:asc", ("two\nlines", False)),
    ],
)
def test_keep_names_an_order_or_a_column_with_a_direction(keep: str, column: tuple[str, bool] | None) -> None:
    rule = Settings.from_mapping({"keep": keep}).keep_rule()
    assert ((rule.column, rule.descending) if rule.column else None) == column


@given(odd_name.filter(lambda name: not name.endswith((":asc", ":desc"))), st.sampled_from(["", ":asc", ":desc"]))
def test_any_column_name_can_order_the_keepers(name: str, direction: str) -> None:
    assert Settings(keep=f"column:{name}{direction}").keep_rule() == KeepRule("column", name, direction != ":asc")


@pytest.mark.parametrize("keep", ["", "last", "First", "column", "column:", "col:score", " first", "first\n"])
def test_any_other_keep_is_refused_with_the_syntax(keep: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_mapping({"keep": keep})
    message = str(refused.value)
    assert f"keep = {keep!r}" in message and "column:NAME[:asc|desc]" in message
    assert all(choice in message for choice in ORDERS)
