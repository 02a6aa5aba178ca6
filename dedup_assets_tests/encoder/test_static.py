"""Static encoders give the vectors of `StaticModel.encode`, whichever way, order and batch a text comes in."""

from __future__ import annotations

import functools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model2vec import StaticModel
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

from dedup_assets.encoder import static
from dedup_assets.encoder.models import load_encoder, locate_model
from dedup_assets.encoder.probe import hold_to_probe, probe_of
from dedup_assets.encoder.separable import odd_texts, splitting_of
from dedup_assets.encoder.static import StaticEncoder
from dedup_assets.errors import ModelError
from dedup_assets_tests.benchmarks.encoder import docstrings

DIMENSION = 48


def minilm_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(Path(locate_model("all-MiniLM-L6-v2").folder) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def table(rows: int, spread: float = 3.0, seed: int = 0) -> np.ndarray:
    """Random vectors whose norms lie between 1 and 10 ** -spread."""
    source = np.random.default_rng(seed)
    return source.normal(size=(rows, DIMENSION)) * 10.0 ** -source.uniform(0, spread, (rows, 1))


def saved(folder: Path, tokenizer: Tokenizer | None = None, **given: Any) -> Path:
    tokenizer = tokenizer or minilm_tokenizer()
    if "vectors" not in given:
        given["vectors"] = table(tokenizer.get_vocab_size()).astype(np.float16)
    StaticModel(tokenizer=tokenizer, **given).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("static") / "model", normalize=True)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    long = "a,b;" * 2000 + " and then " + "unbelievable " * 900
    return [*docstrings(400), *odd_texts(), "", " \n", "\u0001", "[UNK] [CLS]x[SEP]", "-" * 700 + " end", long]


def encoder_of(folder: Path, **options: Any) -> StaticEncoder:
    encoder = load_encoder(locate_model(str(folder)), **options)
    assert isinstance(encoder, StaticEncoder)
    return encoder


def least_cosine(encoder: StaticEncoder, model: StaticModel, texts: list[str], **options: Any) -> float:
    """Least cosine to what model2vec gives; where that is no direction, ours is none either."""
    # In float32: summed in float16, as the file has them, a mean is good for three digits.
    model.embedding = model.embedding.astype(np.float32)
    theirs = np.asarray(model.encode(texts, **options), np.float64)
    ours = encoder.encode(texts)
    norms = np.linalg.norm(theirs, axis=1)
    assert np.array_equal(norms > 1e-12, ours.vectors.any(axis=1))
    known = norms > 1e-12
    assert (ours.unknown[~known] == 1).all()
    assert np.allclose(np.linalg.norm(ours.vectors[known], axis=1), 1, atol=1e-6)
    return float(((theirs * ours.vectors).sum(1)[known] / norms[known]).min(initial=1.0))


def test_vectors_are_those_of_model2vec(folder: Path, texts: list[str]) -> None:
    encoder = encoder_of(folder)
    assert encoder.by_words and encoder.max_length == 512
    assert least_cosine(encoder, StaticModel.from_pretrained(folder), texts) >= 0.999999


def test_prompts_and_fewer_numbers_are_those_of_the_whole_text(folder: Path, texts: list[str], tmp_path: Path) -> None:
    plain = encoder_of(folder)
    expected = plain.encode([f"query: {text}" for text in texts])
    behind = load_encoder(locate_model(str(folder)), prompt="query: ", truncate_dim=5).encode(texts)
    cut = expected.vectors[:, :5].astype(np.float64)
    known = np.linalg.norm(cut, axis=1) > 0
    assert np.allclose(behind.vectors[known], cut[known] / np.linalg.norm(cut[known], axis=1, keepdims=True), atol=1e-6)
    assert np.array_equal(behind.unknown[known], plain.encode(texts).unknown[known])
    one = load_encoder(locate_model(str(folder)), prompt="query: ", truncate_dim=5).encode(texts[7:8])
    assert np.array_equal(one.vectors[0], behind.vectors[7])
    with pytest.raises(ModelError, match=f"truncate_dim is 999, and the model's vectors have {DIMENSION} numbers"):
        load_encoder(locate_model(str(folder)), truncate_dim=999)
    prompted = Path(shutil.copytree(folder, tmp_path / "prompted"))
    told = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (prompted / "config_sentence_transformers.json").write_text(json.dumps(told))
    assert locate_model(str(prompted)).fingerprint != locate_model(str(folder)).fingerprint
    by_default = load_encoder(locate_model(str(prompted))).encode(texts)
    assert np.array_equal(by_default.vectors, expected.vectors)


