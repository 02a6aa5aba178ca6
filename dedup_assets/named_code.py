"""Names of the form `module:factory`, under which any process can import a function.

`home_of` finds the file of a module without importing it.
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
"""Environment variable with the folder that relative paths of models start from; by default the current folder."""

STATIC, OBJECT = "static:", "object:"
"""Other prefixes of model names: a static model that is made, and a Python object of this process."""

_NAME = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def folder() -> Path:
    """The folder that relative names start from."""
    # Servers run in a folder of their own and set the variable to the folder they were started in.
    return Path(os.environ.get(FOLDER_VARIABLE, "")).absolute()


def module_and_factory(name: str) -> tuple[str, str] | None:
    """The parts of `module:factory`; None if a name does not have this form."""
    found = None if name.startswith((STATIC, OBJECT)) else _NAME.fullmatch(name)
    return None if found is None else (found[1], found[2])


def home_of(module: str) -> str | None:
    """The file of a module's top package, or its folder if it has no file; None if there is no such module.

    `sys.path` is searched before the current folder, so a file there never hides an installed package.
    """
    top = module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # `__main__`, and modules put into `sys.modules` by hand
        return None
    spec = spec or PathFinder.find_spec(top, [str(folder())])
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), top)


def imported(module: str, attribute: str) -> Any:
    """Import a module and return an attribute of it. Raises any exception of the import, and AttributeError."""
    if importlib.util.find_spec(module.partition(".")[0]) is None and str(folder()) not in sys.path:
        sys.path.append(str(folder()))
        importlib.invalidate_caches()
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found
