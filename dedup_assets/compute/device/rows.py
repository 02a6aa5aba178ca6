"""Stored vectors on a device, and the sums of the canonical similarity computed there.

They are uploaded once for all steps. The same functions run on a GPU and, for device "cpu:0", on CPU tensors.

Why the sums may be taken on the device
---------------------------------------
float16 storage: the sum is exact, so every order of a reduction gives the same bits. float32 storage: the products
are exact and the additions are done here in the fixed order of `similarity`, element by element; an addition of
float64 is correctly rounded on every device, and a fused multiply-add of an exact product changes nothing. The
last step, the division by the root of the norms, is taken on the host for the pairs that come near the floor:
torch's square root is not correctly rounded everywhere (on a CPU with MKL 1,558 of 90,000 differed in the last
bit). So what is decided is bit for bit `similarity.canonical_pairs`; the tests compare the bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from dedup_assets.compute import precision
from dedup_assets.compute.device.memory import Room, by_slices
from dedup_assets.compute.similarity import LANES, accumulation_error, as_bits, product_slack
from dedup_assets.compute.sketch import SKETCH_ROWS, SKETCH_WIDTH, principal_directions
from dedup_assets.later import torch

STAGING_BYTES = 64 << 20
"""Pinned memory of each of the two upload buffers, in bytes; not tuned on a GPU."""

WIDE_BYTES = 512 << 20
"""Bytes of float64 copies of rows kept at a time while norms, unit rows or similarities are computed; halved
automatically where the device is short of memory."""

LEAST_ROWS = 256
"""Smallest number of rows or pairs converted to float64 at a time: 2 MB at d = 1024. A device without memory for these
can do no work."""

Result = TypeVar("Result")

NEAR = 1e-9
"""Far above the last bits in which a device's square root may differ, far below what would let pairs through."""


@dataclass(frozen=True)
class DeviceRows:
    """Stored vectors and their canonical squared norms on one device.

    Attributes
    ----------
    stored : float16 or float32 tensor (n, d)
    squares : float64 tensor (n,)
    room : Room
        Limit of float64 copies, in bytes; shared by all rows taken from these.
    """

    stored: torch.Tensor
    squares: torch.Tensor
    room: Room = field(compare=False)

    @staticmethod
    def of(
        vectors: np.ndarray | torch.Tensor, device: str, rows: np.ndarray | None = None, room: Room | None = None
    ) -> DeviceRows:
        """Upload vectors (n, d), float16 or float32, or only those of the given numbers; a memory map is read in
        parts."""
        room = room or Room(device)
        stored = vectors.to(device) if isinstance(vectors, torch.Tensor) else upload(vectors, device, rows)
        squares = torch.empty(len(stored), dtype=torch.float64, device=device)

        def measure(at: slice) -> None:
            squares[at] = dots(stored[at], stored[at])

        widened(len(stored), stored.shape[1], room, measure)
        return DeviceRows(stored, squares, room)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)"""
        return self.stored.shape[0], self.stored.shape[1]

    @property
    def device(self) -> str:
        """The device that holds the vectors."""
        return str(self.stored.device)

    def take(self, rows: np.ndarray) -> DeviceRows:
        """The rows of the given numbers."""
        at = torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(self.stored.device)
        return DeviceRows(self.stored[at], self.squares[at], self.room)

    def unit(self, at: slice) -> torch.Tensor:
        """A slice of the rows scaled to unit length, float64; zero rows stay zero."""
        squares = self.squares[at]
        scale = torch.where(squares > 0, 1.0 / squares.sqrt(), 0.0)
        return self.stored[at].double().mul_(scale[:, None])

    def near(self, i: torch.Tensor, j: torch.Tensor, floor: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Which pairs of rows have a cosine within `NEAR` of the floor or above, int64 (m',), and their canonical
        dot products, float64 (m',). `cosines` finishes them on the host."""

        def measure(at: slice) -> tuple[torch.Tensor, torch.Tensor]:
            left, right = i[at], j[at]
            sums = dots(self.stored[left], self.stored[right])
            norms = (self.squares[left] * self.squares[right]).sqrt()
            # Written without a division: 0 >= 0 holds for zero rows, whose similarity is 0, under a floor of 0.
            chosen = torch.nonzero(sums >= (floor - NEAR) * norms).flatten()
            return chosen + at.start, sums[chosen]

        parts = widened(len(i), 2 * self.stored.shape[1], self.room, measure)
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return i.new_empty(0), self.squares.new_empty(0)
        return torch.cat([chosen for chosen, _ in parts]), torch.cat([sums for _, sums in parts])


def cosines(sums: np.ndarray, squares_i: np.ndarray, squares_j: np.ndarray) -> np.ndarray:
    """Canonical similarities from dot products and squared norms, all float64 (m,): `similarity.cosine`."""
    norms = np.sqrt(squares_i * squares_j)
    zero = (squares_i == 0) | (squares_j == 0)
    return np.where(zero, 0.0, np.clip(sums / np.where(zero, 1.0, norms), -1.0, 1.0))


