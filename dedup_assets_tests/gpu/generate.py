"""Vectors made on a device, block by block: topics, unequal shares, near-copies. Needs torch alone."""

from __future__ import annotations

import torch

BLOCK = 1 << 16
"""Rows made at a time."""

MEAN = 0.27
"""Length of the common direction, as all-MiniLM-L6-v2 has it on docstrings and package descriptions."""

TOPICS = ((60, 0.15), (800, 0.20), (8_000, 0.15), (40_000, 0.08))
"""Number of topics at each level of the tree, and its share of the variance."""

SPECTRUM = ((0, 0.0365), (4, 0.0209), (16, 0.0094), (64, 0.0038), (128, 0.0021), (256, 0.00065), (383, 1e-5))
"""Eigenvalues of the covariance of 384-d embeddings; between them their logarithm is linear. Other dimensions
stretch the table."""

COPIES = 0.12
"""Share of rows that are near-copies of a row before them in their block."""

SIMILARITY = (0.90, 0.9995)
"""Of a copy to its source, evenly spread."""


def generated(n: int, d: int, device: str, seed: int = 0, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Unit vectors (n, d) on the device; the same for a seed on one kind of device."""
    random = torch.Generator(device).manual_seed(seed)
    scale = _scale(d, device)
    common = torch.randn(d, generator=random, device=device)
    common *= MEAN / common.norm()
    tables = [torch.randn(min(k, max(1, n // 4)), d, generator=random, device=device) * scale for k, _ in TOPICS]
    leaves = len(tables[-1])
    shares = torch.arange(1, leaves + 1, device=device, dtype=torch.float64) ** -0.7
    limits = (shares.cumsum(0) / shares.sum()).float()
    own = 1.0 - sum(weight for _, weight in TOPICS)
    out = torch.empty(n, d, dtype=dtype, device=device)
    for start in range(0, n, BLOCK):
        count = min(BLOCK, n - start)
        leaf = torch.searchsorted(limits, torch.rand(count, generator=random, device=device)).clamp_max(leaves - 1)
        rows = torch.randn(count, d, generator=random, device=device) * scale * own**0.5
        for table, (_, weight) in zip(tables, TOPICS, strict=True):
            rows += table[(leaf * 2654435761 % leaves) * len(table) // leaves] * weight**0.5
        rows = rows * (1 - MEAN**2) ** 0.5 + common
        rows /= rows.norm(dim=1, keepdim=True)
        copies = int(COPIES * count)
        if copies:
            at = torch.randint(count - copies, (copies,), generator=random, device=device)
            low, high = SIMILARITY
            near = low + (high - low) * torch.rand(copies, 1, generator=random, device=device)
            away = torch.randn(copies, d, generator=random, device=device) * scale
            source = rows[at]
            away -= (away * source).sum(dim=1, keepdim=True) * source
            away /= away.norm(dim=1, keepdim=True)
            rows[count - copies :] = near * source + (1 - near**2).sqrt() * away
            rows = rows[torch.randperm(count, generator=random, device=device)]
        out[start : start + count] = rows.to(dtype)
    return out


def _scale(d: int, device: str) -> torch.Tensor:
    """Standard deviations (d,) of the components; their squares add up to 1."""
    places = torch.tensor([at for at, _ in SPECTRUM], dtype=torch.float64) * ((d - 1) / 383)
    logs = torch.tensor([value for _, value in SPECTRUM], dtype=torch.float64).log()
    at = torch.arange(d, dtype=torch.float64)
    right = torch.searchsorted(places, at, right=True).clamp(1, len(places) - 1)
    part = ((at - places[right - 1]) / (places[right] - places[right - 1])).clamp(0, 1)
    values = (logs[right - 1] + part * (logs[right] - logs[right - 1])).exp()
    return (values / values.sum()).sqrt().float().to(device)
