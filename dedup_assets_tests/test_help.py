"""`help` and `dir` show what there is, and each public function says what it takes, gives and looks like in use."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import dedup_assets as da
from dedup_assets.lookups.tables import LazyTable

FUNCTIONS = [value for name in da.__all__ if inspect.isfunction(value := getattr(da, name))]


def test_help_and_dir_list_every_public_name() -> None:
    page = pydoc.plain(pydoc.render_doc(da))
    functions = page[page.index("FUNCTIONS") :]
    assert {function.__name__ for function in FUNCTIONS} >= {"curate", "register", "recurate", "retract", "audit"}
    for name in da.__all__:
        assert name in dir(da)
        part = functions if getattr(da, name) in FUNCTIONS else page
        assert any(line.strip().startswith((f"{name}(", f"class {name}(")) for line in part.splitlines()), name


def test_listing_the_names_loads_nothing() -> None:
    code = "import sys, dedup_assets; dir(dedup_assets); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"dagster", "torch", "numpy", "pyarrow", "lancedb"} & set(loaded.split())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_function_says_what_it_takes_and_gives(function: Callable[..., Any]) -> None:
    page = inspect.getdoc(function) or ""
    head, *sections = page.split("\n-")
    assert head.splitlines()[0].endswith((".", ":")) and sections
    for section in ("Parameters\n", "Returns\n", "Examples\n"):
        assert f"\n{section}---" in page, section
    assert ">>> import dedup_assets as da\n" in page
    lines = page[page.index("Parameters\n") : page.index("Returns\n")].splitlines()
    described = {name for line in lines for name in line.partition(" : ")[0].split(", ")}
    for parameter in inspect.signature(function).parameters.values():
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        assert f"{stars}{parameter.name}" in described, parameter.name


@pytest.mark.parametrize("kind", [da.Curation, da.Settings, LazyTable])
def test_a_class_says_what_its_members_are(kind: type) -> None:
    assert ">>> import dedup_assets as da" in (inspect.getdoc(kind) or "")
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            assert inspect.getdoc(member), name
