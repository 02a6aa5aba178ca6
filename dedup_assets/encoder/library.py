"""Model folders that sentence-transformers itself runs: with modules besides a transformer and its pooling, with other
poolings, or with trusted code of their own.

Every text is a batch of its own, on one thread of torch's: so its vector depends on it alone. Cores are used by running
texts side by side, each thread with a copy of the model that shares the weights.
"""

from __future__ import annotations

import copy
import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dedup_assets.compute.workers import OneThreadWorkers
from dedup_assets.encoder.encoder import EncodedTexts
from dedup_assets.encoder.folder import brings_code
from dedup_assets.encoder.probe import LEAST_AGREEMENT, PROBE_TEXTS, try_out
from dedup_assets.encoder.window import WindowTokenizer
from dedup_assets.errors import ModelError, first_line

_DECIDING = (".json", ".safetensors", ".bin", ".model", ".txt")


def library_files(folder: Path) -> set[Path]:
    """The files of a folder and of the modules in it that decide the vectors."""
    suffixes = (*_DECIDING, ".py") if brings_code(folder) else _DECIDING
    return {
        path
        for path in (*folder.iterdir(), *folder.glob("*/*"))
        if path.suffix in suffixes and path.is_file() and not path.name.startswith("README")
    }


def load_by_library(
    folder: Path, why: str, max_length: int | None, device: str, precision: str, prompt: str, trusted: bool
) -> LibraryEncoder:
    """The encoder of a checked folder, with a prompt before every text. `why` names the part that needs the library.
    The code in a `trusted` folder is run.

    Raises ModelError if the library is missing or fails.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ModelError(
            f"the model in {folder} has {why}, which the library sentence-transformers has to run. Install it: pip "
            "install 'dedup-assets[sentence-transformers]', or bring the vectors with the data (--embedding-column)"
        )
    if precision != "float32":
        raise ModelError(
            f"the model in {folder} has {why} and so is run by sentence-transformers, here in float32 alone; "
            f"{precision} was asked for. Leave --precision out"
        )
    from sentence_transformers import SentenceTransformer

    def loaded() -> LibraryEncoder:
        try:
            model = SentenceTransformer(str(folder), device=device, trust_remote_code=trusted, local_files_only=True)
        except Exception as error:  # each module raises types of its own
            raise ModelError(
                f"sentence-transformers cannot load the model in {folder}: {type(error).__name__}: "
                f"{first_line(error)}. Expected the folder as published"
            ) from error
        return LibraryEncoder(model, max_length, device, prompt)

    encoder = loaded()
    try_out(str(folder), encoder)
    # Missing weights are filled with random numbers, different at each loading, and only a log message says so.
    if _differ(encoder, loaded()):
        raise ModelError(
            f"the model in {folder} gives other vectors each time that it is loaded: it lacks weights that its "
            "configuration asks for, and they are random numbers. Expected the folder as published"
        )
    return encoder


def _differ(encoder: LibraryEncoder, other: LibraryEncoder) -> bool:
    """Whether two loadings of a model differ in the vectors of the probe."""
    mine, theirs = encoder.encode(PROBE_TEXTS).vectors, other.encode(PROBE_TEXTS).vectors
    return bool((mine * theirs).sum(axis=1).min() < LEAST_AGREEMENT["float32"])


class LibraryEncoder:
    """A `SentenceTransformer` whose vectors depend on the texts alone; safe to call from several threads.

    Raises ModelError where its window is shorter than `max_length`, or its tokenizer is not a fast one.
    """

    precision = "float32"

    def __init__(self, model: Any, max_length: int | None, device: str, prompt: str = "") -> None:
        import torch

        window = model.max_seq_length
        if window is None:
            raise ModelError("the model says no window (max_seq_length). Name one: --max-length")
        if max_length is not None and max_length > window:
            raise ModelError(f"max_length is {max_length}, but the model reads only {window} tokens")
        self.max_length = int(max_length or window)
        model.max_seq_length = self.max_length
        model.eval().requires_grad_(False)
        self.device = device
        # The prompt is passed to the library, since a pooling may leave its tokens out.
        self._prompt, model.default_prompt_name = prompt, None
        self._window = WindowTokenizer(copy.deepcopy(model.tokenizer), self.max_length)
        self._model = model
        self._copying = threading.Lock()
        self._own = threading.local()
        # Texts side by side on a processor; a GPU takes one after the other.
        self._workers = OneThreadWorkers(torch.get_num_threads() if device == "cpu" else 1, "library")
        self.dimension = len(self._workers.pool().submit(self._vector, "a").result())

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Unit vectors of n `texts`."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        # The prompt stands before every text, and takes its tokens of the window.
        ids, truncated = self._window.read([self._prompt + text for text in texts])
        for row, vector in enumerate(self._workers.pool().map(self._vector, texts)):
            vectors[row] = vector
        tokens = np.array([len(row) for row in ids], np.int32)
        unknown = self.unknown_shares(texts) if self._prompt else self._window.unknown_shares(ids)
        return EncodedTexts(vectors, truncated, tokens, unknown)

    def unknown_shares(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Share (n,) of the tokens of each text that the model does not know."""
        return self._window.unknown_shares(self._window.read(texts)[0])

    def _vector(self, text: str) -> npt.NDArray[np.float32]:
        """The unit vector (d,) of one text."""
        if not hasattr(self._own, "model"):
            self._own.model = self._copied()
        found = self._own.model.encode(
            [text], prompt=self._prompt, batch_size=1, show_progress_bar=False, convert_to_numpy=True
        )[0]
        wide = np.asarray(found, np.float64)
        norm = float(np.sqrt((wide * wide).sum()))
        return (wide / norm if norm > 0 else wide).astype(np.float32)

    def _copied(self) -> Any:
        """The model with a tokenizer of its own, which holds state while it works, and the weights of all."""
        with self._copying:
            shared = [*self._model.parameters(), *self._model.buffers()]
            return copy.deepcopy(self._model, {id(each): each for each in shared})
