"""Modules that are imported at their first use.

Importing torch takes two seconds of processor time, LanceDB one, and `pyarrow.dataset` half a second, because it
imports pandas. Commands that use none of them, such as `curate` with nothing to do, load modules that refer to them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import lancedb as lancedb
    import pyarrow.dataset as dataset
    import torch as torch
else:

    class _Later(ModuleType):
        def __getattr__(self, name: str) -> Any:
            # Looked up at each use (a third of a microsecond), so that a replaced module is used too.
            found = sys.modules.get(self.__name__)
            if found is None or getattr(found.__spec__, "_initializing", False):
                found = importlib.import_module(self.__name__)  # waits while another thread imports it
            return getattr(found, name)

    dataset = _Later("pyarrow.dataset")
    lancedb = _Later("lancedb")
    torch = _Later("torch")


def is_loaded(name: str) -> bool:
    """Whether this process has imported a module."""
    return name in sys.modules
