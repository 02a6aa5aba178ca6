"""Adds a prompt before every text and truncates vectors, in the same way for every encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dedup_assets.encoder.encoder import EncodedTexts
from dedup_assets.encoder.text_encoder import TextEncoder
from dedup_assets.errors import ModelError


@dataclass(frozen=True)
class AdaptedEncoder:
    """An encoder with a prompt before every text and truncated vectors.

    Attributes
    ----------
    encoder : TextEncoder
    prompt : str
        Put before every text. Its tokens count towards the window, but not towards the share of unknown tokens.
    dimension : int
        Length of the vectors: the first numbers are kept and normalized to unit length.
    """

    encoder: TextEncoder
    prompt: str
    dimension: int

    @property
    def max_length(self) -> int | None:
        return self.encoder.max_length

    @property
    def precision(self) -> str:
        return self.encoder.precision

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Unit vectors of n `texts`. If the first numbers of a vector are all zero, it stays zero, with unknown
        share 1."""
        if self.prompt:
            encoded = self.encoder.encode([self.prompt + text for text in texts])
            encoded = replace(encoded, unknown=self.encoder.unknown_shares(texts))
        else:
            encoded = self.encoder.encode(texts)
        if self.dimension == encoded.vectors.shape[1]:
            return encoded
        kept = encoded.vectors[:, : self.dimension].astype(np.float64)
        # Row by row: a sum over all at once may take its terms in another order.
        norms = np.array([np.sqrt((row * row).sum()) for row in kept]).reshape(-1, 1)
        vectors = (kept / np.where(norms > 0, norms, 1.0)).astype(np.float32)
        return replace(encoded, vectors=vectors, unknown=np.where(norms[:, 0] > 0, encoded.unknown, np.float32(1)))

    def unknown_shares(self, texts: Sequence[str]) -> np.ndarray:
        """Share (n,) of the tokens of each text that the model does not know."""
        return self.encoder.unknown_shares(texts)


def adapted(encoder: TextEncoder, prompt: str, dimension: int | None) -> TextEncoder:
    """The encoder with a prompt and vectors of a dimension; the encoder itself if neither changes anything.

    Raises ModelError if the encoder's vectors have fewer numbers.
    """
    if dimension is not None and dimension > encoder.dimension:
        raise ModelError(
            f"truncate_dim is {dimension}, and the model's vectors have {encoder.dimension} numbers. Expected fewer, "
            "or 0 for all of them"
        )
    if not prompt and (dimension is None or dimension == encoder.dimension):
        return encoder
    return _adapted(encoder, prompt, dimension or encoder.dimension)


# The same arguments return the same object. Few, because an encoder stays in memory with its wrapper.
_adapted = lru_cache(maxsize=4)(AdaptedEncoder)
