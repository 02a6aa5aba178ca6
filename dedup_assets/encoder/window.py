"""Texts to token ids, cut to a model's window. Knows a fast tokenizer; nothing of models and batches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dedup_assets.errors import ModelError

# Texts tokenised at a time: what the tokenizer tells of each text is kept until all of a chunk are done.
TOKENIZE_CHUNK = 4096
# Characters per token of the window that are read at first; see `WindowTokenizer.read`.
CHARACTERS_PER_TOKEN = 16


class WindowTokenizer:
    """A tokenizer that reads as much of each text as the window holds. Safe to call from several threads.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
    max_length : int
        The window in tokens, special tokens included.

    Attributes
    ----------
    pad : int
        The id that stands where there is no token.

    Raises
    ------
    ModelError
        The tokenizer is not a fast one, or the window has no room but for special tokens.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        special = tokenizer.num_special_tokens_to_add(pair=False)
        if max_length <= special:
            raise ModelError(f"max_length is {max_length}; expected more than the {special} special tokens")
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError("the model's tokenizer has no fast version (tokenizer.json); expected one")
        self.max_length = max_length
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._special = special
        self._nothing = np.array([self.pad], dtype=np.int32)  # stands, as this object, for a text without a token
        # In CLIP and GPT-2 it is the end-of-text token: their tokenizers know every character.
        unknown, ends = getattr(tokenizer, "unk_token_id", None), getattr(tokenizer, "eos_token_id", None)
        self._unknown = None if unknown == ends else unknown
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # padding and truncation are state of the fast tokenizer

    def read(self, texts: Sequence[str]) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.bool_]]:
        """Token ids of every text, cut to the window, and whether it was cut.

        A tokenizer reads a whole text before it cuts: 10 MB would take seconds for 256 tokens. So only the
        head of a very long text is tokenised; if that does not fill two windows (the second one keeps the
        effects of the cut away from the first), the whole text is. A text without any token reads as one
        padding token.
        """
        head = self.max_length * CHARACTERS_PER_TOKEN
        ids: list[npt.NDArray[np.int32]] = []
        truncated = np.zeros(len(texts), dtype=np.bool_)
        with self._lock:
            for start in range(0, len(texts), TOKENIZE_CHUNK):
                chunk = texts[start : start + TOKENIZE_CHUNK]
                for k, (row, rest) in enumerate(self._read([t[:head] for t in chunk])):
                    if len(chunk[k]) > head and rest < self.max_length:
                        row, rest = self._read([chunk[k]])[0]
                    ids.append(row)
                    truncated[start + k] = rest > 0
        return ids, truncated

    def unknown_shares(self, ids: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.float32]:
        """Of each text that was read, the share (n,) of tokens that the model does not know; 1 where it has no token.

        Special tokens that frame every text do not count.
        """
        unknown = self._unknown
        own = np.array([0 if row is self._nothing else len(row) - self._special for row in ids], dtype=np.int64)
        found = np.array([0 if unknown is None else int((row == unknown).sum()) for row in ids], dtype=np.int64)
        return np.where(own > 0, found / np.maximum(own, 1), 1.0).astype(np.float32)

    def _read(self, texts: list[str]) -> list[tuple[npt.NDArray[np.int32], int]]:
        """Per text: the ids in the window, and how many tokens lie behind it."""
        encodings = self._tokenizer(
            texts,
            add_special_tokens=True,
            truncation=True,
            max_length=self.max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        ).encodings
        return [
            (np.asarray(e.ids, dtype=np.int32) if e.ids else self._nothing, sum(len(o.ids) for o in e.overflowing))
            for e in encodings
        ]
