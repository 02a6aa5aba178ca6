"""Whether the weights of a model folder are those of its configuration.

transformers fills what is missing with random numbers and leaves out what it has no place for, and only logs it: the
same text would have other vectors in the next process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dedup_assets.errors import ModelError

_SHOWN = 5


def require_weights(folder: str, model: Any, told: Mapping[str, Any]) -> None:
    """Raise ModelError if a weight that reaches the hidden states is missing, or one of a layer has no place.

    Parameters
    ----------
    folder : str
    model : transformers.PreTrainedModel
    told : mapping
        What `from_pretrained(..., output_loading_info=True)` tells: missing, unexpected and mismatched keys.
    """
    missing = set(told.get("missing_keys", ())) | {str(key) for key in told.get("mismatched_keys", ())}
    if missing:
        try:
            reaching = _reaching(model)
        except Exception:  # what cannot run, for whatever reason, excuses no weight
            reaching = missing
        needed = sorted(missing & reaching | (missing - {name for name, _ in model.named_parameters()}))
        if needed:
            raise ModelError(
                f"the model in {folder} lacks weights that its configuration asks for: {_listed(needed)}. They would "
                "be random numbers. Expected configuration and weights of one model"
            )
    places = {_pattern(name) for name, _ in model.named_parameters()}
    surplus = sorted(key for key in told.get("unexpected_keys", ()) if _has_kin(key, places))
    if surplus:
        raise ModelError(
            f"the model in {folder} has weights of layers that its configuration does not name: {_listed(surplus)}. "
            "Expected configuration and weights of one model"
        )


def _reaching(model: Any) -> set[str]:
    """Names of the parameters that the last hidden states depend on: those that a gradient of them reaches."""
    import torch

    model.eval()
    inputs = torch.zeros((1, 4), dtype=torch.long)
    hidden = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).last_hidden_state
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(hidden.sum(), [parameter for _, parameter in named], allow_unused=True)
    return {name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is not None}


def _pattern(name: str) -> str:
    """A name without the numbers of layers."""
    return re.sub(r"\d+", "N", name)


def _has_kin(key: str, places: set[str]) -> bool:
    """Whether a weight without a place is of the kind of one that has a place: a layer too many."""
    pattern = _pattern(key)
    return "N" in pattern and any(pattern == place or pattern.endswith(f".{place}") for place in places)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
