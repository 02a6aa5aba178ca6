"""Texts to unit vectors with a transformers model: the vector of a text depends on the text alone.

Knows neither paths nor how a model is found; it is given a loaded model and its tokenizer.

Why batches have fixed shapes
-----------------------------
Matrix libraries choose kernels, blockings and splits of the sum from the shape of the operands and from
the number of threads. Measured with all-MiniLM-L6-v2 (torch 2.13, oneDNN 3.12, MKL 2024.2, a processor
with AMX), with no padding anywhere: changing the number of texts per batch changed the bits of up to
all bfloat16 vectors of a length, and going from one to two threads changed them too; in float32 the number of
threads alone changed up to all of them. So a vector that is computed in "whatever batch there is" is not
a function of the text, and a pair that lies near the threshold could be decided by its neighbours.

Shapes and thread counts are therefore a function of the text:

1. Each batch runs on one thread. The encoder uses the cores by running batches side by side.
2. Packed (BERT-like models on a CPU): products with weights always have the same number of rows, whatever
   texts lie in them, and attention runs for a text on its own rows, without a mask.
3. Padded (other models, and GPUs): the padded length is a function of the text's own token count (a ladder of
   lengths), and every batch of one length has the same number of rows, the last one filled up with copies. On a
   GPU that number follows from the model, never from how much memory is free: a batch that finds no room is tried
   once more in the same shape, after what is cached was given back, and is then an error. A padded length always
   leaves at least one padded position, except the full window, which is a class of its own without any.
   transformers drops the attention mask when nothing in the batch is padded, and the kernel without a mask need
   not round alike; thus that choice, too, follows from the text.

What is left to the kernels is that a row's result does not depend on its place among the rows of a product
of fixed shape, nor a text's attention on how many texts are attended in the same call: the tests check that, bit
by bit. Not promised: the same bits on another processor generation, with another torch version, or on a GPU
instead of a CPU. There the vectors differ by rounding, and those that were stored are the truth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dedup_assets.compute.workers import OneThreadWorkers
from dedup_assets.encoder.batching import (
    PackedBatch,
    ladder_length,
    ladder_steps,
    length_ladder,
    packed_batches,
    padded_batches,
)
from dedup_assets.encoder.choices import automatic_precision, gpu_tokens
from dedup_assets.encoder.packed_bert import PackedBert
from dedup_assets.encoder.window import TOKENIZE_CHUNK, WindowTokenizer
from dedup_assets.errors import ModelError

if TYPE_CHECKING:
    import torch

POOLINGS = ("mean", "cls", "last")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

# Token positions per batch on a CPU, whatever is in them: a single text pays for all. Packed, 256 took 4 to 9 % more
# processor time for each position in bfloat16 (none in float32), and 1024 up to 9 % (float32) and 16 % more.
CPU_TOKENS = 512
# Batches on their way from a GPU: it works on the next ones while the last ones travel.
GPU_BATCHES_IN_FLIGHT = 4


@dataclass(frozen=True)
class EncodedTexts:
    """Vectors of n texts, in the order of the texts.

    Attributes
    ----------
    vectors : float32 array (n, d)
        Unit L2 norm.
    truncated : bool array (n,)
        True where the text has more tokens than the model's window; the rest of it was not read.
    tokens : int32 array (n,)
        Tokens that were read, special tokens included.
    unknown : float32 array (n,)
        Share of the tokens that the model does not know; 1 for a text without any.
    """

    vectors: npt.NDArray[np.float32]
    truncated: npt.NDArray[np.bool_]
    tokens: npt.NDArray[np.int32]
    unknown: npt.NDArray[np.float32]


class Encoder:
    """A text encoder whose vectors do not depend on batches, order or threads.

    Safe to call from several threads; they share the model and its worker threads.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Takes `input_ids` and `attention_mask`, gives `last_hidden_state`. It is taken over: moved to the
        device, cast to the precision and set to evaluation.
    tokenizer : transformers.PreTrainedTokenizerFast
    pooling : {"mean", "cls", "last"}
        Mean over the text's tokens, its first token, or its last one.
    max_length : int
        Window in tokens, special tokens included. Longer texts are cut and reported.
    batch_size : int, optional
        Texts per batch at most. It bounds how much is done at a time, never the result; a small number
        wastes time, because a batch has its full shape all the same. None: as many as fit the shape.
    device : str
        "cpu", "cuda", "cuda:1".
    precision : {"auto", "float32", "bfloat16", "float16"}
        Of the weights and products; pooling and normalisation are float32 or better. "auto" takes float16 on a GPU,
        whose rounding error is an eighth of bfloat16's at the same speed; on a CPU bfloat16 where the hardware has
        it, else float32. A model that leaves the range of float16 is an error.

    Attributes
    ----------
    dimension : int
    device, precision : str
        As resolved.

    Raises
    ------
    ModelError
        An argument is not one of those above, or the model has no window of `max_length`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        pooling: str = "mean",
        max_length: int = 256,
        batch_size: int | None = None,
        device: str = "cpu",
        precision: str = "auto",
    ) -> None:
        import torch

        if pooling not in POOLINGS:
            raise ModelError(f"pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}")
        if precision not in PRECISIONS:
            raise ModelError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        window = WindowTokenizer(tokenizer, max_length)
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions is not None and max_length > positions:
            raise ModelError(f"max_length is {max_length}, but the model has only {positions} positions")
        if batch_size is not None and batch_size < 1:
            raise ModelError(f"batch_size is {batch_size}; expected at least 1")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ModelError(f"device is {device!r}, but no usable GPU was found; use device 'cpu'")

        if precision == "auto":
            precision = automatic_precision(device)
        self.pooling = pooling
        self.max_length = max_length
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.dimension = int(model.config.hidden_size)
        self._window = window
        self._ladder = length_ladder(max_length)
        self._model = model.to(device=device, dtype=getattr(torch, precision)).eval()
        self._model.requires_grad_(False)
        if getattr(self._model, "pooler", None) is not None:
            self._model.pooler = None  # its output is not used
        fused = getattr(model.config, "_attn_implementation", None) == "sdpa"
        self._takes_whole_mask = fused and PackedBert.fits(self._model)
        self._tokens = CPU_TOKENS if device == "cpu" else gpu_tokens(model.config, max_length)
        # As many batches side by side as there are cores.
        self._workers = OneThreadWorkers(torch.get_num_threads(), "encoder")
        self._packed: PackedBert | None = None
        if device == "cpu" and PackedBert.fits(self._model):
            self._packed = PackedBert(self._model, CPU_TOKENS)
            self._model = None  # what it needs it has

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Vectors of `texts`.

        Parameters
        ----------
        texts : sequence of n str
            May be empty, and so may be each text.

        Returns
        -------
        EncodedTexts

        Raises
        ------
        ModelError
            A vector is not finite: the numbers of the model leave the range of the precision.
        NoRoomError
            The device has no memory for a batch.
        """
        encoded = self._encode(texts)
        outside = np.flatnonzero(~np.isfinite(encoded.vectors).all(axis=1))
        if len(outside):
            remedy = "weights as published"
            if self.precision == "float16":
                remedy = (
                    "numbers up to 65,504; bfloat16 has the range of float32 (--precision), and float32 always does"
                )
            raise ModelError(
                f"the model has no finite vector in {self.precision} on {self.device} for {len(outside)} of "
                f"{len(texts)} texts, the first of them {texts[outside[0]][:60]!r}. Expected {remedy}"
            )
        return encoded

    def unknown_shares(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Share (n,) of the tokens of each text that the model does not know."""
        return self._window.unknown_shares(self._window.read(texts)[0])

    def _encode(self, texts: Sequence[str]) -> EncodedTexts:
        n = len(texts)
        vectors = np.zeros((n, self.dimension), dtype=np.float32)
        truncated = np.zeros(n, dtype=np.bool_)
        tokens = np.zeros(n, dtype=np.int32)
        unknown = np.zeros(n, dtype=np.float32)
        if n == 0:
            return EncodedTexts(vectors, truncated, tokens, unknown)
        if self.device != "cpu":
            return self._encode_on_device(texts, EncodedTexts(vectors, truncated, tokens, unknown))
        ids, truncated = self._window.read(texts)
        unknown = self._window.unknown_shares(ids)
        tokens[:] = [len(row) for row in ids]
        pool = self._workers.pool()
        if self._packed is not None:
            packed = list(packed_batches(tokens, CPU_TOKENS, self.batch_size))
            results = pool.map(lambda b: (b.texts, self._packed_vectors(ids, b)), packed)
        else:
            padded = list(padded_batches(tokens, self._ladder, self._tokens, self.batch_size))
            results = pool.map(lambda b: (b[0], self._unit_vectors([ids[i] for i in b[0]], b[1], b[2])), padded)
        for rows, result in results:
            vectors[rows] = result.numpy()
        return EncodedTexts(vectors, truncated, tokens, unknown)

    def _encode_on_device(self, texts: Sequence[str], result: EncodedTexts) -> EncodedTexts:
        """`encode` on a GPU: one thread tokenises ahead, full batches start as soon as there is one, and vectors
        travel back while the next batches run. Fills and returns `result`."""
        from dedup_assets.encoder.device import Flight, event

        flight: deque[Flight] = deque()
        waiting: dict[int, list[tuple[int, npt.NDArray[np.int32]]]] = {}

        def launch(length: int, taken: int) -> None:
            batch, waiting[length] = waiting[length][:taken], waiting[length][taken:]
            rows = [row for row, _ in batch]
            for part, vectors in self._launched([ids for _, ids in batch], length):
                flight.append(Flight(np.array(rows[part]), vectors, event(self.device)))
            while len(flight) > GPU_BATCHES_IN_FLIGHT:
                flight.popleft().land(result.vectors)

        with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as ahead:
            starts = range(0, len(texts), TOKENIZE_CHUNK)
            coming = deque(ahead.submit(self._window.read, texts[s : s + TOKENIZE_CHUNK]) for s in starts[:2])
            for k, start in enumerate(starts):
                ids, cut = coming.popleft().result()
                if k + 2 < len(starts):
                    coming.append(
                        ahead.submit(self._window.read, texts[starts[k + 2] : starts[k + 2] + TOKENIZE_CHUNK])
                    )
                counts = np.array([len(row) for row in ids], dtype=np.int32)
                result.tokens[start : start + len(ids)] = counts
                result.truncated[start : start + len(ids)] = cut
                result.unknown[start : start + len(ids)] = self._window.unknown_shares(ids)
                for row, step in enumerate(ladder_steps(counts, self._ladder).tolist()):
                    waiting.setdefault(step, []).append((start + row, ids[row]))
                for step in waiting:
                    taken = self._taken(step)
                    while len(waiting[step]) >= taken:
                        launch(step, taken)
            for step in sorted(waiting, reverse=True):
                while waiting[step]:
                    launch(step, self._taken(step))
        while flight:
            flight.popleft().land(result.vectors)
        return result

    def _taken(self, step: int) -> int:
        height = max(1, self._tokens // ladder_length(step, self._ladder))
        return min(height, self.batch_size or height)

    def _launched(self, ids: list[npt.NDArray[np.int32]], step: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Start a batch; yields which of its texts, and where on the host their vectors will be."""
        from dedup_assets.encoder.device import in_fixed_shape

        length = ladder_length(step, self._ladder)
        height = max(1, self._tokens // length)
        for start in range(0, len(ids), height):
            part = slice(start, min(start + height, len(ids)))
            work = partial(self._unit_vectors, ids[part], length, height)
            yield part, in_fixed_shape(work, self.device, (height, length))

    def _packed_vectors(self, ids: list[npt.NDArray[np.int32]], batch: PackedBatch) -> torch.Tensor:
        """Unit vectors (n, d) of the texts of a batch."""
        import torch

        assert self._packed is not None
        inputs = np.full(batch.height, self._window.pad, dtype=np.int64)
        laid = np.concatenate([ids[text] for text in batch.texts])
        inputs[: len(laid)] = laid
        ends = np.cumsum([len(ids[text]) for text in batch.texts]).tolist()
        with torch.inference_mode():
            hidden = self._packed.hidden(torch.from_numpy(inputs), batch.runs)
            texts = zip([0, *ends], ends, strict=False)
            return _unit(torch.stack([self._pool_text(hidden[start:end]) for start, end in texts]))

    def _pool_text(self, hidden: torch.Tensor) -> torch.Tensor:
        """One float32 vector from the hidden states (length, d) of one text.

        Text by text: a sum over many texts at once may take its terms in another order.
        """
        import torch

        if self.pooling == "mean":
            return hidden.sum(dim=0, dtype=torch.float32) / len(hidden)
        return hidden[0 if self.pooling == "cls" else -1].float()

    def _unit_vectors(self, ids: list[npt.NDArray[np.int32]], length: int, height: int) -> torch.Tensor:
        """Unit vectors (len(ids), d) of one batch, run in the shape (height, length); does not wait for a GPU."""
        import torch

        counts = np.array([len(row) for row in ids] + [len(ids[0])] * (height - len(ids)))
        inputs = np.full((height, length), self._window.pad, dtype=np.int64)
        for r in range(height):
            row = ids[r] if r < len(ids) else ids[0]
            inputs[r, : len(row)] = row
        with torch.inference_mode():
            mask = self._sent(torch.from_numpy(np.arange(length)[None, :] < counts[:, None]))
            hidden = self._model(
                input_ids=self._sent(torch.from_numpy(inputs)),
                attention_mask=self._attention(mask, bool((counts == length).all())),
            ).last_hidden_state
            return _unit(self._pool_tokens(hidden, mask)[: len(ids)])

    def _attention(self, mask: torch.Tensor, full: bool) -> torch.Tensor | None:
        """What a model takes for a mask (rows, length); ``full`` where nothing is padded.

        transformers asks the device whether a mask of two dimensions is full, so the host would wait for each batch.
        BERT-like models are given what it makes of the answer instead.
        """
        if not self._takes_whole_mask:
            return mask.long()
        return None if full else mask[:, None, None, :].expand(-1, -1, mask.shape[1], -1)

    def _sent(self, array: torch.Tensor) -> torch.Tensor:
        """An array of the host on the device; from pinned memory, so that nothing waits for the copy."""
        if not self.device.startswith("cuda"):
            return array.to(self.device)
        return array.pin_memory().to(self.device, non_blocking=True)

    def _pool_tokens(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One float32 vector per row of `hidden` (rows, length, d); `mask` (rows, length) is True on text."""
        if self.pooling == "cls":
            return hidden[:, 0].float()
        counts = mask.sum(dim=1)
        if self.pooling == "last":
            import torch

            return hidden[torch.arange(len(hidden), device=hidden.device), counts - 1].float()
        total = (hidden.float() * mask[..., None]).sum(dim=1)
        return total / counts[:, None]


def _unit(pooled: torch.Tensor) -> torch.Tensor:
    """Rows of unit norm, float32; divided in float64, so that they are to the last bit of float32."""
    import torch

    pooled = pooled.double()
    return (pooled / pooled.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)).float()
