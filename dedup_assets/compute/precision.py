"""The low precision that a device multiplies natively, and unit rows in it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from numba import njit, types
from numba.extending import overload

from dedup_assets.compute.similarity import as_bits, half_to_float
from dedup_assets.later import torch

PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Names of the types in torch, by precision."""

_SAFE_SQUARE = 1e30
"""Squared norms between 1e-30 and 1e30 can be scaled in float32 without leaving its range."""

MEASURING = 2.0**-20
"""Added to a measured rounding error for the float32 arithmetic of measuring it."""


def dtype_of(precision: str) -> torch.dtype:
    """The type of ``"bf16"``, ``"fp16"`` or ``"fp32"``."""
    dtype: torch.dtype = getattr(torch, PRECISIONS[precision])
    return dtype


def native_bfloat16(device: str) -> bool:
    """Whether `device` multiplies bfloat16 in hardware.

    On a CPU without AVX512-BF16 or AMX bfloat16 is emulated and slower than float32.
    """
    if device.startswith("cuda"):
        # Emulation below compute capability 8.0 is reported as support unless it is excluded.
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@cache
def native_precision(device: str = "cpu") -> str:
    """``"bf16"``, ``"fp16"`` or ``"fp32"``: what proposals are computed in on this device.

    CUDA: fp16, whose error is an eighth of bf16's at the same speed. CPU: bf16 with AMX tiles or AVX512-BF16
    (measured 10× fp32 with AMX), else fp32: bf16 without such units is emulated and slower than fp32.
    """
    if torch.device(device).type == "cuda":
        return "fp16"
    return "bf16" if native_bfloat16("cpu") else "fp32"


def unit_rows(vectors: np.ndarray, squares: np.ndarray) -> torch.Tensor:
    """Rows (n, d) scaled to unit length, float32 on the CPU; zero rows stay zero.

    ``squares`` are the canonical squared norms, float64 (n,). Norms come out within 2^-22 of 1.
    """
    return torch.from_numpy(unit_array(vectors, squares))


def unit_array(vectors: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """`unit_rows` as an array of numpy, without torch."""
    bits = as_bits(vectors)
    out = np.empty(bits.shape, np.float32)
    _scale(bits, squares, out)
    return out


def low_unit_rows(vectors: np.ndarray, squares: np.ndarray, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """`unit_rows` rounded to ``dtype``, and the largest ``‖row - rounded row‖`` among them.

    To bfloat16 in one pass, with the error measured on the way: 0.25 µs a row of 384 where scaling, rounding
    and measuring one after the other took 13. 2^-20 is added for the float32 arithmetic of measuring.
    """
    if dtype != torch.bfloat16:
        unit = unit_rows(vectors, squares)
        low = unit.to(dtype)
        return low, float((unit - low.float()).norm(dim=1).max()) + MEASURING if len(unit) else 0.0
    bits = as_bits(vectors)
    low = torch.empty(bits.shape, dtype=torch.bfloat16)
    worst = _scale_and_round(bits, squares, low.view(torch.int16).numpy())
    return low, math.sqrt(worst) + MEASURING if len(bits) else 0.0


@njit(cache=True, nogil=True)
def to_bfloat(value):
    """A finite float32 rounded to the nearest bfloat16, ties to even: its bits in the lower half of an int32."""
    bits = np.float32(value).view(np.int32)
    return (bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) >> np.int32(16)


@njit(cache=True, nogil=True)
def from_bfloat(bits):
    """Value of a bfloat16 given as an integer: it is the upper half of a float32."""
    return np.int32(np.int32(bits) << np.int32(16)).view(np.float32)


def _value(stored):
    """A stored number as float32; float16 numbers are passed as their bits (uint16)."""
    raise NotImplementedError


@overload(_value)
def _typed_value(stored):  # see `scan._typed_row_dot`
    if stored == types.uint16:
        return lambda stored: half_to_float(stored)
    return lambda stored: stored


@njit(cache=True, nogil=True, error_model="numpy")
def _scale(rows, squares, out):
    """Rows at unit length, float32; zero rows stay zero."""
    for row in range(rows.shape[0]):
        square = squares[row]
        given, scaled = rows[row], out[row]
        if square == 0.0:
            scaled[:] = np.float32(0.0)
        elif square < 1.0 / _SAFE_SQUARE or square > _SAFE_SQUARE:
            for at in range(given.shape[0]):
                scaled[at] = np.float32(np.float64(_value(given[at])) * (1.0 / np.sqrt(square)))
        else:
            scale = np.float32(1.0 / np.sqrt(square))
            for at in range(given.shape[0]):
                scaled[at] = _value(given[at]) * scale


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def round_row(values, out):
    """Round float32 values to bfloat16 bits, int16, and return the sum of their squared errors."""
    total = np.float32(0.0)
    for at in range(values.shape[0]):
        bits = to_bfloat(values[at])
        out[at] = np.int16(bits)
        error = values[at] - from_bfloat(bits)
        total += error * error
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _scale_and_round(rows, squares, out):
    """Rows at unit length as bfloat16 bits; returns the largest sum of squared errors of a row."""
    scaled = np.empty((1, rows.shape[1]), np.float32)  # stays in the first cache
    worst = np.float32(0.0)
    for row in range(rows.shape[0]):
        _scale(rows[row : row + 1], squares[row : row + 1], scaled)
        worst = max(worst, round_row(scaled[0], out[row]))
    return worst


@contextmanager
def one_thread_each(threads: int) -> Iterator[None]:
    """While several threads call torch, let each operation use one; restored afterwards.

    The setting belongs to the process and to the thread: of several concurrent callers, each restores the value that
    the first one found.
    """
    global _found
    if threads <= 1:
        yield
        return
    with _counting:
        if not _callers:
            _found = torch.get_num_threads()
        _callers.append(None)
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _counting:
            _callers.pop()
            torch.set_num_threads(_found)


_counting = threading.Lock()
_callers: list[None] = []
_found = 1


def bits_of(product: torch.Tensor) -> np.ndarray:
    """A CPU product as numpy: bfloat16 as its int16 bit patterns, float32 as it is; never a copy."""
    return product.view(torch.int16).numpy() if product.dtype == torch.bfloat16 else product.numpy()
