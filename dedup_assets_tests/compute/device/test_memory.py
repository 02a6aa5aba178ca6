"""Too little memory on a device: simulated on CPU tensors, every byte of which counts, and told by stand-ins for CUDA.

Whatever there is, the matches are all there are; where not even the smallest piece fits, one error says so.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dedup_assets.compute import distances
from dedup_assets.compute.cells import _sort_by_cell, assign, offsets_of
from dedup_assets.compute.device import block as device_block
from dedup_assets.compute.device import cells as device_cells
from dedup_assets.compute.device import ghosts as device_ghosts
from dedup_assets.compute.device import listing as device_listing
from dedup_assets.compute.device import memory as device_memory
from dedup_assets.compute.device import rows as device_rows
from dedup_assets.compute.device.ghosts import GhostCollector
from dedup_assets.compute.device.listing import Listing, placed
from dedup_assets.compute.device.memory import Room, broken, by_slices, free_bytes
from dedup_assets.compute.device.rows import DeviceRows
from dedup_assets.compute.in_memory import exact_matches
from dedup_assets.compute.join import CellBlock, DenseCells, match_cells, unique_matches
from dedup_assets.compute.kmeans import fit_centroids
from dedup_assets.errors import NoRoomError
from dedup_assets_tests.compute.vectors import make_vectors
from dedup_assets_tests.gpu.simulated import CUBLAS_SAYS, TORCH_SAYS, SmallDevice

DEVICE = "cpu:0"


def same(found, wanted):
    assert (found.i == wanted.i).all() and (found.j == wanted.j).all() and (found.similarity == wanted.similarity).all()


# -- a device of few bytes ---------------------------------------------------------------------------


@pytest.mark.parametrize(("tells", "says"), [(True, TORCH_SAYS), (False, CUBLAS_SAYS)])
def test_on_a_device_smaller_than_the_vectors_no_match_is_missed(tells, says, monkeypatch):
    for module in (device_listing, device_rows):
        monkeypatch.setattr(module, "LEAST_ROWS", 64)
    vectors = make_vectors("clustered", 1600, 64, np.float16, 2)  # 204,800 bytes, as much for what is multiplied
    new = np.random.default_rng(0).random(1600) < 0.4
    wanted = exact_matches(vectors, 0.95, clusters=6, new=new)
    device = SmallDevice(400_000, says)
    with device.active(tells):
        found = exact_matches(vectors, 0.95, clusters=9, new=new, device=DEVICE)
    assert device.refused > 3 and device.peak <= device.capacity and len(wanted) > 100
    same(found, wanted)


def test_what_a_join_holds_does_not_grow_with_its_ghosts(monkeypatch):
    vectors = make_vectors("clustered", 600, 32, np.float16, 3)
    rows = DeviceRows.of(vectors, DEVICE)
    monkeypatch.setattr(device_listing, "LISTED_AT_ONCE", 1000)
    for cells in (10, 100):
        listing = crowded(600, cells)
        device = SmallDevice(1 << 30)
        with device:
            listed, _ = placed(listing, rows.device, padding=64)
            assert len(listed) == listing.entries + 64
        assert device.peak <= 4 * (listing.entries + 64) + 40_000, "more than 4 bytes an entry"


def crowded(n: int, cells: int) -> Listing:
    """Every row at home in one cell and a ghost in all others."""
    rng = np.random.default_rng(cells)
    home = np.sort(rng.integers(0, cells, n))
    ghosts = [np.flatnonzero(home != cell) for cell in range(cells)]
    return Listing(
        offsets_of(np.bincount(home, minlength=cells)),
        np.arange(n, dtype=np.int32),
        offsets_of(np.array([len(part) for part in ghosts])),
        np.concatenate(ghosts).astype(np.int32),
        rng.random(n) < 0.5,
    )


def test_listings_are_placed_homes_first_and_new_rows_first(monkeypatch):
    listing = crowded(40, 7)
    whole, counts = placed(listing, DEVICE, padding=3)
    for at_once in (1, 5, 64):
        monkeypatch.setattr(device_listing, "LISTED_AT_ONCE", at_once)
        assert torch.equal(placed(listing, DEVICE, padding=3)[0], whole)
    for cell in range(7):
        first, homes, ghosts = (int(part[cell]) for part in (counts.first, counts.homes, counts.ghosts))
        listed = whole[first : first + homes + ghosts].numpy()
        for part, new in ((listed[:homes], counts.new_homes), (listed[homes:], counts.new_ghosts)):
            fresh = listing.is_new[part]
            assert fresh[: new[cell]].all() and not fresh[new[cell] :].any()
        wanted = listing.of_cells(cell, cell + 1)
        assert set(listed[:homes]) == set(wanted.home_rows) and set(listed[homes:]) == set(wanted.ghost_rows)


def pairs_of(listing: Listing) -> set[tuple[int, int]]:
    """All pairs that a listing compares, as (smaller, larger)."""
    met = set()
    for cell in range(listing.cells):
        one = listing.of_cells(cell, cell + 1)
        homes, ghosts = one.home_rows.tolist(), one.ghost_rows.tolist()
        among = itertools.combinations(homes, 2) if one.among_homes else ()
        for i, j in itertools.chain(among, itertools.product(homes, ghosts)):
            if listing.is_new[i] or listing.is_new[j]:
                met.add((min(i, j), max(i, j)))
    return met


def test_halves_compare_the_same_pairs_down_to_the_smallest(monkeypatch):
    monkeypatch.setattr(device_listing, "LEAST_ROWS", 3)
    whole = crowded(30, 4)
    waiting, smallest, met = [whole], [], set()
    while waiting:
        listing = waiting.pop()
        halves = listing.halves()
        if halves is None:
            smallest.append(listing)
            continue
        assert pairs_of(listing) == set().union(*map(pairs_of, halves))
        waiting += halves
    for listing in smallest:
        rows = listing.rows()
        assert listing.entries <= 3
        met |= {tuple(rows[list(pair)].tolist()) for pair in pairs_of(listing.of_rows(rows))}
    assert met == pairs_of(whole)


def test_a_dense_cell_that_does_not_fit_is_named_and_not_listed(monkeypatch):
    vectors = np.repeat(make_vectors("clustered", 4, 32, np.float16, 3), 500, axis=0)
    vectors[500:] = make_vectors("clustered", 1500, 32, np.float16, 4)
    home = np.repeat([0, 1], [500, 1500])
    none = np.empty(0, np.int32)
    block = CellBlock(
        vectors, offsets_of(np.bincount(home)), np.arange(2000, dtype=np.int32), np.zeros(3, np.int64), none,
        np.ones(2000, bool),
    )  # fmt: skip
    whole, parted = DenseCells(20), DenseCells(20)
    wanted = unique_matches(list(match_cells(block, 0.9, device=DEVICE, dense=whole)))
    monkeypatch.setattr(device_block, "free_bytes", lambda device: 2 * 300 * 140)
    monkeypatch.setattr(device_listing, "LEAST_ROWS", 64)
    found = unique_matches(list(match_cells(block, 0.9, device=DEVICE, dense=parted)))
    assert parted.cells == whole.cells == [0]
    same(found, wanted)


def test_rows_of_the_host_are_assigned_as_many_at_a_time_as_fit(monkeypatch):
    vectors = make_vectors("clustered", 900, 24, np.float32, 7)
    centroids = fit_centroids(vectors, 9)
    wanted = assign(vectors, centroids, 0.9, DEVICE)
    uploads, of = [], DeviceRows.of
    monkeypatch.setattr(DeviceRows, "of", lambda rows, *a, **o: uploads.append(len(rows)) or of(rows, *a, **o))
    monkeypatch.setattr(device_cells, "free_bytes", lambda device: 4 * 200 * (24 * 4 + 8))
    found = assign(vectors, centroids, 0.9, DEVICE)
    assert max(uploads) <= 200 and sum(uploads) == 900
    same_cells(found, wanted)


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("most", [1, 100, 1 << 26])
def test_ghosts_of_many_tiles_end_in_the_order_of_the_host(most, refused, monkeypatch):
    rng = np.random.default_rng(most)
    n, k = 500, 23
    listed, home = rng.random((n, k)) < 0.1, rng.integers(0, k, n).astype(np.int32)
    listed[:, 4] = False
    cells = np.nonzero(listed)[1].astype(np.int32)
    offsets, rows = _sort_by_cell([(listed.sum(axis=1).astype(np.int32), cells)], range(1), k)
    monkeypatch.setattr(device_ghosts, "PILE_ENTRIES", most)
    if refused:
        monkeypatch.setattr(device_ghosts, "_together", lambda tiles, device: out_of_memory())
    pile = GhostCollector(n, k, DEVICE)
    for start, stop in itertools.pairwise([0, 1, 130, 131, 300, 500]):
        part = torch.from_numpy(listed[start:stop])
        found = torch.nonzero(part.T)[:, 1].int()
        counts = part.sum(dim=0, dtype=torch.int32)
        pile.add(device_ghosts.Tile(start, torch.from_numpy(home[start:stop]), counts, found))
        assert pile.done == stop
    for given, wanted in zip(pile.taken(), (home, offsets, rows), strict=True):
        assert given.dtype == wanted.dtype and (given == wanted).all()
    assert [len(part) for part in GhostCollector(0, k, DEVICE).taken()] == [0, k + 1, 0]


def test_an_assignment_that_fails_half_way_lists_no_row_twice(monkeypatch):
    vectors = make_vectors("clustered", 900, 24, np.float32, 7)
    centroids = fit_centroids(vectors, 9)
    wanted = assign(vectors, centroids, 0.9, DEVICE)
    test, sizes = device_cells._Test.__call__, []

    def limited(self, rows, at):
        sizes.append(at.stop - at.start)
        if len(sizes) > 4 and len(rows) > 300:  # some tiles are done, then not even the smallest finds room
            out_of_memory()
        return test(self, rows, at)

    monkeypatch.setattr(device_cells._Test, "__call__", limited)
    monkeypatch.setattr(device_memory, "release", lambda device: None)
    found = assign(vectors, centroids, 0.9, DEVICE, tile_bytes=2 * 9 * 64)
    same_cells(found, wanted)
    for cell in range(9):
        assert (np.diff(found.ghost_rows[found.ghost_offsets[cell] : found.ghost_offsets[cell + 1]]) > 0).all()


def same_cells(found, wanted):
    """The same homes, and the same ghosts but for some whose need depends on the rows of their tile."""
    assert (found.home == wanted.home).all()
    assert abs(len(found.ghost_rows) - len(wanted.ghost_rows)) < 0.01 * len(wanted.ghost_rows) + 3


def test_distances_of_centroids_stay_on_the_host_where_they_would_fill_the_device(monkeypatch):
    vectors = make_vectors("clustered", 500, 24, np.float32, 7)
    centroids = fit_centroids(vectors, 20)
    wanted = assign(vectors, centroids, 0.9, DEVICE)
    for room in ("told", "refused"):
        distances.forget_distances()
        if room == "told":
            monkeypatch.setattr(distances, "free_bytes", lambda device: 4 * 4 * 20 * 19)
        else:
            monkeypatch.setattr(distances, "free_bytes", lambda device: None)
            monkeypatch.setattr(distances, "_computed_on", lambda device, book: out_of_memory())
        found = assign(vectors, centroids, 0.9, DEVICE)
        assert distances._on_device._last is None and distances._on_host._last is not None, room
        same_cells(found, wanted)


def test_centroids_are_fitted_on_fewer_rows_where_the_sample_does_not_fit():
    vectors = make_vectors("clustered", 4000, 24, np.float16, 7)
    device = SmallDevice(300_000)
    with device.active(tells=True):
        found = fit_centroids(vectors, 8, device=DEVICE)
    assert device.refused and found.shape == (8, 24)
    unit = vectors / np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    quality = [float((unit @ book.T).max(axis=1).mean()) for book in (found, fit_centroids(vectors, 8))]
    assert abs(quality[0] - quality[1]) < 0.02


def test_a_device_without_room_for_anything_is_one_error():
    vectors = make_vectors("clustered", 900, 64, np.float16, 2)
    device = SmallDevice(50_000)
    with device.active(tells=False), pytest.raises(NoRoomError, match=r"no memory for .*--device cpu"):
        exact_matches(vectors, 0.9, clusters=3, device=DEVICE)


# -- the one place that halves -----------------------------------------------------------------------


def test_what_was_refused_is_not_tried_again():
    tried: list[int] = []

    def work(at: slice) -> list[int]:
        tried.append(at.stop - at.start)
        if tried[-1] > 30:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return list(range(at.start, at.stop))

    room = Room(DEVICE)
    for n in (100, 257):
        parts = by_slices(n, 100, work, room, least=4, what=lambda rows: f"{rows} rows")
        assert [number for part in parts for number in part] == list(range(n)), "in order, each once"
    assert [size for size in tried if size > 30] == [100, 50]


def test_other_errors_and_those_of_the_consumer_are_not_swallowed():
    def fails(at: slice) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(by_slices(8, 8, fails, Room(DEVICE), least=1, what=str))
    with pytest.raises(NoRoomError, match=r"cpu:0 has no memory for 2: CUDA out of memory\. Free"):
        list(by_slices(8, 8, lambda at: out_of_memory(), Room(DEVICE), least=2, what=str))


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


# -- what CUDA tells ---------------------------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch):
    """Stand-ins for what torch asks of a GPU."""
    fake = SimpleNamespace(backend="native", free=5000, reserved=900, allocated=300, ones=lambda: torch.zeros(1) + 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (fake.free, 9000))
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: fake.backend)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: fake.reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: fake.allocated)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(device_memory.torch, "ones", lambda n, device: fake.ones())
    return fake


def test_what_torch_keeps_unused_counts_as_free_where_torch_knows(cuda):
    assert free_bytes("cuda") == 5600 and free_bytes("cpu:0") is None
    cuda.backend = "pluggable"  # RMM's: torch refuses to be asked
    assert free_bytes("cuda") == 5000


def test_a_broken_context_is_told_from_a_lack_of_memory(cuda):
    assert broken("cuda") == "" and broken("cpu:0") == ""
    cuda.ones = out_of_memory
    assert broken("cuda") == ""

    def sticky() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")

    cuda.ones = sticky
    assert broken("cuda") == "CUDA error: an illegal memory access was encountered"
    cuda.ones = lambda: torch.zeros(1)
    assert broken("cuda") == "it adds wrongly"
