"""Generated vectors that behave like sentence embeddings: any number of rows, from a seed, block by block.

Knows a handful of fitted numbers, see `Shape`; nothing of texts, models or the join.

How it is built
---------------
A row is the normalised sum of a common direction, one normal vector per level of a tree of topics, one for
its group of near-copies and one of its own. All normal vectors have the same covariance, the spectrum of real
embeddings, so the whole has it too. Groups have few rows (most have one) and a similarity of their own; topics
have unequal shares. The number of topics is fixed and that of groups grows with the rows: a larger corpus is
denser, and every part of it has as many near-copies as before.

How it was fitted
-----------------
To 200,000 real texts (docstring paragraphs and package descriptions, all-MiniLM-L6-v2, float16): spectrum and
length of the mean were read off; the group table from the share of rows with a match at 0.8 … 0.999 and from
pairs per row; topics and their weights by hand from similarities at ranks 1 … 3,000, then corrected until
ghosts and pairs to compare in the join, which are what it costs, were right. `fit` prints the
table of real against generated; the README of this folder has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 16_384
"""Rows made at a time; part of what a seed means."""


@dataclass(frozen=True)
class Shape:
    """What was fitted.

    Attributes
    ----------
    mean : float
        Length of the mean vector.
    spectrum : eigenvalues of the covariance at the numbers (from 0) given; between them the logarithm is linear.
    topics : number of topics at each level of the tree.
    weights : share of the variance that each level has.
    skew : topics have shares as (rank + 1) ** -skew.
    spread : standard deviation of the logarithm of a leaf's own weight: some leaves are denser.
    sizes : probability that a group has at least 2, 3, … rows: first, and the exponent it falls with.
    largest : most rows of a group.
    template_every : one group of the largest size, a template, for every so many rows.
    similarity : pair similarity in a group, and the share of groups with at most that.
    template_similarity : the same for templates.
    """

    mean: float = 0.2734
    spectrum: tuple[tuple[int, float], ...] = (
        (0, 0.0365), (1, 0.0316), (2, 0.0235), (4, 0.0209), (8, 0.0137), (16, 0.00937), (32, 0.00604),
        (64, 0.00376), (96, 0.00276), (128, 0.00208), (192, 0.00128), (256, 0.000647), (320, 0.00019), (383, 1e-5),
    )  # fmt: skip
    topics: tuple[int, ...] = (60, 800, 8_000, 40_000)
    weights: tuple[float, ...] = (0.15, 0.20, 0.15, 0.08)
    skew: float = 0.7
    spread: float = 0.5
    sizes: tuple[float, float] = (0.27, 2.2)
    largest: int = 350
    template_every: int = 10_000
    similarity: tuple[tuple[float, float], ...] = (
        (0.70, 0.0), (0.80, 0.30), (0.85, 0.45), (0.90, 0.62), (0.95, 0.80), (0.98, 0.90), (0.99, 0.94),
        (0.999, 0.975), (1.0, 1.0),
    )  # fmt: skip
    template_similarity: tuple[tuple[float, float], ...] = (
        (0.78, 0.0), (0.80, 0.05), (0.85, 0.68), (0.90, 0.90), (0.95, 0.965), (0.98, 0.985), (1.0, 1.0),
    )  # fmt: skip


FITTED = Shape()
DIMENSION = 384


def generate(out: np.ndarray, seed: int = 0, shape: Shape = FITTED) -> None:
    """Fill ``out``, (n, 384) float16 and possibly a memory map, with unit rows. Same seed, same rows."""
    n = len(out)
    rng = np.random.default_rng([seed, 0])
    place = rng.permutation(n)
    sizes = _group_sizes(rng, n, shape)
    tree = _Tree(rng, shape)
    first = 0
    for number, groups in enumerate(_blocks(sizes)):
        templates = max(0, min(groups.stop, n // shape.template_every) - groups.start)
        rows = tree.rows(np.random.default_rng([seed, 1, number]), sizes[groups], templates)
        out[place[first : first + len(rows)]] = rows
        first += len(rows)


def _group_sizes(rng: np.random.Generator, n: int, shape: Shape) -> np.ndarray:
    """Rows of each group, int64, of sum n: P(size >= s) = first · (s - 1) ** -exponent for s >= 2."""
    first, exponent = shape.sizes
    uniform = rng.random(n)
    with np.errstate(over="ignore"):
        sizes = 1 + np.where(uniform < first, (uniform / first) ** (-1 / exponent), 0.0)
    sizes = np.minimum(sizes, shape.largest).astype(np.int64)
    sizes = np.concatenate([np.full(n // shape.template_every, shape.largest), sizes])
    ends = np.cumsum(sizes)
    last = int(np.searchsorted(ends, n))
    sizes = sizes[: last + 1]
    sizes[last] -= ends[last] - n
    return sizes


def _blocks(sizes: np.ndarray) -> Iterator[slice]:
    """Consecutive groups of about `BLOCK` rows."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
        yield slice(start, stop)
        start = stop