@functools.cache
def loaded(folder: Path) -> StaticModel:
    return StaticModel.from_pretrained(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), min_size=1, max_size=20))
def test_odd_unicode_too(folder: Path, odd: list[str]) -> None:
    assert least_cosine(encoder_of(folder), loaded(folder), odd) >= 0.999999


def test_whole_texts_and_words_give_the_same_bits(folder: Path, texts: list[str]) -> None:
    by_words = encoder_of(folder)
    whole = encoder_of(folder, max_length=512)
    assert whole is not by_words
    whole._kinds, whole.by_words = None, False
    for one, other in zip(vars(by_words.encode(texts)).values(), vars(whole.encode(texts)).values(), strict=True):
        assert np.array_equal(one, other)


def test_a_vector_depends_on_its_text_alone(folder: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encoder_of(folder, max_length=300).encode(texts).vectors
    monkeypatch.setattr(static, "CHUNK_CHARACTERS", 700)  # many parts at a time
    monkeypatch.setattr(static, "WORD_BYTES", 200 * DIMENSION * 4)  # words are forgotten again and again
    order = list(range(len(texts)))
    random.Random(1).shuffle(order)
    encoder = encoder_of(folder, max_length=300)
    forgetful = static.StaticEncoder(encoder._table, minilm_tokenizer(), max_length=300, head=encoder._head)
    assert np.array_equal(forgetful.encode([texts[i] for i in order]).vectors, expected[order])
    assert forgetful._parts.size < 2000
    for i in order[:40]:
        assert np.array_equal(forgetful.encode([texts[i]]).vectors[0], expected[i])


@pytest.mark.parametrize("window", [1, 7, 300])
def test_a_text_is_cut_to_the_window(folder: Path, texts: list[str], window: int) -> None:
    encoder = encoder_of(folder, max_length=window)
    model = StaticModel.from_pretrained(folder)
    assert least_cosine(encoder, model, texts, max_length=window) >= 0.999999
    encoded = encoder.encode(["a b c d e f g h", "a"])
    assert encoded.tokens.tolist() == [min(8, window), 1]
    assert encoded.truncated.tolist() == [window < 8, False]


def test_weights_mappings_and_small_numbers_of_newer_files(tmp_path: Path, texts: list[str]) -> None:
    size = minilm_tokenizer().get_vocab_size()
    source = np.random.default_rng(5)
    weights = 10.0 ** -source.uniform(0, 3, size)
    few = (table(64, 0.5) * 40).clip(-127, 127).astype(np.int8)
    made = {
        "quantized": {"vectors": few, "weights": weights, "token_mapping": source.integers(0, 64, size)},
        "weighted": {"vectors": table(size).astype(np.float32), "weights": weights.astype(np.float32)},
        "int8": {"vectors": (table(size, 0.5) * 40).clip(-127, 127).astype(np.int8)},
        "float64": {"vectors": table(size)},
    }
    for name, given_ in made.items():
        place = saved(tmp_path / name, **given_)
        assert least_cosine(encoder_of(place), StaticModel.from_pretrained(place), texts) >= 0.999999, name


def test_rows_of_very_unlike_size_are_not_rounded_away(tmp_path: Path, texts: list[str]) -> None:
    size = minilm_tokenizer().get_vocab_size()
    place = saved(tmp_path / "spread", vectors=table(size, 5.0).astype(np.float32))
    encoder = encoder_of(place)
    assert encoder._fixed.dtype == np.float64
    assert least_cosine(encoder, StaticModel.from_pretrained(place), texts) >= 0.999999


def test_unknown_tokens_add_nothing_and_are_counted(folder: Path) -> None:
    encoder = encoder_of(folder)
    words = encoder.encode(["house ሰላም ሰላም 꽃", "house", "ሰላም", ""])
    assert words.unknown.tolist() == pytest.approx([0.75, 0, 1, 1])
    assert np.array_equal(words.vectors[0], words.vectors[1])
    assert not words.vectors[2:].any()


def word_level(pre_tokenizer: Any, normalizer: Any = None, added: tuple[str, ...] = ()) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 2, "ab": 3, "a b": 4, ".": 5, "a.": 6}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens([AddedToken(token) for token in added])
    return tokenizer