def widened(n: int, width: int, room: Room, work: Callable[[slice], Result]) -> list[Result]:
    """Results of some work on slices of n rows or pairs, each of which converts ``width`` numbers to float64."""
    unit = 8 * max(1, width)
    step = max(LEAST_ROWS, WIDE_BYTES // unit)
    return list(by_slices(n, step, work, room, least=LEAST_ROWS, what=_wide_rows, unit=unit))


def _wide_rows(rows: int) -> str:
    return f"{rows} rows in float64"


def upload(vectors: np.ndarray, device: str, rows: np.ndarray | None = None) -> torch.Tensor:
    """Copy rows to a device, all or those of the given numbers. Copies to a GPU use two pinned buffers, so that reading
    and sending overlap."""
    as_bits(vectors[:0])
    if torch.device(device).type != "cuda":
        chosen = vectors if rows is None else vectors[rows]
        return torch.from_numpy(np.require(chosen, requirements=["C", "W"])).to(device)
    kind = torch.from_numpy(np.empty(0, vectors.dtype)).dtype
    n, d = len(vectors) if rows is None else len(rows), vectors.shape[1]
    out = torch.empty((n, d), dtype=kind, device=device)
    step = max(1, STAGING_BYTES // max(1, d * vectors.dtype.itemsize))
    buffers = [torch.empty((min(step, n), d), dtype=kind, pin_memory=True) for _ in range(2)]
    sent: list[torch.cuda.Event | None] = [None, None]
    for turn, start in enumerate(range(0, n, step)):
        buffer, event = buffers[turn % 2], sent[turn % 2]
        if event is not None:
            event.synchronize()  # the previous content of the buffer has arrived
        count = min(step, n - start)
        taken = slice(start, start + count) if rows is None else rows[start : start + count]
        np.copyto(buffer[:count].numpy(), vectors[taken])
        out[start : start + count].copy_(buffer[:count], non_blocking=True)
        sent[turn % 2] = torch.cuda.Event()
        sent[turn % 2].record(torch.cuda.current_stream(out.device))  # type: ignore[union-attr]
    torch.cuda.current_stream(out.device).synchronize()
    return out


def dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Canonical dot products of the rows of two tensors (m, d), float64 (m,)."""
    if a.dtype == torch.float16:
        return a.double().mul_(b).sum(dim=1)  # b is converted inside the kernel: one copy in float64, not three
    lanes = torch.zeros(len(a), LANES, dtype=torch.float64, device=a.device)
    for base in range(0, a.shape[1], LANES):
        products = a[:, base : base + LANES].double().mul_(b[:, base : base + LANES])
        lanes[:, : products.shape[1]] += products
    width = LANES // 2
    while width:
        lanes = lanes[:, :width] + lanes[:, width : 2 * width]
        width //= 2
    return lanes[:, 0]


@dataclass(frozen=True)
class DeviceLow:
    """Rows to multiply, in the device's precision: ``rows`` (n, w); products are off by at most ``slack``."""

    rows: torch.Tensor
    slack: float


def low_rows(rows: DeviceRows, width: int | None = None) -> DeviceLow:
    """Unit rows in the device's native precision, sketched where that pays: `sketch.low_rows` on a device.

    Sketches are computed in float64: that is cheap compared with the join, and independent of the TF32 setting.
    """
    n, d = rows.shape
    name = precision.native_precision(rows.device)
    if width is None:
        width = SKETCH_WIDTH if n >= SKETCH_ROWS and d >= 2 * SKETCH_WIDTH else 0
    if width >= d:
        width = 0
    columns = width or d
    axes = None
    if width:
        chosen = rows.take(np.linspace(0, n - 1, min(n, SKETCH_ROWS)).astype(np.int64))
        found = principal_directions(chosen.stored.cpu().numpy(), chosen.squares.cpu().numpy(), width - 1)
        axes = torch.from_numpy(found).to(rows.stored.device).double()
    delta = (accumulation_error(d) + 2.0**-23) * float(np.sqrt(columns)) if width else 0.0
    low = torch.empty(n, columns, dtype=precision.dtype_of(name), device=rows.stored.device)

    def lower(at: slice) -> torch.Tensor:
        unit = rows.unit(at)
        if axes is not None:
            leading = unit @ axes
            rest = 1.0 - (leading * leading).sum(dim=1) + (2 * delta + delta**2 + 2.0**-20)
            unit = torch.cat([leading, rest.clamp_min(0.0).sqrt()[:, None]], dim=1)
            # Not indexed by a mask: the host would have to wait for the number of its rows.
            unit.masked_fill_((rows.squares[at] == 0)[:, None], 0.0)
        low[at] = unit.float()
        return (unit - low[at]).norm(dim=1).max()

    errors = widened(n, 4 * d, rows.room, lower)
    # One synchronisation for all tiles.
    residual = float(torch.stack(errors).max()) + 2.0**-20 if errors else 0.0
    slack = product_slack(name, columns, residual) * (1 + 6 * delta) + 2 * delta + delta**2
    return DeviceLow(low, slack)


_sums_lock = threading.Lock()
_sums_users = 0
_sums_before: dict[str, object] = {}


@contextmanager
def float32_sums() -> Iterator[None]:
    """Inside this context, products of halves are summed in float32 and rounded once, as the error bounds assume.

    By default torch lets cuBLAS add partial sums in half precision where it splits the inner dimension. The settings
    are process-wide: they are restored when the last of several threads is done.
    """
    global _sums_users
    matmul = torch.backends.cuda.matmul
    names = (
        "allow_fp16_reduced_precision_reduction",
        "allow_bf16_reduced_precision_reduction",
        "allow_fp16_accumulation",
    )
    with _sums_lock:
        if _sums_users == 0:
            for name in names:
                if hasattr(matmul, name):
                    _sums_before[name] = getattr(matmul, name)
                    setattr(matmul, name, False)
        _sums_users += 1
    try:
        yield
    finally:
        with _sums_lock:
            _sums_users -= 1
            if _sums_users == 0:
                for name, value in _sums_before.items():
                    setattr(matmul, name, value)
                _sums_before.clear()
