"""A model tried out on a few texts: that it runs at all, and that it gives the same vectors in every process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dedup_assets.errors import ModelError, NoRoomError, first_line

if TYPE_CHECKING:
    from dedup_assets.encoder.text_encoder import TextEncoder

PROBE_TEXTS = ("The quick brown fox jumps over the lazy dog.", "1 + 1 = 2; naïve café, Straße 5", "words " * 40)
"""Texts whose vectors say which model it is, computed by which library on which processor."""

OWN = "its own"
"""Precision of a custom encoder: a service may compute in any precision, and change it at any time."""

LEAST_AGREEMENT = {"float32": 1 - 1e-5, "float16": 1 - 1e-4, "bfloat16": 1 - 1e-3, OWN: 1 - 1e-3}
"""Least cosine of a probe's vectors, computed twice, at which a workspace goes on, by the precision: processors and
libraries sum in other orders. Vectors of two precisions agree to 0.9998 (bfloat16 and float32, all-MiniLM-L6-v2), and
those of random weights not at all."""


def texts_to_try(max_length: int) -> list[str]:
    """The shortest, the longest and a few odd texts for a model that takes `max_length` tokens."""
    return ["", "a", *PROBE_TEXTS, "word " * 2 * max_length]


def try_out(folder: str, encoder: TextEncoder) -> None:
    """Run a model on the shortest, the longest and an odd text. Raises ModelError where it fails or gives no vectors:
    here it is one line, and not the end of a worker in the middle of a corpus."""
    try:
        vectors = encoder.encode(texts_to_try(encoder.max_length or 512)).vectors
    except NoRoomError:
        raise  # says it better
    except Exception as error:
        raise ModelError(
            f"the model in {folder} fails on a text of {encoder.max_length} tokens or less: {type(error).__name__}: "
            f"{first_line(error)}. Expected that its configuration, its tokenizer and its weights fit together: fewer "
            "tokens (--max-length) help where it has fewer positions than it says"
        ) from error
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not np.isfinite(vectors).all() or (np.abs(norms - 1) > 1e-3).any():
        raise ModelError(
            f"the model in {folder} gives vectors that are no directions (norms from {norms.min():g} to "
            f"{norms.max():g}). Expected weights as published, and a precision in which they stay finite"
        )


def probe_of(encoder: TextEncoder) -> list[list[float]]:
    """The vectors (3, d) of the probe, as they are kept with the fingerprint of a workspace's model."""
    return [[round(float(x), 6) for x in row] for row in encoder.encode(PROBE_TEXTS).vectors]


def hold_to_probe(encoder: TextEncoder, kept: list[list[float]], model: str) -> None:
    """Raise ModelError where an encoder gives other vectors than those that a workspace was begun with."""
    before, now = np.array(kept, np.float64), encoder.encode(PROBE_TEXTS).vectors.astype(np.float64)
    agreement = 0.0
    if before.shape == now.shape:
        norms = np.linalg.norm(before, axis=1)
        cosines = (before * now).sum(1) / np.where(norms > 0, norms, 1.0)
        # A static model has no vector of a text that it knows no token of.
        agreement = float(np.where(norms > 0, cosines, ~now.any(axis=1)).min())
    least = LEAST_AGREEMENT[encoder.precision]
    if agreement < least and encoder.precision == OWN:
        widths = "" if before.shape == now.shape else f" ({before.shape[1]} numbers then, {now.shape[1]} now)"
        raise ModelError(
            f"the encoder {model} gives other vectors{widths} than when the workspace was begun: the same texts have a "
            f"cosine of {agreement:.6f}, expected at least {least:g}. So it stands for another model now. Make it what "
            "it was, or curate into a new workspace"
        )
    if agreement < least:
        raise ModelError(
            f"model {model} gives other vectors here than where the workspace was begun: the same texts have a cosine "
            f"of {agreement:.6f}, expected at least {least:g} in {encoder.precision}. Its files are the same, so the "
            "libraries differ (torch, transformers), the processor, or the precision: one of an earlier version "
            'took bfloat16 wherever the processor has it, and goes on with precision = "bfloat16" in its '
            "curation.toml. Use the environment that the workspace was begun in, or curate into a new workspace"
        )
