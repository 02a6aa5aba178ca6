"""The path of GPUs, on CPU tensors: device "cpu:0" goes through the same functions as "cuda"."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dedup_assets.compute import precision
from dedup_assets.compute.cells import assign
from dedup_assets.compute.device import cells as device_cells
from dedup_assets.compute.device import join as device_join
from dedup_assets.compute.device import rows as device_rows
from dedup_assets.compute.device import tiles as device_tiles
from dedup_assets.compute.device.join import match_on_device
from dedup_assets.compute.device.listing import CellCounts, Listing
from dedup_assets.compute.device.memory import is_out_of_memory
from dedup_assets.compute.device.rows import DeviceRows, cosines, float32_sums
from dedup_assets.compute.device.tiles import CHUNK, Tile, packs_of, tiles_of
from dedup_assets.compute.in_memory import exact_matches
from dedup_assets.compute.join import match_pieces, unique_matches
from dedup_assets.compute.kmeans import fit_centroids
from dedup_assets.compute.similarity import canonical_pairs, squared_norms
from dedup_assets.errors import DedupError
from dedup_assets_tests.compute.pieces import pieces_of
from dedup_assets_tests.compute.test_join import assert_exact
from dedup_assets_tests.compute.vectors import KINDS, away_from_ties, brute_force, make_vectors

DEVICE = "cpu:0"


def no_room(*arguments: object, **options: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("d", [3, 64, 100, 384, 768])
def test_sums_on_the_device_end_in_the_canonical_bits(dtype, d):
    vectors = make_vectors("degenerate", 120, d, dtype, d)
    rows = DeviceRows.of(vectors, DEVICE)
    assert (rows.squares.numpy() == squared_norms(vectors)).all()
    i, j = (part.ravel() for part in np.meshgrid(np.arange(120), np.arange(120)))
    chosen, sums = rows.near(torch.from_numpy(i), torch.from_numpy(j), -1.0)
    assert len(chosen) == len(i)
    squares = rows.squares.numpy()
    assert (cosines(sums.numpy(), squares[i], squares[j]) == canonical_pairs(vectors, i, j)).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sketch", [0, 16])
def test_matches_on_a_device_are_all_there_are(kind, dtype, sketch):
    vectors = make_vectors(kind, 500, 48, dtype, 4)
    floor = away_from_ties(brute_force(vectors), 0.85)
    new = np.random.default_rng(0).random(500) < 0.4
    for given in (None, new):
        found = exact_matches(vectors, floor, clusters=7, device=DEVICE, sketch=sketch, new=given)
        assert_exact(found, vectors, floor, given)
        small = exact_matches(vectors, floor, clusters=7, device=DEVICE, sketch=sketch, new=given, tile_bytes=2048)
        assert (small.i == found.i).all() and (small.j == found.j).all()


def test_vectors_uploaded_before_give_the_same_matches():
    vectors = make_vectors("clustered", 6000, 300, np.float16, 2)  # enough rows for a sketch
    on_host = exact_matches(vectors, 0.9)
    on_device = exact_matches(DeviceRows.of(torch.from_numpy(vectors), DEVICE), 0.9)
    for column in ("i", "j", "similarity"):
        assert (getattr(on_host, column) == getattr(on_device, column)).all()
    assert len(on_host) > 1000


def test_shards_on_a_device_match_like_shards_on_the_host():
    vectors = make_vectors("clustered", 400, 32, np.float32, 6)
    centroids = fit_centroids(vectors, 6, device=DEVICE)
    pieces = pieces_of(vectors, centroids, 0.8, np.arange(400) % 3, [False, False, True])
    on_host, on_device = (
        unique_matches([part for a, b in ((0, 2), (2, 6)) for part in match_pieces(pieces, a, b, 0.8, device=device)])
        for device in ("cpu", DEVICE)
    )
    assert len(on_host) and (on_host.i == on_device.i).all() and (on_host.j == on_device.j).all()
    assert (on_host.similarity == on_device.similarity).all()


def test_tiles_cover_each_pair_with_a_new_row_once(monkeypatch):
    monkeypatch.setattr(device_tiles, "TILE_ROWS", 5)
    rng = np.random.default_rng(1)
    homes, new_homes, ghosts = (np.array(x) for x in ([0, 1, 40, 7], [0, 1, 11, 0], [3, 0, 25, 9]))
    new_ghosts = np.minimum(ghosts, rng.integers(0, 9, 4))
    offsets = np.concatenate([[0], np.cumsum(homes + ghosts)])
    counted = np.zeros((offsets[-1], offsets[-1]), int)
    counts = CellCounts(offsets[:-1], homes, new_homes, ghosts, new_ghosts)
    tiles = list(tiles_of(counts, most=130))
    assert all(tile.products <= 130 or tile.bottom - tile.top == 1 for tile in tiles)
    packs = list(packs_of(tiles, 1000, 70))
    assert [tile for pack in packs for tile in pack.tiles] == tiles and len(packs) < len(tiles)
    assert [tiles[pack.first] for pack in packs] == [pack.tiles[0] for pack in packs]
    for tile in tiles:
        for row in range(tile.top, tile.bottom):
            counted[row, max(tile.left, row + 1) : tile.right] += 1
    for first, home, new, ghost, fresh in zip(offsets, homes, new_homes, ghosts, new_ghosts, strict=False):
        wanted = np.zeros((home + ghost, home + ghost), int)
        wanted[:new] = 1
        wanted[new:home, home : home + fresh] = 1
        assert (counted[first : first + home + ghost, first : first + home + ghost] == np.triu(wanted, 1)).all()


@pytest.mark.parametrize("tile", [Tile(0, 1, 0, 1000), Tile(0, 2000, 0, 3), Tile(5, 69, 5, 70), Tile(0, 1, 0, 65)])
def test_halves_of_a_tile_cover_it(tile):
    one, two = tile.halves()
    assert {one.top, two.top} | {one.left, two.left} >= {tile.top, tile.left}
    areas = [(t.bottom - t.top) * (t.right - t.left) for t in (tile, one, two)]
    assert areas[0] == areas[1] + areas[2] and min(areas) > 0
    assert (one.left - tile.left) % CHUNK == 0 and (two.left - tile.left) % CHUNK == 0


def test_without_room_tiles_are_halved_and_the_matches_stay(monkeypatch):
    vectors = make_vectors("boilerplate", 700, 40, np.float16, 3)
    wanted = exact_matches(vectors, 0.9, clusters=5)
    sizes, multiply, compact = [], device_join._Worker._products, device_join._Worker._compact

    def limited(self, pack):
        sizes.append(pack.products)
        return no_room() if sizes[-1] > 20_000 else multiply(self, pack)

    monkeypatch.setattr(device_tiles, "SMALLEST_TILE", 4096)
    monkeypatch.setattr(device_join._Worker, "_products", limited)
    found = exact_matches(vectors, 0.9, clusters=5, device=DEVICE)
    assert max(sizes) > 20_000 and min(sizes) <= 20_000
    assert (found.i == wanted.i).all() and (found.j == wanted.j).all() and (found.similarity == wanted.similarity).all()

    monkeypatch.setattr(device_join._Worker, "_products", multiply)
    calls = []

    def half_way(self, products, pack):  # some of the pack's matches were found already
        compact(self, products, pack)
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("std::bad_alloc: out_of_memory: RMM failure at: pool_memory_resource.hpp")

    monkeypatch.setattr(device_join._Worker, "_compact", half_way)
    found = exact_matches(vectors, 0.9, clusters=5, device=DEVICE)
    assert len(calls) > 1 and (found.i == wanted.i).all() and (found.j == wanted.j).all()


@pytest.mark.parametrize("at_once", [1, 300, 1 << 18])
def test_chunks_of_many_packs_are_looked_into_together_and_no_match_is_missed(at_once, monkeypatch):
    vectors = make_vectors("boilerplate", 700, 40, np.float16, 3)
    wanted = exact_matches(vectors, 0.9, clusters=5)
    monkeypatch.setattr(device_join, "HOT_CHUNKS", at_once)
    settle, held = device_join._Worker._settle, []
    monkeypatch.setattr(device_join._Worker, "_settle", lambda self: held.append(self.chunks) or settle(self))
    found = exact_matches(vectors, 0.9, clusters=5, device=DEVICE, tile_bytes=30_000)
    assert (found.i == wanted.i).all() and (found.j == wanted.j).all() and (found.similarity == wanted.similarity).all()
    if at_once == 300:
        assert max(held) >= 300 and sum(bool(chunks) for chunks in held) > 2
    elif at_once > 300:
        assert sum(bool(chunks) for chunks in held) == 1, "all packs at once"


def test_without_room_for_chunks_they_are_looked_into_in_halves(monkeypatch):
    vectors = make_vectors("boilerplate", 700, 40, np.float16, 3)
    wanted = exact_matches(vectors, 0.9, clusters=5)
    monkeypatch.setattr(device_join, "LEAST_CHUNKS", 2)
    monkeypatch.setattr(device_join, "_together", lambda parts: parts)  # no room to put them together either
    decide, sizes = device_join._Worker._decide, []

    def limited(self, values, numbers, table):
        sizes.append(len(values))
        return no_room() if sizes[-1] > 8 else decide(self, values, numbers, table)

    monkeypatch.setattr(device_join._Worker, "_decide", limited)
    found = exact_matches(vectors, 0.9, clusters=5, device=DEVICE, tile_bytes=30_000)
    assert max(sizes) > 8 and (found.i == wanted.i).all() and (found.j == wanted.j).all()


def test_chunks_of_earlier_packs_are_not_lost_where_a_pack_finds_no_room(monkeypatch):
    vectors = make_vectors("boilerplate", 700, 40, np.float16, 3)
    wanted = exact_matches(vectors, 0.9, clusters=5)
    multiply, refused = device_join._Worker._products, []

    def once(self, pack):
        if self.chunks and not refused:
            refused.append(self.chunks)
            no_room()
        return multiply(self, pack)

    monkeypatch.setattr(device_tiles, "SMALLEST_TILE", 256)
    monkeypatch.setattr(device_join._Worker, "_products", once)
    found = exact_matches(vectors, 0.9, clusters=5, device=DEVICE, tile_bytes=30_000)
    assert refused and (found.i == wanted.i).all() and (found.j == wanted.j).all()


def test_tiles_without_a_diagonal_are_as_high_as_their_cell():
    one = np.array([5_000])
    tiles = list(tiles_of(CellCounts(one * 0, one, one, 2 * one, 2 * one), most=1 << 30))
    assert [tile.bottom - tile.top for tile in tiles] == [2048, 2048, 904, 5_000]
    old = list(tiles_of(CellCounts(one * 0, one, one * 0, 2 * one, 2 * one), most=1 << 30))
    assert old == [Tile(0, 5_000, 5_000, 15_000)]


@pytest.mark.parametrize(("free", "size"), [(None, 256 << 20), (24 << 30, 384 << 20), (139 << 30, 1 << 30)])
def test_packs_are_as_large_as_the_device_has_room_for(free, size, monkeypatch):
    monkeypatch.setattr(device_join, "free_bytes", lambda device: free)
    assert device_join._pack_bytes("cuda") == size


def test_no_room_for_the_smallest_tile_is_said_clearly(monkeypatch):
    vectors = make_vectors("clustered", 300, 16, np.float16, 3)
    monkeypatch.setattr(device_join._Worker, "_products", no_room)
    with pytest.raises(DedupError, match=r"no memory for a tile of .* --device cpu"):
        exact_matches(vectors, 0.9, clusters=3, device=DEVICE)
    monkeypatch.setattr(device_cells._Test, "__call__", no_room)
    with pytest.raises(DedupError, match=r"no memory for a tile of 64 rows and 3 cells.*--device cpu"):
        assign(vectors, np.eye(3, 16), 0.9, DEVICE)


def test_without_room_assignment_goes_on_in_smaller_tiles(monkeypatch):
    vectors = make_vectors("clustered", 900, 24, np.float32, 7)
    centroids = fit_centroids(vectors, 9)
    wanted = assign(vectors, centroids, 0.9, DEVICE)
    sizes, test = [], device_cells._Test.__call__

    def limited(self, rows, at):
        sizes.append(at.stop - at.start)
        return no_room() if sizes[-1] > 150 else test(self, rows, at)

    monkeypatch.setattr(device_cells._Test, "__call__", limited)
    found = assign(vectors, centroids, 0.9, DEVICE)
    assert sizes[0] == 900 and max(size for size in sizes if size <= 150) >= 64
    assert (found.home == wanted.home).all() and set(found.ghost_rows) == set(wanted.ghost_rows)


def test_fitting_without_room_goes_on_in_smaller_tiles(monkeypatch):
    vectors = make_vectors("clustered", 2000, 24, np.float16, 7)
    from dedup_assets.compute import kmeans

    wanted = fit_centroids(vectors, 8, device=DEVICE)
    assign_tile, sizes = kmeans._nearest, []

    def limited(rows, centroids):
        sizes.append(len(rows))
        return no_room() if len(rows) > 300 else assign_tile(rows, centroids)

    monkeypatch.setattr(kmeans, "_nearest", limited)
    np.testing.assert_allclose(fit_centroids(vectors, 8, device=DEVICE), wanted, atol=1e-6)
    assert max(sizes) == 2000 and sizes[-1] <= 300
    monkeypatch.setattr(kmeans, "_nearest", no_room)
    with pytest.raises(DedupError, match="no memory"):
        fit_centroids(vectors, 8, device=DEVICE)


def test_centroids_fitted_on_a_device_are_as_good():
    vectors = make_vectors("clustered", 3000, 64, np.float16, 9)
    unit = vectors.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    quality = [float((unit @ fit_centroids(vectors, 40, device=d).T).max(axis=1).mean()) for d in ("cpu", DEVICE)]
    assert abs(quality[0] - quality[1]) < 0.005


@pytest.mark.parametrize("low", ["fp16", "bf16", "fp32"])
def test_in_every_precision_no_match_is_missed(low, monkeypatch):
    from dedup_assets.compute import cells

    for module in (precision, cells):
        monkeypatch.setattr(module, "native_precision", lambda device: low)
    vectors = make_vectors("clustered", 600, 96, np.float16, 11)
    floor = away_from_ties(brute_force(vectors), 0.9)
    huge = 3000 * np.random.default_rng(0).normal(size=(6, 96))  # beyond what fp16 is used for
    for centroids in (None, huge):
        found = exact_matches(vectors, floor, clusters=6, centroids=centroids, device=DEVICE)
        assert_exact(found, vectors, floor)


def test_products_are_summed_in_float32_and_the_caller_settings_come_back():
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction
    with float32_sums():
        with float32_sums():
            assert not matmul.allow_fp16_reduced_precision_reduction
        assert not matmul.allow_fp16_reduced_precision_reduction
        assert not matmul.allow_bf16_reduced_precision_reduction
    assert before == (matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError("std::bad_alloc"), True),
        (RuntimeError("std::bad_alloc: out_of_memory: RMM failure at: pool_memory_resource.hpp"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("std::bad_alloc: out_of_memory: RMM failure: Exceeded memory limit (failed to allocate)"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_a_lack_of_memory_is_taken_for_one(error, expected):
    assert is_out_of_memory(error) is expected


def test_an_empty_listing_gives_nothing():
    rows = DeviceRows.of(np.zeros((0, 8), np.float16), DEVICE)
    none = np.empty(0, np.int32)
    listing = Listing(np.zeros(3, np.int64), none, np.zeros(3, np.int64), none, np.empty(0, bool))
    assert list(match_on_device(rows, listing, 0.9, max_matches=10)) == []
    assert device_rows.upload(np.zeros((0, 8), np.float32), DEVICE).shape == (0, 8)
    assert len(exact_matches(np.zeros((1, 8), np.float16), 0.9, device=DEVICE)) == 0


@pytest.mark.parametrize(
    ("version", "kind", "streams"),
    [("2.9.1", "cuda", 1), ("2.10.0", "cuda", 2), ("2.13.0+cu130", "cuda", 2), ("2.13.0+cpu", "cpu", 1)],
)
def test_two_streams_only_where_torch_keeps_their_workspaces_apart(version, kind, streams, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert device_join._streams(kind) == streams
