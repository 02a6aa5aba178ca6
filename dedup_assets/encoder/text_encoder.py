"""Protocols: what every encoder of texts provides, and what a custom encoder must provide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from dedup_assets.encoder.encoder import EncodedTexts


class TextEncoder(Protocol):
    """An encoder whose vectors depend on the texts alone; safe to call from several threads."""

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""

    @property
    def max_length(self) -> int | None:
        """Tokens that are read of a text; None: all."""

    @property
    def precision(self) -> str:
        """Of the computation: "float32", "bfloat16" or "float16", or `probe.OWN` for a custom encoder."""

    def __hash__(self) -> int:
        """An encoder equals only itself."""

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Vectors of n texts."""

    def unknown_shares(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Share (n,) of the tokens of each text that the model does not know; 1 for a text without tokens."""


class AnyEncoder(Protocol):
    """Anything that makes vectors of texts, such as a SentenceTransformer or a StaticModel."""

    def encode(self, texts: list[str]) -> Any:
        """Vectors (n, d) of n texts, as anything that `np.asarray` accepts."""
