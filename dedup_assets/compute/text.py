"""Identity of a text: two records are exact duplicates when their normalised texts have equal hashes."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

import numpy as np

TEXT_HASH_BYTES = 16
"""128 bits: at 10 billion texts the chance of any collision is about 1.5e-19."""

COLUMN_SEPARATOR = "\n\n"
"""Several text columns are joined by one empty line, in the order in which they were named."""


def normalise_text(text: str, form: str) -> str:
    """Apply a Unicode normal form (`NFC`, `NFKC`) or `none`. White space and case are never touched."""
    return text if form == "none" else unicodedata.normalize(form, text)  # type: ignore[arg-type]


def hash_text(text: str) -> bytes:
    """128-bit BLAKE2b of the UTF-8 text: equal hashes mean equal texts."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=TEXT_HASH_BYTES).digest()


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """Hash texts to an array of shape (n, 2), dtype uint64 (big-endian halves in native order).

    Row order equals the byte order of the digests, so arrays sort like the digests themselves.
    """
    blake2b, size = hashlib.blake2b, TEXT_HASH_BYTES  # as `hash_text`, without a call for each
    digests = b"".join([blake2b(text.encode("utf-8"), digest_size=size).digest() for text in texts])
    return np.frombuffer(digests, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def hash_to_hex(halves: np.ndarray) -> list[str]:
    """Render hashes of shape (n, 2) as 32-digit hexadecimal strings."""
    digits = halves.astype(">u8").tobytes().hex()
    return [digits[start : start + 32] for start in range(0, len(digits), 32)]
