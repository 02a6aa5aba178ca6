"""Tokens in a model's window: the same ids as the whole text gives, without reading all of a long one."""

from __future__ import annotations

import numpy as np
import pytest

from dedup_assets.encoder import window as module
from dedup_assets.encoder.models import locate_model
from dedup_assets.encoder.parts import load_parts
from dedup_assets.encoder.window import WindowTokenizer
from dedup_assets.errors import ModelError

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tokenizer():
    return load_parts(locate_model("sentence-transformers/all-MiniLM-L6-v2").folder)[1]


def test_a_very_long_text_is_read_as_the_whole_text_would_be(tokenizer):
    # Nearly all blanks: the head that is read first has too few tokens, so that the rest must be read.
    gaps = ("word" + " " * 400) * 300
    ids, truncated = WindowTokenizer(tokenizer, 256).read([gaps, "word " * 100_000, "x " + " " * 100_000])
    assert [len(row) for row in ids] == [256, 256, 3]
    assert truncated.tolist() == [True, True, False]
    np.testing.assert_array_equal(ids[0], ids[1])


def test_chunks_do_not_show(tokenizer, monkeypatch):
    texts = [f"text number {n} " * (n % 7) for n in range(50)]
    whole = WindowTokenizer(tokenizer, 16).read(texts)
    monkeypatch.setattr(module, "TOKENIZE_CHUNK", 7)
    parts = WindowTokenizer(tokenizer, 16).read(texts)
    np.testing.assert_array_equal(parts[1], whole[1])
    assert [row.tolist() for row in parts[0]] == [row.tolist() for row in whole[0]]


def test_a_text_without_tokens_reads_as_one_padding_token():
    class NoSpecialTokens:
        is_fast = True
        pad_token_id = 9

        def num_special_tokens_to_add(self, pair):
            return 0

        def __call__(self, texts, **options):
            class Encoding:
                ids: tuple[int, ...] = ()
                overflowing: tuple[int, ...] = ()

            class Encodings:
                encodings = tuple(Encoding() for _ in texts)

            return Encodings

    ids, truncated = WindowTokenizer(NoSpecialTokens(), 8).read([""])
    assert [row.tolist() for row in ids] == [[9]] and not truncated.any()


def test_a_slow_tokenizer_is_refused(tokenizer):
    class Slow:
        def num_special_tokens_to_add(self, pair):
            return 2

    with pytest.raises(ModelError, match="no fast version"):
        WindowTokenizer(Slow(), 8)
