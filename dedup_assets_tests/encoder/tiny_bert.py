"""A random BERT of 32 dimensions with a window of 64, for a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel


def tiny_bert(tokenizer: Any, seed: int, **shape: Any) -> BertModel:
    """The model; `shape` is what differs from one of two layers with two heads."""
    torch.manual_seed(seed)
    usual = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(
        BertConfig(vocab_size=len(tokenizer), hidden_size=32, max_position_embeddings=64, **(usual | shape))
    )


def saved(folder: Path, tokenizer: Any, seed: int, **shape: Any) -> Path:
    """The folder in which such a model and its tokenizer are saved."""
    tiny_bert(tokenizer, seed, **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
