"""A virtual environment with exactly the packages of an install command, made in a second.

pip needs minutes and the network for it. Here the requirements of the command are resolved among the distributions of
this interpreter, and only their files are linked. So imports, metadata and commands are those of a real install,
without the packages of the tests.
"""

from __future__ import annotations

import csv
import re
import shlex
import sysconfig
import venv
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "dedup-assets"


def requirements_of(command: str) -> list[Requirement]:
    """The requirements of a `pip install` in a shell command; `-e .` is this project."""
    words = shlex.split(command)
    words = words[words.index("install") + 1 :]
    words = words[: words.index("&&")] if "&&" in words else words
    return [Requirement(re.sub(r"^\.(?=\[|$)", PROJECT, word)) for word in words if not word.startswith("-")]


def installed(**named: str) -> Iterator[metadata.Distribution]:
    """The distributions installed in this interpreter, without metadata that a build left in the working folder."""
    return iter(metadata.distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")], **named))


def distributions_for(requirements: list[Requirement]) -> dict[str, metadata.Distribution]:
    """The installed distributions that requirements resolve to, by name."""
    found: dict[str, metadata.Distribution] = {}
    followed: set[tuple[str, str]] = set()
    waiting = list(requirements)
    while waiting:
        wanted = waiting.pop()
        distribution = next(installed(name=wanted.name), None)
        assert distribution is not None, f"{wanted.name} is not installed"
        assert wanted.specifier.contains(distribution.version, prereleases=True), (wanted, distribution.version)
        name = canonicalize_name(wanted.name)
        found[name] = distribution
        for extra in {"", *wanted.extras} - {extra for known, extra in followed if known == name}:
            followed.add((name, extra))
            needs = map(Requirement, distribution.requires or ())
            waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return found


def recorded(distribution: metadata.Distribution) -> list[str]:
    """A distribution's files in the folder of packages; not its programs and data elsewhere."""
    rows = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    return [row[0] for row in rows if row and not row[0].startswith(("..", "/"))]


def make_environment(folder: Path, command: str) -> Path:
    """Make the environment of an install command at `folder`; returns its folder of programs."""
    wanted = distributions_for(requirements_of(command))
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    programs = Path(sysconfig.get_path("scripts", vars={"base": str(folder)}))
    files = {canonicalize_name(each.name): recorded(each) for each in installed()}
    owners: dict[str, set[str]] = defaultdict(set)
    for name, paths in files.items():
        for path in paths:
            owners[path.partition("/")[0]].add(name)
    for name, distribution in wanted.items():
        # A folder that belongs to one distribution is linked whole; in a shared folder, its files are.
        first = {path: path.partition("/")[0] for path in files[name]}
        for part in {path if len(owners[first[path]]) > 1 else first[path] for path in files[name]}:
            source = Path(str(distribution.locate_file(part)))
            if source.exists():
                (site / part).parent.mkdir(parents=True, exist_ok=True)
                (site / part).symlink_to(source)
        for entry in distribution.entry_points.select(group="console_scripts"):
            module, _, function = entry.value.partition(":")
            program = programs / entry.name
            program.write_text(
                f"#!{programs}/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            )
            program.chmod(0o755)
    return programs
