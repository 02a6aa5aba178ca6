"""The lower bounds of pyproject.toml, as constraints by which an installer takes exactly these: `oldest.py FILE`."""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

BY_HAND = {"torch"}
"""Left out: of older releases the package index of this platform has builds for CUDA alone, several GB."""


def oldest(project: dict) -> list[str]:
    """`NAME==BOUND` for each dependency and each package that the tests need; what is pinned stays as it is."""
    found = []
    for requirement in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["test"]]):
        if requirement.name in BY_HAND:
            continue
        bounds = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
        if len(bounds) != 1:
            sys.exit(f"pyproject.toml: '{requirement}' needs one lower bound, `>=` or `==`")
        found.append(f"{requirement.name}=={bounds[0]}")
    return found


def main() -> None:
    """Write the constraints to the named file."""
    pyproject = Path(__file__).resolve().parents[1] / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    Path(sys.argv[1]).write_text("\n".join(oldest(project)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
