"""Which low precision a device multiplies natively, and unit rows in it. Knows nothing of cells or pairs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

_SAFE_SQUARE = 1e30
"""Squared norms between 1e-30 and 1e30 can be scaled in float32 without leaving its range."""


@cache
def native_precision(device: str = "cpu") -> str:
    """``"bf16"``, ``"fp16"`` or ``"fp32"``: what proposals are computed in on this device.

    CUDA: fp16, whose error is an eighth of bf16's at the same speed. CPU: bf16 with AMX tiles or AVX512-BF16
    (measured 10× fp32 with AMX), else fp32: bf16 without such units is emulated and slower than fp32.
    """
    if torch.device(device).type == "cuda":
        return "fp16"
    able = any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return "bf16" if able else "fp32"


def unit_rows(vectors: np.ndarray, squares: np.ndarray) -> torch.Tensor:
    """Rows (n, d) scaled to unit length, float32 on the CPU; zero rows stay zero.

    ``squares`` are the canonical squared norms, float64 (n,). Norms come out within 2^-22 of 1.
    """
    # A copy in any case: torch warns of arrays that may not be written, as memory maps are.
    rows = torch.from_numpy(vectors.astype(np.float32))
    with np.errstate(divide="ignore"):
        scale = np.where(squares > 0, 1.0 / np.sqrt(squares), 0.0)
    extreme = (squares > 0) & ((squares < 1 / _SAFE_SQUARE) | (squares > _SAFE_SQUARE))
    scaled = rows * torch.from_numpy(np.where(extreme, 0.0, scale).astype(np.float32))[:, None]
    if extreme.any():
        at = np.flatnonzero(extreme)
        scaled[at] = torch.from_numpy((vectors[at].astype(np.float64) * scale[at, None]).astype(np.float32))
    return scaled


def rounding_residual(rows: torch.Tensor, rounded: torch.Tensor) -> float:
    """Largest ``‖row - rounded row‖``, with 2^-20 added for the float32 arithmetic of measuring it."""
    if not len(rows):
        return 0.0
    return float((rows - rounded.to(torch.float32)).norm(dim=1).max()) + 2.0**-20


@contextmanager
def one_thread_each(threads: int) -> Iterator[None]:
    """While several threads call torch, let each operation use one; restored afterwards.

    The setting belongs to the process: not for use by two callers at once.
    """
    before = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bits_of(product: torch.Tensor) -> np.ndarray:
    """A CPU product as numpy: bfloat16 as its int16 bit patterns, float32 as it is; never a copy."""
    return product.view(torch.int16).numpy() if product.dtype == torch.bfloat16 else product.numpy()
