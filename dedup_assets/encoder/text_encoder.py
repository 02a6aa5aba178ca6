"""What every encoder of texts offers, whatever it computes with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

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
        """In which it computes: "float32", "bfloat16" or "float16"."""

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Vectors of n texts."""
