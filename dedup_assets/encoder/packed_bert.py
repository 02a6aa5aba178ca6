"""BERT-like models on a CPU, many texts laid end to end in one product, without padding.

Knows neither tokenizers nor pooling; it is given token ids and where each text begins, and gives hidden states.

Of what a batch costs, nearly everything is products with weights, and those take each token by itself: only
attention looks at a whole text. So the tokens of many texts stand below each other as the rows of one matrix of
fixed height, and attention runs for each text on its own rows. No arithmetic is spent on padding, and no mask is
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dedup_assets.encoder.batching import Run

if TYPE_CHECKING:
    import torch

# They have the modules that are read below; what differs is where positions start.
BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert")


@dataclass(frozen=True)
class _Layer:
    """What one layer does with its rows; the products hold their weights."""

    query_key_value: Callable[[torch.Tensor], torch.Tensor]
    attended: Callable[[torch.Tensor], torch.Tensor]
    attended_norm: Any
    widened: Callable[[torch.Tensor], torch.Tensor]
    narrowed: Callable[[torch.Tensor], torch.Tensor]
    narrowed_norm: Any


class PackedBert:
    """Hidden states of packed texts.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        One that `fits`, on the CPU, in evaluation, in its final precision. Its embeddings and norms are shared,
        its other weights copied.
    rows : int
        Height that the weights are laid out for; others work too.
    """

    def __init__(self, model: Any, rows: int) -> None:
        embeddings = model.embeddings
        self._heads = int(model.config.num_attention_heads)
        self._words = embeddings.word_embeddings.weight
        # RoBERTa and its kin start counting behind the padding id.
        first = 0 if model.config.model_type == "bert" else int(embeddings.padding_idx) + 1
        # The kind of token is the same everywhere: its vector becomes part of the position's.
        self._places = embeddings.position_embeddings.weight[first:] + embeddings.token_type_embeddings.weight[0]
        self._norm = embeddings.LayerNorm
        self._layers = [_layer(layer, rows) for layer in model.encoder.layer]

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether `model` is one of those that this computes as transformers does."""
        config = model.config
        return (
            config.model_type in BERT_LIKE
            and getattr(config, "position_embedding_type", "absolute") == "absolute"
            and not config.is_decoder
            and not getattr(config, "add_cross_attention", False)
        )

    def hidden(self, ids: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
        """Last hidden states (rows, d) of token ids (rows,); rows outside `runs` mean nothing."""
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        width = self._words.shape[1]
        places = torch.zeros(len(ids), dtype=torch.int64)
        for run in runs:
            places[run.rows] = torch.arange(run.length).repeat(run.count)
        x = self._norm(self._words[ids] + self._places[places])
        context = torch.zeros_like(x)
        for layer in self._layers:
            projected = layer.query_key_value(x)
            for run in runs:
                query, key, value = projected[run.rows].view(run.count, run.length, 3, self._heads, -1).unbind(2)
                attention = scaled_dot_product_attention(
                    query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
                )
                context[run.rows] = attention.transpose(1, 2).reshape(-1, width)
            x = layer.attended_norm(layer.attended(context).add_(x))
            x = layer.narrowed_norm(layer.narrowed(layer.widened(x)).add_(x))
        return x


def _layer(layer: Any, rows: int) -> _Layer:
    import torch

    attention = layer.attention.self
    three = [attention.query, attention.key, attention.value]
    return _Layer(
        _product(torch.cat([p.weight for p in three]), torch.cat([p.bias for p in three]), rows),
        _product(layer.attention.output.dense.weight, layer.attention.output.dense.bias, rows),
        layer.attention.output.LayerNorm,
        _product(
            layer.intermediate.dense.weight,
            layer.intermediate.dense.bias,
            rows,
            layer.intermediate.intermediate_act_fn,
        ),
        _product(layer.output.dense.weight, layer.output.dense.bias, rows),
        layer.output.LayerNorm,
    )


def _product(
    weight: torch.Tensor, bias: torch.Tensor, rows: int, activation: Any = None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """x -> activation(x · weightᵀ + bias), by oneDNN with weights laid out once where torch has it.

    These are the operators that torch's own compiler emits; called directly there is nothing to compile.
    """
    import torch

    if not _prepacks(weight):
        linear = torch.nn.functional.linear
        if activation is None:
            return lambda x: linear(x, weight, bias)
        return lambda x: activation(linear(x, weight, bias))
    product = torch.ops.mkldnn._linear_pointwise.default
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    if activation is None:
        return lambda x: product(x, packed, bias, "none", [], "")
    from transformers.activations import GELUActivation

    if isinstance(activation, GELUActivation):
        return lambda x: product(x, packed, bias, "gelu", [], "none")
    return lambda x: activation(product(x, packed, bias, "none", [], ""))


def _prepacks(weight: torch.Tensor) -> bool:
    import torch

    if not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
