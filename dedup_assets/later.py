"""Modules that are imported when they are first asked for something.

Importing torch takes two seconds of processor, and `pyarrow.dataset` half a second for pandas. Commands that need
neither (`curate` with nothing to do) load modules that would need them, and should not pay for it.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from functools import cache, partial, wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow.dataset as dataset
    import torch as torch
else:

    class _Later(ModuleType):
        def __getattr__(self, name: str) -> Any:
            # Looked up each time (a third of a microsecond), so that it is always the module itself that is asked.
            found = sys.modules.get(self.__name__)
            if found is None or getattr(found.__spec__, "_initializing", False):
                found = importlib.import_module(self.__name__)  # waits while another thread imports it
            return getattr(found, name)

    dataset = _Later("pyarrow.dataset")
    torch = _Later("torch")


_importing = threading.Lock()


def lancedb() -> ModuleType:
    """LanceDB, imported at the first call.

    A third of the time goes into pydantic's validators of a REST client that it imports and this package never calls:
    while it is imported they are made at a method's first call, and not before.
    """
    with _importing:
        if "lancedb" not in sys.modules:
            import pydantic

            validate = pydantic.validate_call
            pydantic.validate_call = partial(_validated_later, validate)
            try:
                importlib.import_module("lancedb")
            finally:
                pydantic.validate_call = validate
    return sys.modules["lancedb"]


def _validated_later(
    validate: Callable[..., Any], function: Callable[..., Any] | None = None, /, **options: Any
) -> Any:
    """As `validate`, which is called at the first call of what it gives."""
    if function is None:
        return partial(_validated_later, validate, **options)
    validated = cache(lambda: validate(function, **options))
    return wraps(function)(lambda *arguments, **named: validated()(*arguments, **named))


def is_loaded(name: str) -> bool:
    """Whether this process has imported a module."""
    return name in sys.modules
