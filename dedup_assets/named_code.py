"""`module:factory`: a function by the name under which any process can import it.

Where a module would be found is told without importing anything.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "DEDUP_ASSETS_FOLDER"
"""Names the folder from which a relative path of a model leads; the current one where it is not set."""

STATIC, OBJECT = "static:", "object:"
"""What else stands before a colon in the name of a model: one that is made, and a Python object of this process."""

_NAME = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def folder() -> Path:
    """From which relative names lead."""
    # Servers run in a folder of their own and name the one that they were started in.
    return Path(os.environ.get(FOLDER_VARIABLE, "")).absolute()


def module_and_factory(name: str) -> tuple[str, str] | None:
    """The parts of `module:factory`; None where a name is none."""
    found = None if name.startswith((STATIC, OBJECT)) else _NAME.fullmatch(name)
    return None if found is None else (found[1], found[2])


def home_of(module: str) -> str | None:
    """The file of a module's package, or its folder where it has no file; None where there is no such module.

    On `sys.path` first, then in the current folder: what is installed is never hidden by a file that happens to lie
    there.
    """
    top = module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # `__main__`, and what was put into `sys.modules` by hand
        return None
    spec = spec or PathFinder.find_spec(top, [str(folder())])
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), top)


def imported(module: str, attribute: str) -> Any:
    """What the attribute of a module is. Raises whatever the import raises, and AttributeError."""
    if importlib.util.find_spec(module.partition(".")[0]) is None and str(folder()) not in sys.path:
        sys.path.append(str(folder()))
        importlib.invalidate_caches()
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found
