"""The transformers model and the tokenizer of a folder, loaded and looked at."""

from __future__ import annotations

from typing import Any

from dedup_assets.encoder.weights import require_weights
from dedup_assets.errors import ModelError, first_line


def load_parts(folder: str, trusted: bool = False) -> tuple[Any, Any]:
    """transformers model (float32, on the CPU) and fast tokenizer of a folder.

    Code that comes with a model is run only if `trusted`, and pickled weights are read as tensors only.

    Raises
    ------
    ModelError
        transformers cannot load the folder, or its weights are not those of its configuration.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
        model, told = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trusted, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # each weight format and model family raises types of its own
        raise ModelError(
            f"the model in {folder} cannot be loaded: {type(error).__name__}: {first_line(error)}. "
            "Expected a model that transformers knows, without code of its own"
        ) from error
    finally:
        if bar:
            logging.enable_progress_bar()
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"the model in {folder} is an encoder with a decoder. Expected one that encodes alone")
    if not hasattr(model.config, "hidden_size"):
        raise ModelError(f"the model in {folder} ({type(model).__name__}) is none of texts. Expected a text encoder")
    try:
        rows = model.get_input_embeddings().weight.shape[0]
    except (AttributeError, NotImplementedError, TypeError):
        raise ModelError(
            f"the model in {folder} ({type(model).__name__}) has no vectors of tokens. Expected a text encoder"
        ) from None
    require_weights(folder, model, told)
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer in {folder} knows {len(tokenizer)} tokens, and the model has vectors for {rows}. Expected "
            "the files of one model"
        )
    return model, tokenizer
