"""Names that people bring from other tools lead to ours: in Python, in curation.toml and on the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dedup_assets as da
from dedup_assets.cli import main
from dedup_assets.errors import SettingsError
from dedup_assets.other_names import _MEANT, _OTHER_NAMES, meant_by
from dedup_assets.settings import Settings
from dedup_assets_tests.cli.commands import Call, call

__all__ = ["call"]

TRIED = {
    "columns": "text_columns",
    "text_column": "text_columns",
    "n_clusters": "clusters",
    "k": "clusters",
    "which_to_keep": "keep",
    "similarity_threshold": "threshold",
    "epsilon": "threshold = 1 - eps",
    "Model_Name": "model",
    "treshold": "threshold",
    "embeding_column": "embedding_column",
    "num-workers": "workers",
    "random_state": "seed",
    "output_dir": "output",
    "workdir": "workspace",
}


@pytest.mark.parametrize("name", TRIED)
def test_python_and_the_settings_file_name_what_is_meant(tmp_path: Path, name: str) -> None:
    shard = tmp_path / "s.jsonl"
    shard.write_text('{"text": "a"}\n')
    with pytest.raises(SettingsError) as caught:
        da.curate(shard, workspace=tmp_path / "ws", **{name: 1})
    assert f"unknown setting {name!r}." in str(caught.value)
    assert str(caught.value).endswith(f". Write {TRIED[name]}.")
    da.register(shard, workspace=tmp_path / "ws")
    file = tmp_path / "ws" / "curation.toml"
    file.write_text(f'{file.read_text()}\n"{name}" = 1\n')
    with pytest.raises(SettingsError) as caught:
        da.open_curation(tmp_path / "ws")
    assert f"unknown setting {name!r}." in str(caught.value)
    assert str(caught.value).endswith(f". Write {TRIED[name]}.")


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--columns", "--text-column"),
        ("--n-clusters", "--clusters"),
        ("--k", "--clusters"),
        ("--which-to-keep", "--keep"),
        ("--similarity-threshold", "--threshold"),
        ("--epsilon", "--eps"),
        ("--model_name", "--model"),
        ("--treshold", "--threshold"),
    ],
)
def test_the_command_line_names_the_option_that_is_meant(call: Call, option: str, meant: str) -> None:
    called = call("curate", "x.csv", option, "1")
    error = called.err.rpartition("Error: ")[2]  # click's own words around it differ between its releases
    assert called.status == 2 and re.findall(r"--[\w-]+", error) == [option, meant]


def test_what_comes_near_nothing_is_not_guessed() -> None:
    assert meant_by("colour", Settings.__dataclass_fields__) == "" and meant_by("k", ["threshold"]) == ""


def test_the_table_leads_from_names_that_are_free_to_names_that_exist() -> None:
    settings = set(Settings.__dataclass_fields__)
    options = {parameter.name for parameter in main.commands["curate"].params}
    assert set(_OTHER_NAMES) <= settings | options
    assert not set(_MEANT) & (settings | options)
    assert len(_MEANT) == sum(len(names.split()) for names in _OTHER_NAMES.values()), "no name leads two ways"
