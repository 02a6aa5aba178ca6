"""Whether a tokenizer works inside words: then the tokens of a text are those of its words, one after the other.

Shown, not assumed: every step of the tokenizer must be one of those known to do so, and texts made to break it must
come out the same both ways. The answer follows from the tokenizer alone, never from the texts of a corpus.
"""

from __future__ import annotations

import json
import string
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from dedup_assets.compute.word_sums import SEPARATORS, byte_kinds, split_words

# Steps that see a character and its combining marks, never what stands before or behind white space. Others may: the
# normalizer of SentencePiece ("Precompiled") looks at a space together with the mark behind it.
_LOCAL_NORMALIZERS = {
    *("BertNormalizer", "Lowercase", "StripAccents", "Strip"),
    *("NFC", "NFD", "NFKC", "NFKD"),
}
# They end a piece at white space and drop it.
_SPLITTING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
# They work on each piece alone, once white space is gone.
_INNER = {*_SPLITTING, "Punctuation", "Digits", "Split", "ByteLevel", "Metaspace"}


def splitting_of(tokenizer: Any) -> npt.NDArray[np.uint8] | None:
    """How texts are to be split (`byte_kinds`) so that their tokens are those of their words; None if there is no way.

    `tokenizer` is a `tokenizers.Tokenizer` without padding and truncation; special tokens are not added.
    """
    spec = json.loads(tokenizer.to_str())
    if not _is_local(spec):
        return None
    kinds = byte_kinds(_standing_alone(spec))
    return kinds if _agrees(tokenizer, kinds) else None


def _standing_alone(spec: dict[str, Any]) -> bytes:
    """Punctuation that BERT's tokenizer always makes a token of its own: fewer distinct words, "end." among them."""
    if spec["pre_tokenizer"]["type"] != "BertPreTokenizer":
        return b""
    if any(step["type"] != "BertNormalizer" for step in _steps(spec.get("normalizer"), "normalizers")):
        return b""  # normal forms compose some of it with the mark behind it
    within = "".join(token["content"] for token in spec.get("added_tokens", ()))  # such as [UNK]
    return "".join(c for c in string.punctuation if c not in within).encode()


def _is_local(spec: dict[str, Any]) -> bool:
    steps = _steps(spec.get("pre_tokenizer"), "pretokenizers")
    return (
        all(step["type"] in _LOCAL_NORMALIZERS for step in _steps(spec.get("normalizer"), "normalizers"))
        and bool(steps)
        and steps[0]["type"] in _SPLITTING
        and all(step["type"] in _INNER and step.get("prepend_scheme") != "first" for step in steps)
        and not spec["model"].get("dropout")
        # Such a token stands across words.
        and not any(any(c.isspace() for c in token["content"]) for token in spec.get("added_tokens", ()))
    )


def _steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [step for each in part[inner] for step in _steps(each, inner)]


def odd_texts() -> list[str]:
    """Texts made to break the splitting: marks, controls, odd spaces and letters of many scripts around separators."""
    odd = [*range(0x00, 0x300, 5), *range(0x300, 0x10000, 211), *range(0x10000, 0x20000, 1999)]
    odd += [0x0B, 0x0C, 0x1C, 0x1F, 0x7F, 0x85, 0xA0, 0xAD, 0x0301, 0x0345, 0x03A3, 0x0130, 0x1E9E, 0x200B, 0x200D]
    odd += [0x2028, 0x2029, 0x202F, 0x2581, 0x3000, 0x30FC, 0xFE0F, 0xFEFF, 0xFFFD, 0xAC00, 0x1100, 0x1161, 0x1F468]
    texts = []
    for number, code in enumerate(odd):
        if not 0xD800 <= code < 0xE000:
            c, space = chr(code), chr(SEPARATORS[number % len(SEPARATORS)])
            dot = string.punctuation[number % len(string.punctuation)]
            texts.append(
                f"Straße{c}{space}{c}Café {space}A{c}Σ{space}{space}{c}\u0301 x{dot}{c}y{c}{dot} {dot}\u0338{dot}"
                f"12{c}{space}\u0345{c}"
            )
    return texts


def _agrees(tokenizer: Any, kinds: npt.NDArray[np.uint8]) -> bool:
    texts = odd_texts()
    data = [text.encode() for text in texts]
    letters, bounds, starts = split_words(
        np.frombuffer(b"".join(data), np.uint8), np.cumsum([0, *map(len, data)]), kinds
    )
    words = [letters[a:b].tobytes().decode() for a, b in pairwise(bounds.tolist())]
    single = [e.ids for e in tokenizer.encode_batch_fast(words, add_special_tokens=False)]
    whole = [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    return whole == [[token for ids in single[a:b] for token in ids] for a, b in pairwise(starts.tolist())]
