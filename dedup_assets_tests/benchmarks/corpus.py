"""What the benchmark runs on: real embeddings gathered from the machine, generated ones, and a dense spot.

Knows texts, the encoder and files of vectors in a cache folder; nothing of joins and peers. Every corpus is a
.npy file of unit rows, float16, made once; a part that was embedded is never embedded again.
"""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import json
import os
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from dedup_assets.demo import gather_docstrings
from dedup_assets_tests.benchmarks.generator import generate

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dedup-assets-bench"

PART = 5_000
"""Texts embedded between two files: half a minute on two cores, lost at most when interrupted."""

SHORTEST, LONGEST = 30, 400
"""Characters of a text: shorter ones are headings; longer ones are cut, for time spent embedding."""

TEXTS = 400_000
"""Distinct texts gathered at most."""

TEMPLATES, NEARNESS = 10, 0.99
"""Of the dense spot: half of its rows are copies of so many rows, at this cosine to their template."""


def corpus(kind: str, rows: int, cache: Path = CACHE, say: Callable[[str], None] = print) -> Path:
    """The file with that many rows of ``"real"``, ``"generated"`` or ``"dense"`` vectors, made if missing."""
    make = {"real": _real, "generated": _generated, "dense": _dense}[kind]
    path = cache / f"{kind}-{rows}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        say(f"making {path.name}")
        partial = path.with_suffix(".partial.npy")
        make(partial, rows, cache, say)
        partial.replace(path)
    return path


def _generated(path: Path, rows: int, cache: Path, say: Callable[[str], None]) -> None:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, 384))
    generate(out)
    out.flush()


def _dense(path: Path, rows: int, cache: Path, say: Callable[[str], None]) -> None:
    spread = np.load(corpus("generated", rows, cache, say), mmap_mode="r")
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=spread.shape)
    rng = np.random.default_rng(0)
    copies = rng.permutation(rows)[: rows // 2]
    templates = spread[:TEMPLATES].astype(np.float32)
    out[:] = spread
    for start in range(0, len(copies), 10_000):
        at = copies[start : start + 10_000]
        noise = rng.standard_normal((len(at), 384), dtype=np.float32)
        template = templates[np.arange(start, start + len(at)) % len(templates)]
        noise -= (noise * template).sum(axis=1, keepdims=True) * template
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        out[at] = NEARNESS * template + (1 - NEARNESS**2) ** 0.5 * noise
    out.flush()


def _real(path: Path, rows: int, cache: Path, say: Callable[[str], None]) -> None:
    from dedup_assets.encoder.models import load_encoder, locate_model

    texts = _texts(cache, say)
    if len(texts) < rows:
        raise SystemExit(f"this machine has {len(texts)} distinct texts, {rows} were asked for; use --data generated")
    parts = []
    encoder = None
    for start in range(0, rows, PART):
        part = cache / f"embedded-{start // PART:04d}.npy"
        if not part.exists():
            encoder = encoder or load_encoder(locate_model(MODEL))
            say(f"embedding texts {start} to {start + PART}")
            vectors = encoder.encode(texts[start : start + PART]).vectors.astype(np.float16)
            partial = part.with_suffix(".partial.npy")
            np.save(partial, vectors)
            partial.replace(part)
        parts.append(np.load(part, mmap_mode="r"))
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, parts[0].shape[1]))
    for number, vectors in enumerate(parts):
        out[number * PART : (number + 1) * PART] = vectors[: rows - number * PART]
    out.flush()


def _texts(cache: Path, say: Callable[[str], None]) -> list[str]:
    """Distinct texts of this machine in a shuffled order, so that the first ones are a sample of all."""
    path = cache / "texts.json"
    if not path.exists():
        say("gathering texts")
        found: dict[str, None] = {}
        for text in _paragraphs():
            found.setdefault(text)
            if len(found) >= TEXTS:
                break
        texts = list(found)
        shuffled = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(shuffled), encoding="utf-8")
        partial.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def _paragraphs() -> Iterator[str]:
    sources: Iterable[str]
    for sources in (_docstrings(), _metadata(), _documents(), _comments()):
        for source in sources:
            for paragraph in re.split(r"\n\s*\n", source):
                text = " ".join(paragraph.split())[:LONGEST]
                if len(text) >= SHORTEST and sum(c.isalpha() for c in text) > len(text) / 2:
                    yield text


def _docstrings() -> Iterator[str]:
    for record in gather_docstrings(10**7):
        yield record["text"]


def _metadata() -> Iterator[str]:
    for distribution in importlib.metadata.distributions():
        yield distribution.read_text("METADATA") or ""


def _documents() -> Iterator[str]:
    """Documentation and manual pages of the system, where there are any."""
    for folder, pattern in (("/usr/share/doc", "*"), ("/usr/share/man", "man[1-9]/*")):
        for path in sorted(Path(folder).rglob(pattern) if Path(folder).is_dir() else ()):
            wanted = "/man" in folder or path.suffix in {".txt", ".md", ".rst"} or path.name.startswith("READ")
            if not (wanted or path.name == "copyright") or not path.is_file() or path.stat().st_size > 1 << 20:
                continue
            try:
                raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
                text = raw.decode("utf-8")
            except (OSError, EOFError, ValueError):
                continue
            if "/man" in folder:  # macros stand on lines of their own and part the paragraphs
                text = re.sub(r"\\f.|\\-|\\&", "", re.sub(r"(?m)^[.'].*$", "", text))
            yield text


def _comments() -> Iterator[str]:
    """Blocks of comment lines of the standard library."""
    for path in sorted(Path(ast.__file__).parent.rglob("*.py")):
        try:
            with tokenize.open(path) as file:
                lines = file.read().splitlines()
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        yield "\n".join(line.strip().lstrip("# ") if line.strip().startswith("#") else "" for line in lines)