WORD_LEVELS = {
    "white space": (word_level(pre_tokenizers.WhitespaceSplit()), True),
    "a sequence": (
        word_level(pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])),
        True,
    ),
    "normal forms": (
        word_level(
            pre_tokenizers.BertPreTokenizer(), normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        ),
        True,
    ),
    "nothing": (word_level(None), False),
    "punctuation only": (word_level(pre_tokenizers.Punctuation()), False),
    "first word": (
        word_level(
            pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]
            )
        ),
        False,
    ),
    "a replacement": (
        word_level(pre_tokenizers.WhitespaceSplit(), normalizers.Replace("a b", "ab")),
        False,
    ),
    "a token across words": (word_level(pre_tokenizers.WhitespaceSplit(), added=("b a",)), False),
}  # fmt: skip


@pytest.mark.parametrize("name", WORD_LEVELS)
def test_words_are_used_only_where_a_tokenizer_works_inside_them(name: str, tmp_path: Path) -> None:
    tokenizer, separable = WORD_LEVELS[name]
    assert (splitting_of(tokenizer) is not None) == separable
    place = saved(tmp_path / "model", tokenizer, vectors=table(tokenizer.get_vocab_size(), 0.5).astype(np.float32))
    encoder = encoder_of(place)
    assert encoder.by_words == separable
    letters = random.Random(2)
    some = ["".join(letters.choices("ab. \n\t", k=letters.randrange(12))) for _ in range(300)]
    assert least_cosine(encoder, StaticModel.from_pretrained(place), some) >= 0.999999


def test_a_tokenizer_that_breaks_the_rule_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    from dedup_assets.encoder import separable

    monkeypatch.setattr(separable, "_is_local", lambda spec: True)
    broken = word_level(pre_tokenizers.WhitespaceSplit(), normalizers.Replace(" ", ""))
    assert splitting_of(broken) is None


def sentence_transformer(folder: Path, tokenizer: Tokenizer, vectors: np.ndarray, *more: str, home: str = "") -> Path:
    """A folder as sentence-transformers saves one of a StaticEmbedding, its table in the folder `home` of it."""
    from safetensors.numpy import save_file

    (folder / home).mkdir(parents=True)
    save_file({"embedding.weight": vectors}, folder / home / "model.safetensors")
    tokenizer.save(str(folder / home / "tokenizer.json"))
    kinds = ["StaticEmbedding", *more]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else home, "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    told = {"__version__": {}, "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize("home", ["", "0_StaticEmbedding"])
