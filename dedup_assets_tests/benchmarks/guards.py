"""What guards cost: on stored matches, and in a dense cell of near-copies, in seconds of processor.

    python -m dedup_assets_tests.benchmarks.guards --rows 100000

Near-copies are vectors around one template and texts of one template. "a number each": half have a number of their own,
so that none covers them and they all stay; "no number": of the other half none has a number, so that each of them is
covered by all that stay, and names the most similar one.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from dedup_assets.compute.guards import Covers, TextList
from dedup_assets.compute.in_memory import Stats, deduplicate_vectors
from dedup_assets.guard_rule import parse_guards

GUARDS = ("numbers", "contains>=0.8", "shingles>=0.5")


def texts_of(rows: int, characters: int, rng: np.random.Generator) -> list[str]:
    """Texts of words and some numbers."""
    words = np.array([f"{''.join(rng.choice(list('abcdeilnorst'), 2 + at % 8))}" for at in range(5_000)])
    words[::25] = [str(at) for at in range(200)]
    count = characters // 7 + 1
    drawn = words[rng.integers(0, len(words), (rows, count))]
    return [" ".join(row)[:characters] for row in drawn]


def on_matches(matches: int, characters: int) -> None:
    """The guards on matches between near-copies, half as many texts as matches."""
    rng = np.random.default_rng(0)
    texts = texts_of(matches // 2, characters, rng)
    copies = [text.replace(" ", " new ", int(at % 9)) for at, text in enumerate(texts)]
    pairs = rng.integers(0, len(texts), matches)
    keepers, removed = pairs, len(texts) + pairs
    removed[matches // 2 :] = rng.integers(0, len(texts), matches - matches // 2)  # of others nearly nothing holds
    removed = np.where(removed == keepers, removed + len(texts), removed)
    covers = Covers(parse_guards(GUARDS), TextList([*texts, *copies]))
    covers(keepers[:10], removed[:10])  # compiles
    covers = Covers(parse_guards(GUARDS), TextList([*texts, *copies]))
    started = time.process_time()
    holds = covers(keepers, removed)
    spent = time.process_time() - started
    print(f"{matches:,} matches of {characters} characters, {' '.join(GUARDS)}: {spent:.2f} s; {holds.mean():.0%} hold")


def in_a_dense_cell(rows: int, dimension: int) -> None:
    """Decisions on near-copies."""
    rng = np.random.default_rng(1)
    centre = rng.normal(size=dimension)
    vectors = (centre + 0.15 * rng.normal(size=(rows, dimension))).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    template = "the library of the package for the architecture number {} with the headers, in its version of today:"
    own = rng.permutation(rows) < rows // 2
    kinds = {"a number each": "7", "no number": "none"}
    for name, of_others in kinds.items():
        numbers = [str(1_000 + at) if own[at] else of_others for at in range(rows)]
        texts = [f"{template.format(number)} part {'abcdefgh'[at % 8]}" for at, number in enumerate(numbers)]
        for guards in ((), ("numbers",), ("numbers", "contains>=0.8")):
            covers = Covers(parse_guards(guards), TextList(texts)) if guards else None
            stats: Stats = {}
            started, wall = time.process_time(), time.perf_counter()
            decided = deduplicate_vectors(vectors, 0.95, covers=covers, stats=stats).decisions
            spent, wall = time.process_time() - started, time.perf_counter() - wall
            print(
                f"{rows:,} near-copies, {name}, {' '.join(guards) or 'no guards'}: {spent:.1f} s of processor, "
                f"{wall:.1f} s ({stats['seconds_decide']:.1f} s to decide); {decided.kept.sum():,} stay, "
                f"{stats['dense_rows']:,} in dense cells, {stats.get('dense_products', 0) / 1e6:,.0f} million products",
                flush=True,
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--characters", type=int, default=400)
    parser.add_argument("--dimension", type=int, default=384)
    options = parser.parse_args()
    on_matches(options.rows, options.characters)
    in_a_dense_cell(options.rows, options.dimension)


if __name__ == "__main__":
    main()
