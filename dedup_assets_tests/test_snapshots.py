"""What users see of the settings: the help of every command and `curation.toml`, as files under `snapshots/`.

A change shows up as a difference of these files. Where it is wanted, write them again:

    python -m dedup_assets_tests.test_snapshots
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

import dedup_assets as da
from dedup_assets.cli import main
from dedup_assets.settings import Settings
from dedup_assets.storage.workspace import Workspace

FOLDER = Path(__file__).parent / "snapshots"
WIDTH = 100

OPTIONS: dict[str, Any] = {
    "text_columns": ["title", 'the "body"\n'],
    "id_column": "número",
    "embedding_column": "vector",
    "precision": "bfloat16",
    "max_unknown": 1,
    "vector_dtype": "float32",
    "unicode_form": "NFC",
    "keep_empty": True,
    "floor": 0.5,
    "threshold": 0.875,
    "keep": "column:score:asc",
    "seed": 7,
    "mode": "rebuild",
    "against": "references",
    "sources": ["/data/incoming", "s3://bucket/week-*.parquet"],
    "watch_seconds": 300,
    "recurate_cron": "0 3 * * 0",
    "dense_limit": 0,
    "memory_limit": "2GB",
    "device": "cpu",
    "workers": 3,
}


def helps() -> str:
    """The help of every command, one after the other."""
    top = click.Context(main, info_name="dedup-assets", terminal_width=WIDTH, **main.context_settings)
    pages = [top.get_help()]
    for name, command in main.commands.items():
        context = click.Context(command, parent=top, info_name=name, terminal_width=WIDTH)
        pages.append(context.get_help())
    return "\n\n\n".join(pages) + "\n"


WRITTEN = {
    "help.txt": helps,
    "default.toml": lambda: Settings().to_toml(),
    "options.toml": lambda: Settings.from_mapping(OPTIONS).to_toml(),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_users_see_is_what_was_agreed(name: str) -> None:
    assert WRITTEN[name]() == (FOLDER / name).read_text(encoding="utf-8")


def test_the_settings_of_an_earlier_workspace_are_read_as_they_were(tmp_path: Path) -> None:
    # `release-0.1.toml` is `options.toml` as 0.1.0 wrote it, and is never written again.
    file = tmp_path / "curation.toml"
    file.write_bytes((FOLDER / "release-0.1.toml").read_bytes())
    space = Workspace.open(tmp_path)
    assert space.settings == Settings.from_mapping(OPTIONS)
    assert space.settings.fingerprint() == "8857bec1bd3ad9a531eab86ade49a906"
    assert space.settings.fingerprint("vectors") == "f8f9f68ee43cbfc1ff63808db043fde1"
    again = space.with_options({"threshold": 0.9, "workers": 1})
    assert (again.settings.threshold, again.settings.workers) == (0.9, 1)
    assert Workspace.open(tmp_path).settings == space.settings.changed({"threshold": 0.9})


def test_an_earlier_workspace_takes_more_shards(tmp_path: Path) -> None:
    workspace = tmp_path / "ws"
    workspace.mkdir()
    old = (FOLDER / "release-0.1.toml").read_text(encoding="utf-8")
    sources = next(line for line in old.splitlines() if line.startswith("sources = "))
    (workspace / "curation.toml").write_text(old.replace(sources, "sources = []"), encoding="utf-8")
    shard = tmp_path / "shard.jsonl"
    shard.write_text('{"title": "a"}\n')
    assert da.register(shard, workspace=workspace, threshold=0.875) == ["shard"]


if __name__ == "__main__":
    for name, write in WRITTEN.items():
        (FOLDER / name).write_text(write(), encoding="utf-8")
