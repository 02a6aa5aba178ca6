"""How long embedding will take on this processor, measured on a few texts, and what a static model would take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from dedup_assets.encoder.distilled import is_distilled
from dedup_assets.encoder.models import ModelLocation, encoder_for, locate_model
from dedup_assets.encoder.static_folder import static_files
from dedup_assets.named_code import STATIC
from dedup_assets.settings import Settings

FEWEST_TEXTS = 1000
"""Fewer are embedded before anybody has read how long it takes."""

SAMPLE_TEXTS = 32
"""Texts that are measured: a second on a processor on which it matters."""

LONG_SECONDS = 60.0
"""Embedding that takes as long is worth a line."""

# Of a static model made of a transformer of 30,000 tokens: each is embedded between two special ones. Then characters
# a second, which is what one core does with few words known.
_TABLE_TOKENS = 90_000
_CHARACTERS_PER_TOKEN = 4.5
_STATIC_CHARACTERS = 5e6


def can_be_long(location: ModelLocation, count: int) -> bool:
    """Whether so many texts may take a minute or more: a static model, or none, takes seconds."""
    return count >= FEWEST_TEXTS and is_transformer(location)


def is_transformer(location: ModelLocation) -> bool:
    """Whether a model is more than a table of token vectors."""
    return bool(not location.source and location.folder) and static_files(Path(location.folder)) is None


def how_long(
    settings: Settings, location: ModelLocation, sample: Sequence[str], count: int, characters: int
) -> str | None:
    """A line on how long `count` texts of so many characters in all will take, None where it is not long.

    `sample` are some of them.
    """
    encoder = encoder_for(settings, location, "cpu")
    encoder.encode(sample[:2])  # what is made at first use is not measured
    started = perf_counter()
    encoder.encode(sample)
    spent = perf_counter() - started
    expected = spent / max(1, len(sample)) * count
    if expected < LONG_SECONDS:
        return None
    name = STATIC + settings.model
    tokens = sum(map(len, sample)) / _CHARACTERS_PER_TOKEN / spent
    static = characters / _STATIC_CHARACTERS
    made = is_distilled(Path(locate_model(name, settings.revision).folder))
    instead = _spoken(static + (0 if made else _TABLE_TOKENS / tokens))
    return (
        f"{count:,} texts will take about {_spoken(expected)} with {settings.model} on this processor "
        f"({count / expected:,.0f} texts/s, measured on {len(sample)} of them). In another workspace, --model {name} "
        f"would take about {instead}: as good for records and near-copies, not for paraphrases"
    )


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