class _Tree:
    """The topics, and rows below them."""

    def __init__(self, rng: np.random.Generator, shape: Shape) -> None:
        at, value = zip(*shape.spectrum, strict=True)
        eigenvalues = np.exp(np.interp(np.arange(DIMENSION), at, np.log(value)))
        self.scale = np.sqrt(eigenvalues * (1 - shape.mean**2) / eigenvalues.sum()).astype(np.float32)
        self.shape = shape
        # Leaves in a fixed turn, so that no axis of the space is special: half precision would see it.
        self.turn = np.linalg.qr(rng.normal(size=(DIMENSION, DIMENSION)))[0].astype(np.float32)
        self.centre = np.zeros(DIMENSION, np.float32)
        self.centre[-1] = shape.mean
        self.parent: list[np.ndarray] = []
        self.vectors: list[np.ndarray] = []
        above = 1
        for topics, weight in zip(shape.topics, shape.weights, strict=True):
            self.parent.append(rng.choice(above, topics, p=_shares(above, shape.skew)))
            self.vectors.append(np.float32(weight**0.5) * self._normal(rng, topics))
            above = topics
        self.leaf_shares = _shares(above, shape.skew)
        self.density = np.exp(rng.normal(size=above) * shape.spread).astype(np.float32)
        for level in range(1, len(self.vectors)):
            self.vectors[level] += self.vectors[level - 1][self.parent[level]]

    def _normal(self, rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.standard_normal((n, DIMENSION), dtype=np.float32) * self.scale

    def rows(self, rng: np.random.Generator, sizes: np.ndarray, templates: int) -> np.ndarray:
        """Unit rows, float16, of groups of the given sizes, group after group; templates come first."""
        groups = len(sizes)
        leaf = rng.choice(len(self.leaf_shares), groups, p=self.leaf_shares)
        topics = sum(self.shape.weights)
        own = np.sqrt(np.maximum(1 - topics, 0.0))
        lift = np.sqrt(self.density[leaf])[:, None]
        centres = self.centre + lift * self.vectors[-1][leaf] + own * self._normal(rng, groups)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        within = _drawn(self.shape.similarity, rng.random(groups))
        if templates:
            # Few and large: evenly spaced instead of drawn, or luck would decide how many pairs there are.
            within[:templates] = _drawn(self.shape.template_similarity, (np.arange(templates) + 0.5) / templates)
        alone = sizes == 1
        rows = np.repeat(centres, sizes, axis=0)
        near = np.repeat(np.sqrt(np.where(alone, 1.0, within)), sizes)[:, None]
        noise = self._normal(rng, len(rows))
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        rows = near * rows + np.sqrt(1 - near**2) * noise
        rows = rows @ self.turn
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def _drawn(table: tuple[tuple[float, float], ...], uniform: np.ndarray) -> np.ndarray:
    """Values, float32, whose distribution function goes through the table's points."""
    value, share = zip(*table, strict=True)
    return np.interp(uniform, share, value).astype(np.float32)


def _shares(count: int, skew: float) -> np.ndarray:
    shares = (np.arange(count) + 1.0) ** -skew
    return shares / shares.sum()
