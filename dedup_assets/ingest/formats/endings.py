"""Format and compression of a file according to the ending of its name."""

from __future__ import annotations

_COMPRESSIONS: dict[str, str | None] = {
    "": None,
    ".gz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".bz2": "bz2",
    ".xz": "xz",
}
_TEXT_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "txt"}

ENDINGS: dict[str, tuple[str, str | None]] = {
    ".parquet": ("parquet", None),
    ".pq": ("parquet", None),
    ".arrow": ("arrow", None),
    ".feather": ("arrow", None),
    **{
        base + ending: (name, compression)
        for base, name in _TEXT_FORMATS.items()
        for ending, compression in _COMPRESSIONS.items()
    },
}
"""Format and compression by ending, in small letters. Content overrules both (`readers`)."""

EXPECTED = (
    ".parquet, .jsonl, .ndjson, .json, .csv, .tsv, .txt (the last six also with .gz, .zst, .zstd, .bz2 or .xz), .pq, "
    ".arrow, .feather"
)
"""The known endings, for messages."""


def format_of(name: str) -> str | None:
    """The format according to the ending of a file name; None if the ending is unknown."""
    ending = ending_of(name)
    return None if ending is None else ENDINGS[ending.lower()][0]


def ending_of(name: str) -> str | None:
    """The longest known ending of a file name, as it is written there; None if there is none."""
    lowered = name.lower()
    found = [ending for ending in ENDINGS if lowered.endswith(ending)]
    return name[len(name) - len(max(found, key=len)) :] if found else None
