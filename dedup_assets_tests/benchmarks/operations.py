"""What a GPU would be given, and what the host does beside it, per million rows: counted and timed on CPU tensors.

    python -m dedup_assets_tests.benchmarks.operations

The corpus that is stood in for has 100 million rows of 384 dimensions at a floor of 0.90, hence 11,832 cells, 8,450
rows at home in each and 58 ghosts of each row. Tiles and packs have the sizes that they have there, and there are fewer
of them; what was counted is multiplied up to a million rows:

- fit: 48 rows a centroid, but 500 centroids. It is done once, for all rows.
- cells: 11,832 centroids, some tiles of rows.
- layout: 11,832 cells and 58 ghosts a row at random, which costs the host more than neighbours do.
- block: as many, gathered from four shards for half of the cells.
- join: one cell of full height, listing fewer ghosts: packs are full, and there are fewer of them.
- encoder: batches in the shape of a small model on few tokens; launches of a layer do not depend on it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch

from dedup_assets.compute import cells as cells_module
from dedup_assets.compute import kmeans
from dedup_assets.compute.blocks import ShardPiece, build_block
from dedup_assets.compute.cells import assign, offsets_of
from dedup_assets.compute.device import join as device_join
from dedup_assets.compute.device.cells import SMALLEST_TILE
from dedup_assets.compute.device.ghosts import GhostCollector, Tile
from dedup_assets.compute.device.listing import Listing, placed
from dedup_assets.compute.device.rows import DeviceRows
from dedup_assets.compute.kmeans import ITERATIONS, SAMPLES_PER_CENTROID, fit_centroids
from dedup_assets.compute.precision import one_thread_each
from dedup_assets.compute.sketch import SKETCH_ROWS
from dedup_assets_tests.gpu.generate import generated
from dedup_assets_tests.gpu.trace import Operations

DEVICE = "cpu:0"
MILLION = 1_000_000


class Scale(NamedTuple):
    """The corpus that is stood in for, and how much of it is worked on."""

    rows: int = 100 * MILLION
    dimension: int = 384
    floor: float = 0.90
    cells: int = 11_832
    ghosts: int = 58
    tiles: int = 4
    listed: int = 250_000
    ghosts_of_cell: int = 250_000
    pack_bytes: int = 1 << 30
    fitted: int = 500

    @property
    def homes(self) -> int:
        """Rows at home in a cell."""
        return self.rows // self.cells

    @property
    def pairs_per_row(self) -> float:
        """Products that the join takes of a row."""
        return self.homes / 2 + self.homes * self.ghosts


SMALL = Scale(
    rows=40_000,
    dimension=64,
    cells=40,
    ghosts=6,
    tiles=2,
    listed=2_000,
    ghosts_of_cell=6_000,
    pack_bytes=1 << 21,
    fitted=20,
)
"""For a test of the command."""


class Stage(NamedTuple):
    """What was counted for so many rows, packs or batches, and how many of these a million rows are."""

    name: str
    unit: str
    units: float
    launches: float
    waits: float
    host_seconds: float
    per_million: float

    def row(self) -> dict[str, float | str]:
        """Per unit, and for a million rows."""
        return {
            "stage": self.name,
            "unit": self.unit,
            "launches": round(self.launches / self.units, 2),
            "waits": round(self.waits / self.units, 2),
            "host_us": round(1e6 * self.host_seconds / self.units, 1),
            "units_per_million": round(self.per_million, 2),
            "launches_per_million": round(self.launches / self.units * self.per_million),
            "waits_per_million": round(self.waits / self.units * self.per_million),
            "host_s_per_million": round(self.host_seconds / self.units * self.per_million, 4),
        }


def _counted(
    name: str, unit: str, work: Callable[[], Any], units: Callable[[Any], float], per_million: float, show: bool
) -> Stage:
    operations = Operations()
    result, host = operations.host(work)
    if show:
        print(f"{name}: {dict(operations.launches)}, waits {dict(operations.waits)}", file=sys.stderr)
    waits = sum(operations.waits.values())
    return Stage(name, unit, units(result), operations.total, waits, host, per_million)


def fit(scale: Scale, show: bool) -> Stage:
    """A round of the fit."""
    sample = DeviceRows.of(generated(SAMPLES_PER_CENTROID * scale.fitted, scale.dimension, DEVICE), DEVICE)
    rounds = ITERATIONS * MILLION / scale.rows
    with patch.object(kmeans, "_on_host", lambda rows: False):
        return _counted(
            "fit", "round", lambda: fit_centroids(sample, scale.fitted), lambda found: ITERATIONS, rounds, show
        )


def cells(scale: Scale, show: bool) -> list[Stage]:
    """Distances of centroids, then tiles of the assignment, ghosts in order at the end."""
    step = max(64, cells_module.DEVICE_TILE_BYTES // (2 * scale.cells))
    vectors = generated(scale.cells + scale.tiles * step, scale.dimension, DEVICE, seed=1)
    book = vectors[: scale.cells].float().numpy()
    rows = DeviceRows.of(vectors[scale.cells :], DEVICE)
    first = rows.take(np.arange(64))
    once = _counted(
        "distances of centroids", "call", lambda: assign(first, book, scale.floor), lambda found: 1, 1.0, show
    )
    whole = _counted("cells", "tile", lambda: assign(rows, book, scale.floor), lambda found: scale.tiles, 1, show)
    again = _counted("again", "call", lambda: assign(first, book, scale.floor), lambda found: 1, 1.0, show)
    tiles = whole._replace(
        launches=whole.launches - again.launches,
        waits=whole.waits - again.waits,
        host_seconds=(scale.tiles - 1) * _seconds_of_a_tile(scale),
        units=scale.tiles - 1,
        per_million=MILLION / step,
    )
    return [once, again._replace(name="distances, second shard"), tiles]


def _seconds_of_a_tile(scale: Scale) -> float:
    """Processor seconds of the host for one tile: tiles so small that they are nothing but calls."""
    tiles = 200
    rows = DeviceRows.of(generated(tiles * SMALLEST_TILE, scale.dimension, DEVICE, seed=3), DEVICE)
    book = rows.stored[:8].float().numpy()
    assign(rows, book, scale.floor, tile_bytes=1)  # compiled
    started = time.thread_time()
    assign(rows, book, scale.floor, tile_bytes=1)
    return (time.thread_time() - started) / tiles


def _ghosts(scale: Scale, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ghosts at random: how many each row has, and their cells row after row, ascending."""
    random = np.random.default_rng(0)
    gap = max(1, scale.cells // scale.ghosts)
    found = np.arange(scale.ghosts) * gap + random.integers(0, gap, (n, scale.ghosts))
    return np.full(n, scale.ghosts, np.int32), found.astype(np.int32).ravel()


def layout(scale: Scale, show: bool) -> list[Stage]:
    """Ghosts of rows put into the order of cells: on the host as on a CPU, and on the device tile by tile."""
    counts, found = _ghosts(scale, scale.listed)
    sort = cells_module._sort_by_cell
    on_host = _counted(
        "ghosts into cells on the host",
        "row",
        lambda: sort([(counts, found)], range(1), scale.cells),
        lambda result: scale.listed,
        MILLION,
        show,
    )
    step = max(64, cells_module.DEVICE_TILE_BYTES // (2 * scale.cells))
    starts = range(0, scale.listed, step)
    tiles = []
    for start in starts:
        part = found[start * scale.ghosts : (start + step) * scale.ghosts]
        order = np.argsort(part, kind="stable")
        rows = torch.from_numpy((order // scale.ghosts).astype(np.int32)).to(DEVICE)
        of_cells = torch.from_numpy(np.bincount(part, minlength=scale.cells).astype(np.int32)).to(DEVICE)
        home = torch.zeros(len(part) // scale.ghosts, dtype=torch.int32, device=DEVICE)
        tiles.append(Tile(start, home, of_cells, rows))

    def pile() -> None:
        taker = GhostCollector(scale.listed, scale.cells, DEVICE)
        for tile in tiles:
            taker.add(tile)
        taker.taken()

    on_device = _counted("ghosts into cells on a device", "tile", pile, lambda result: len(tiles), MILLION / step, show)
    return [on_host, on_device]


def block(scale: Scale, show: bool) -> list[Stage]:
    """Four shards' rows of half of the cells in one block; its listing on the device."""
    random = np.random.default_rng(1)
    pieces = []
    n = scale.listed // 4
    for shard in range(4):
        home = np.sort(random.integers(0, scale.cells, n))
        offsets, rows = cells_module._sort_by_cell([_ghosts(scale, n)], range(1), scale.cells)
        home_offsets = offsets_of(np.bincount(home, minlength=scale.cells))
        vectors = np.zeros((n, scale.dimension), np.float16)
        pieces.append(ShardPiece(vectors, home_offsets, rows, offsets, np.arange(n), True, shard << 40))
    build_block(pieces, 0, 1)  # compiled
    half = scale.cells // 2
    built = _counted(
        "block", "row at home", lambda: build_block(pieces, 0, half), lambda b: len(b.home_rows), MILLION, show
    )
    group = build_block(pieces, 0, half)
    listing = Listing(group.home_offsets, group.home_rows, group.ghost_offsets, group.ghost_rows, group.is_new)
    placed(listing, DEVICE, 64)
    listed = _counted(
        "listing", "row at home", lambda: placed(listing, DEVICE, 64), lambda r: len(group.home_rows), MILLION, show
    )
    return [built, listed]


def join(scale: Scale, show: bool) -> list[Stage]:
    """Packs of one cell, without and with what comes before them."""
    n = scale.homes + scale.ghosts_of_cell
    rows = DeviceRows.of(generated(n, scale.dimension, DEVICE, seed=2), DEVICE)
    listing = Listing(
        np.array([0, scale.homes]),
        np.arange(scale.homes, dtype=np.int32),
        np.array([0, scale.ghosts_of_cell]),
        np.arange(scale.homes, n, dtype=np.int32),
        np.ones(n, bool),
    )
    packs: list[int] = []
    made: Callable = device_join._Join.__init__

    def noted(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        packs.append(len(self.packs))
        before.update(operations.launches)
        waits.update(operations.waits)

    settle: Callable = device_join._Worker._settle

    def settled(self: Any) -> None:
        chunks, launches, waits = self.chunks, operations.total, sum(operations.waits.values())
        settle(self)
        looked.append((chunks, operations.total - launches, sum(operations.waits.values()) - waits))

    operations, before, waits = Operations(), Counter[str](), Counter[str]()
    looked: list[tuple[int, int, int]] = []
    with (
        patch.object(device_join._Join, "__init__", noted),
        patch.object(device_join._Worker, "_settle", settled),
    ):
        found, host = operations.host(
            lambda: sum(
                len(part[0])
                for part in device_join.match_on_device(
                    rows, listing, scale.floor, max_matches=1 << 18, pack_bytes=scale.pack_bytes
                )
            )
        )
    own = packs[0] * _seconds_of_a_pack(scale)
    per_pack = scale.homes * (scale.homes / 2 + scale.ghosts_of_cell) / packs[0]
    launches, waited = operations.launches - before, operations.waits - waits
    if show:
        print(f"before packs: {dict(before)}, waits {dict(waits)}", file=sys.stderr)
        print(f"packs: {dict(launches)}, waits {dict(waited)}", file=sys.stderr)
        print(f"{packs[0]} packs of {per_pack:,.0f} products, {found} matches", file=sys.stderr)
    chunks, of_chunks, waits_of_chunks = (sum(part) for part in zip(*looked, strict=True))
    per_million = MILLION * scale.pairs_per_row / per_pack
    launched, waited_for = launches.total() - of_chunks, waited.total() - waits_of_chunks - launches["to the host"]
    return [
        Stage("join: before its packs", "block", 1, before.total(), waits.total(), host, 0.0),
        Stage("join: packs", "pack", packs[0], launched, waited_for, own, per_million),
        # Looked into when a quarter of a million have come together.
        Stage(
            "join: chunks with proposals",
            "pack",
            packs[0] * device_join.HOT_CHUNKS / chunks,
            of_chunks,
            waits_of_chunks + launches["to the host"],
            0.0,
            per_million,
        ),
    ]


def _seconds_of_a_pack(scale: Scale) -> float:
    """Processor seconds of the host for one pack: packs so small that they are nothing but calls."""
    n, homes = 2 * SKETCH_ROWS, 64
    rows = DeviceRows.of(generated(n, scale.dimension, DEVICE, seed=3), DEVICE)
    listing = Listing(
        np.array([0, homes]),
        np.arange(homes, dtype=np.int32),
        np.array([0, n - homes]),
        np.arange(homes, n, dtype=np.int32),
        np.ones(n, bool),
    )
    call, spent = device_join._Worker.__call__, []

    def timed(self: Any, item: int) -> None:
        started = time.thread_time()
        call(self, item)
        spent.append(time.thread_time() - started)

    with patch.object(device_join._Worker, "__call__", timed):
        for _ in device_join.match_on_device(rows, listing, scale.floor, max_matches=1 << 18, pack_bytes=8192):
            pass
    return float(np.median(spent))


def encoder(scale: Scale, show: bool) -> Stage | None:
    """Batches of the encoder."""
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        return None
    from dedup_assets.encoder.encoder import Encoder
    from dedup_assets_tests.gpu.parity import encoder_parts

    parts = encoder_parts()
    assert parts is not None
    made = Encoder(*parts[:2], max_length=128, device=DEVICE, precision="float32")
    made._tokens = 512
    made._sent = lambda array: array.to(DEVICE, non_blocking=True)  # type: ignore[method-assign]  # as from pinned memory
    texts = [" ".join(f"word{at}" for at in range(words)) for words in (5, 20, 60, 300) for _ in range(2)]
    made.encode(texts[:1])
    batches = []
    launched = made._unit_vectors
    made._unit_vectors = lambda *a: batches.append(1) or launched(*a)  # type: ignore[func-returns-value,method-assign]
    stage = _counted("encoder", "batch", lambda: made.encode(texts), lambda result: len(batches), 0, show)
    return stage


def stages(scale: Scale, show: bool = False, chosen: str = "") -> list[Stage]:
    """Every stage, or those whose function's name is given."""
    found: list[Stage] = []
    for work in (fit, cells, layout, block, join, encoder):
        if chosen and work.__name__ not in chosen.split(","):
            continue
        result = work(scale, show)  # type: ignore[operator]
        found += result if isinstance(result, list) else [result] if result is not None else []
    return found


def table(found: list[Stage]) -> str:
    """Markdown."""
    lines = [
        "| stage | unit | launches | waits | host µs | units per million rows | launches | waits | host s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for stage in found:
        row = stage.row()
        lines.append("| " + " | ".join(f"{value:,}" if not isinstance(value, str) else value for value in row.values()))
        lines[-1] += " |"
    return "\n".join(lines) + "\n"


def _keep_memory() -> None:
    """Freed memory stays with the process, as torch keeps that of a GPU: giving it back would count as the host's."""
    with suppress(AttributeError, OSError):  # another C library than glibc
        library = ctypes.CDLL(None)
        trim_threshold, largest_apart = -1, -4
        library.mallopt(trim_threshold, (1 << 31) - 1)
        library.mallopt(largest_apart, 0)


def main(arguments: list[str] | None = None) -> int:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="sizes of a test")
    parser.add_argument("--stages", default="", help="functions, with commas between; all by default")
    parser.add_argument("--show", action="store_true", help="every operation by name")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    with one_thread_each(2):  # so that the processor's time is this thread's
        if not options.small:
            _keep_memory()
            stages(SMALL, chosen=options.stages)  # kernels are compiled
        found = stages(SMALL if options.small else Scale(), options.show, options.stages)
    print(json.dumps([stage.row() for stage in found], indent=1) if options.json else table(found))
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
