"""What the package asks of others: ranges that leave room, true at both ends, and what the metadata says of it."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = list(map(Requirement, PROJECT["dependencies"]))
TESTS = list(map(Requirement, PROJECT["optional-dependencies"]["test"]))


@pytest.mark.parametrize("requirement", DEPENDENCIES, ids=lambda requirement: requirement.name)
def test_a_plain_dependency_is_a_range_with_one_lower_bound_that_the_installed_release_is_in(
    requirement: Requirement,
) -> None:
    operators = sorted(each.operator for each in requirement.specifier)
    assert operators in ([">="], ["<", ">="])
    assert requirement.specifier.contains(importlib.metadata.version(requirement.name))


def test_the_oldest_set_is_the_lower_bound_of_all_but_torch() -> None:
    lines = runpy.run_path(str(ROOT / ".ci" / "oldest.py"))["oldest"](PROJECT)
    oldest = dict(line.split("==") for line in lines)
    assert set(oldest) == {each.name for each in [*DEPENDENCIES, *TESTS]} - {"torch"}
    for requirement in [*DEPENDENCIES, *TESTS]:
        if requirement.name != "torch":
            bounds = {each.version for each in requirement.specifier if each.operator != "<"}
            assert bounds == {oldest[requirement.name]}


def test_a_dependency_without_a_lower_bound_has_no_oldest_set() -> None:
    oldest = runpy.run_path(str(ROOT / ".ci" / "oldest.py"))["oldest"]
    for wrong in ("numpy", "numpy<3", "numpy!=2.0"):
        with pytest.raises(SystemExit, match=re.escape(f"'{wrong}' needs one lower bound")):
            oldest({"dependencies": [wrong], "optional-dependencies": {"test": []}})


def test_every_python_that_the_metadata_names_is_one_that_the_package_takes() -> None:
    classifiers = PROJECT["classifiers"]
    assert "Typing :: Typed" in classifiers and (ROOT / "dedup_assets" / "py.typed").is_file()
    named = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", "\n".join(classifiers), flags=re.MULTILINE)
    assert named and all(SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.0") for version in named)
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in named
