"""Custom encoders: any object with `encode(list of texts)`, passed in Python or made by `module:factory`.

Their output is checked. They choose their own device and precision, and nothing guarantees that a vector depends on its
text alone. Each text is embedded once and its vector stored, so earlier decisions stay valid.
"""

from __future__ import annotations

import importlib
import inspect
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dedup_assets import named_code
from dedup_assets.compute.similarity import unit_rows
from dedup_assets.credentials import hide_environment
from dedup_assets.display_text import kind_of
from dedup_assets.encoder.encoder import EncodedTexts
from dedup_assets.encoder.probe import OWN, PROBE_TEXTS
from dedup_assets.encoder.text_encoder import AnyEncoder
from dedup_assets.errors import DedupError, ModelError, first_line
from dedup_assets.named_code import OBJECT, folder, home_of, imported, module_and_factory

FOREIGN_TEXTS = 512
"""Most texts in one call of a custom encoder, unless `batch_size` is set."""

_WANTED = "Expected an object with encode(list of n texts) that gives n rows of numbers"


class ForeignEncoder:
    """Wraps a custom encoder, which is called by one thread at a time.

    Blank texts are not passed to it: their vectors are zero, with unknown share 1, as for a text for which it returns
    zeros.

    Parameters
    ----------
    model : object with `encode`
    name : str
        Its name in messages.
    batch_size : int, optional
        Most texts in one call; None: `FOREIGN_TEXTS`.
    """

    max_length, precision = None, OWN

    def __init__(self, model: AnyEncoder, name: str, batch_size: int | None = None) -> None:
        self.model, self.name = model, name
        self.batch_size = batch_size or FOREIGN_TEXTS
        self._calling = threading.Lock()
        self._dimension = 0

    @property
    def dimension(self) -> int:
        """Length of the vectors. If there were none yet, one text is encoded. Raises ModelError."""
        return self._dimension or self.encode(PROBE_TEXTS[:1]).vectors.shape[1]

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Unit vectors of n `texts`. Raises ModelError if the encoder fails or does not return n vectors."""
        asked = [at for at, text in enumerate(texts) if text.strip()]
        found = [
            self._vectors([texts[at] for at in asked[start : start + self.batch_size]])
            for start in range(0, len(asked), self.batch_size)
        ]
        vectors = np.zeros((len(texts), self._dimension or self.dimension), np.float32)
        if found:
            vectors[asked] = np.concatenate(found)
        unknown = np.array(~vectors.any(axis=1), np.float32)
        return EncodedTexts(vectors, np.zeros(len(texts), np.bool_), np.zeros(len(texts), np.int32), unknown)

    def unknown_shares(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """1 for a blank text, else 0 (n,): a custom encoder does not report unknown tokens."""
        return np.array([not text.strip() for text in texts], np.float32)

    def _vectors(self, texts: list[str]) -> npt.NDArray[np.float32]:
        with self._calling:
            given = _called(f"{self.name}.encode", lambda: self.model.encode(texts))
            vectors = self._checked(given, texts)
            if self._dimension not in (0, vectors.shape[1]):
                raise ModelError(
                    f"{self.name}.encode gave vectors of {self._dimension} and of {vectors.shape[1]} numbers. Expected "
                    "as many each time"
                )
            self._dimension = vectors.shape[1]
        return unit_rows(vectors).astype(np.float32)

    def _checked(self, given: Any, texts: list[str]) -> npt.NDArray[Any]:
        given = getattr(given, "vectors", given)
        vectors = _called(f"reading what {self.name}.encode gave, {kind_of(given)},", lambda: np.asarray(given))
        if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1] or vectors.dtype.kind not in "fiu":
            raise ModelError(
                f"{self.name}.encode gave {kind_of(given)} of shape {vectors.shape} and dtype {vectors.dtype} for "
                f"{len(texts)} texts. Expected {len(texts)} rows of numbers"
            )
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(wrong):
            raise ModelError(
                f"{self.name}.encode gave a vector that is not finite for {texts[wrong[0]][:60]!r}. Expected finite "
                "numbers"
            )
        return vectors


# -- by name -----------------------------------------------------------------------------------------

_given: dict[str, ForeignEncoder] = {}


def own_encoder(model: Any) -> ForeignEncoder:
    """Wrap an object. Raises ModelError if it has no `encode`."""
    if not callable(getattr(model, "encode", None)):
        raise ModelError(
            f"model is {kind_of(model)}. Expected a folder or hub id, or an object with encode(list of texts)."
        )
    return ForeignEncoder(model, type(model).__qualname__)


def name_of(model: Any) -> str:
    """The name under which a workspace stores an encoder that is passed in Python.

    For a function or class it is `module:name`, which every process can import and call without arguments. For an
    object it is the name of its class, valid in this process only; a later object of the same class replaces an earlier
    one. The workspace's probe detects the wrong object. Raises ModelError for anything that is not an encoder.
    """
    if inspect.isclass(model) or (callable(model) and not callable(getattr(model, "encode", None))):
        module, name = getattr(model, "__module__", None), getattr(model, "__qualname__", "")
        if module in (None, "__main__", "builtins") or module_and_factory(f"{module}:{name}") is None:
            raise ModelError(
                f"model is {name or kind_of(model)} of {module or 'no module'}, which no other process can import. "
                "Write it into a module of its own, or call it and give the object."
            )
        return f"{module}:{name}"
    encoder = own_encoder(model)
    name = f"{OBJECT}{type(model).__module__}.{type(model).__qualname__}"
    if name not in _given or _given[name].model is not model:
        _given[name] = encoder
    return name


def given_or_named(name: str) -> ForeignEncoder | None:
    """The object of that name, or None for a `module:factory` whose module exists. Raises ModelError if this process
    has no such object or module."""
    if name.startswith(OBJECT):
        if name not in _given:
            raise ModelError(
                f"the model {name.removeprefix(OBJECT)} is a Python object, which only the process has that it was "
                "given in: da.curate(..., model=the object). Give it there again; or begin a new workspace with a "
                "function that makes it, by name: --model module:factory."
            )
        return _given[name]
    parts = module_and_factory(name)
    assert parts is not None
    if home_of(parts[0]) is None:
        raise ModelError(
            f"the model {name!r} names a function of the module {parts[0]!r}, and there is no such module on sys.path "
            f"or in {folder()}. Install it, or run from the folder that has it. (A model on this machine is named by "
            "its folder, one of the hub by its id.)"
        )
    return None


def made_by(name: str, batch_size: int | None) -> ForeignEncoder:
    """Import a `module:factory`, call it without arguments and wrap its result. Raises ModelError if one of these
    fails."""
    hide_environment()
    parts = module_and_factory(name)
    assert parts is not None
    module, attribute = parts
    wanted = "Expected a module with a function that is called without arguments"
    factory = _called(f"importing {name}", lambda: imported(module, attribute), wanted)
    if not callable(factory):
        raise ModelError(f"{name} is {kind_of(factory)}. Expected a function that is called without arguments.")
    model = _called(f"{name}()", factory)
    if not callable(getattr(model, "encode", None)):
        raise ModelError(f"{name}() gave {kind_of(model)}. {_WANTED}.")
    return ForeignEncoder(model, f"{name}()", batch_size)


def _called(what: str, call: Callable[[], Any], wanted: str = _WANTED) -> Any:
    """Call custom code and return its result. Any exception becomes a ModelError with its type, message and line.

    The exception is not kept as a cause: it may contain a key, and causes are stored with a run.
    """
    try:
        return call()
    except DedupError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if not frame.filename.startswith("<") and frame.filename not in _OURS]
        where = f" ({Path(theirs[0].filename).name}, line {theirs[0].lineno})" if theirs else ""
        message = f"{what} failed: {type(error).__name__}: {first_line(error)}{where}. {wanted}."
    raise ModelError(message)


_OURS = {__file__, named_code.__file__, importlib.__file__}