@pytest.mark.parametrize("limit", [None, 20])
def test_a_folder_of_sentence_transformers_runs_by_its_rules(
    tmp_path: Path, texts: list[str], home: str, limit: int | None
) -> None:
    """Unknown tokens have a vector like others, and nothing but the tokenizer itself cuts a text."""
    tokenizer = minilm_tokenizer()
    if limit:
        tokenizer.enable_truncation(limit)
    vectors = table(tokenizer.get_vocab_size()).astype(np.float32)
    place = sentence_transformer(tmp_path / "model", tokenizer, vectors, "Normalize", home=home)
    encoder = encoder_of(place)
    assert encoder.max_length == limit
    ids = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    theirs = np.array([vectors[i].astype(np.float64).mean(0) if i else np.zeros(DIMENSION) for i in ids])
    ours = encoder.encode(texts)
    known = theirs.any(axis=1)
    cosines = (theirs * ours.vectors).sum(1)[known] / np.linalg.norm(theirs[known], axis=1)
    assert cosines.min() >= 0.999999
    assert ours.tokens.tolist() == [len(i) for i in ids]


def test_the_same_as_sentence_transformers_itself(tmp_path: Path, texts: list[str]) -> None:
    library = pytest.importorskip("sentence_transformers")
    vectors = table(minilm_tokenizer().get_vocab_size()).astype(np.float32)
    place = sentence_transformer(tmp_path / "model", minilm_tokenizer(), vectors, "Normalize")
    theirs = library.SentenceTransformer(str(place), device="cpu").encode(texts)
    ours = encoder_of(place).encode(texts).vectors
    known = ours.any(axis=1)
    assert (theirs * ours).sum(1)[known].min() >= 0.99999


def test_what_cannot_be_run_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    tokenizer, vectors = minilm_tokenizer(), table(minilm_tokenizer().get_vocab_size()).astype(np.float32)
    dense = sentence_transformer(tmp_path / "dense", tokenizer, vectors, "Dense")
    with pytest.raises(ModelError, match="StaticEmbedding, Dense"):
        encoder_of(dense)
    prompted = sentence_transformer(tmp_path / "prompt", tokenizer, vectors)
    (prompted / "config_sentence_transformers.json").write_text(json.dumps({"default_prompt_name": "query"}))
    with pytest.raises(ModelError, match="names the prompt 'query' and has none"):
        encoder_of(prompted)
    short = sentence_transformer(tmp_path / "short", tokenizer, vectors[:-5])
    with pytest.raises(ModelError, match=r"Number of tokens|tokenizer knows the token"):
        encoder_of(short)
    vectors[7, 3] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        encoder_of(sentence_transformer(tmp_path / "nan", tokenizer, vectors))
    for option in ({"precision": "bfloat16"}, {"pooling": "cls"}):
        with pytest.raises(ModelError, match=f"Leave --{next(iter(option))} out"):
            encoder_of(folder, **option)
    for file in ("model.safetensors", "tokenizer.json"):
        broken = Path(shutil.copytree(folder, tmp_path / f"without-{file}"))
        (broken / file).unlink()
        with pytest.raises(ModelError, match=f"{file} is missing"):
            encoder_of(broken)
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        encoder_of(broken)


def test_the_fingerprint_is_of_the_content(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "README.md").write_text("decides no vector")
    assert locate_model(str(copy)).fingerprint == locate_model(str(folder)).fingerprint
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"max_length": 9}))
    assert locate_model(str(copy)).fingerprint != locate_model(str(folder)).fingerprint


def test_a_model_that_knows_no_token_of_the_probe_is_held_to_that(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "한국": 1}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    encoder = encoder_of(saved(tmp_path / "model", tokenizer, vectors=table(2, 0.5).astype(np.float32)))
    kept = probe_of(encoder)
    assert not np.any(kept)
    hold_to_probe(encoder, kept, "a model")
    with pytest.raises(ModelError, match=r"a cosine of 0\.000000"):
        hold_to_probe(encoder, np.full((3, DIMENSION), DIMENSION**-0.5).tolist(), "a model")
    with pytest.raises(ModelError, match=r"a cosine of 0\.000000"):
        hold_to_probe(encoder_of(folder), kept, "a model")
