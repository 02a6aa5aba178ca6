"""Imports run one way only: a room knows the rooms before it, and no module those that know it."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import dedup_assets

PACKAGE = Path(dedup_assets.__file__).parent

ROOMS = [
    "compute",
    "storage",
    "ingest",
    "encoder",
    "corpus",
    "resources",
    "checks",
    "lookups",
    "terminal",
    "in_memory",
    "report",
    "assets",
    "automation",
    "cli",
]
"""Lowest first. Each may import from those before it, and from modules of the package's root that import no room."""

WIRING = {
    *("definitions", "location", "embedded"),  # wire the assets for Dagster
    *("api", "arguments", "named_sources", "demo", "result", "result_lookups", ""),  # what a caller from Python meets
}
"""Modules of the root that know rooms."""


def imports() -> dict[str, set[str]]:
    """The modules of the package that each imports, also inside functions, by name without the package's."""
    files = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    found = {}
    for name, file in files.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dedup_assets":
                module = (node.module or "").removeprefix("dedup_assets").removeprefix(".")
                for alias in node.names:
                    inner = f"{module}.{alias.name}".lstrip(".")
                    found[name].add(inner if inner in files else module)
    assert len(found) > 150
    return found


def room(module: str) -> str:
    return module.split(".")[0]


def test_no_room_imports_one_above_it() -> None:
    wrong = []
    for module, known in imports().items():
        for other in known:
            if room(module) in ROOMS and room(other) in ROOMS:
                if ROOMS.index(room(other)) > ROOMS.index(room(module)):
                    wrong.append((module, other))
            elif room(module) in ROOMS and room(module) != "cli":
                if other in WIRING:
                    wrong.append((module, other))
            elif module not in WIRING and room(module) not in ROOMS and (room(other) in ROOMS or other in WIRING):
                wrong.append((module, other))
    assert not wrong


def test_every_package_is_a_room_and_says_what_it_holds() -> None:
    packages = {file.parent.relative_to(PACKAGE).parts[0] for file in PACKAGE.glob("*/__init__.py")}
    assert packages == set(ROOMS)
    for name in packages:
        assert ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8"))), name


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: known - {name} for name, known in imports().items() if name}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_mathematics_knows_no_orchestrator_and_no_files() -> None:
    for file in (PACKAGE / "compute").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"dagster", "dask", "distributed", "pathlib", "cupy", "cuml", "rmm"}, (file, roots)
