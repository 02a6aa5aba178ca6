"""What an encoder chooses for itself: its precision by device, and how much a batch on a GPU holds by model."""

from __future__ import annotations

from typing import Any

# A GPU needs more rows to be busy; not tuned by measurement. Fewer for a model whose batch would need more than a GPU
# has beside it: a function of the model alone, so that the vectors are the same whatever is free.
GPU_TOKENS = 32768
SMALLEST_GPU_TOKENS = 512
GPU_BATCH_BYTES = 2 << 30


def gpu_tokens(config: Any, max_length: int) -> int:
    """Token positions per batch on a GPU: a power of two, from the shape of the model alone.

    Of a layer eight vectors of a token and two of its inner width are alive at most, and where attention is not fused
    its row of weights for each head; all counted as float32.
    """
    hidden = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    bytes_per_token = 4 * (8 * hidden + 2 * inner + heads * max_length)
    tokens = GPU_TOKENS
    while tokens > SMALLEST_GPU_TOKENS and tokens * bytes_per_token > GPU_BATCH_BYTES:
        tokens //= 2
    return tokens


def automatic_precision(device: str) -> str:
    """The fastest precision of a device that stays near float32."""
    if device.startswith("cuda"):
        return "float16"
    from dedup_assets.compute.precision import native_bfloat16  # brings torch, for which nobody waits before it is used

    return "bfloat16" if native_bfloat16(device) else "float32"
