"""Encoding in pieces gives the ids of the whole text, for the shipped patterns and imported tokenizers; others are refused."""

import itertools
from array import array
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers
from hard_texts import PROSE, TORTURE, texts
from hypothesis import given, settings, strategies
from test_pretrained import sentencepiece_model
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from groundup.artifacts.errors import UserError
from groundup.tokenizer import Tokenizer, stream_encoding
from groundup.tokenizer.sentencepiece import load_sentencepiece
from groundup.tokenizer.split_patterns import PATTERNS
from groundup.tokenizer.stream_encoding import CONTRACTIONS, LOWER, UPPER, split_alternatives
from groundup.tokenizer.tokenizer_training import train_bpe

BORDERS = (
    "a b", "x\ny", "he said, that", "你好，世界。他说", "foo. Bar", " <|endoftext|>", "<tool>", "12 345 678", "🤗 🤗",
    "e\u0301 e", " \u0301a", "A 'S b", "we'll go", " ", "", ";\n\n6", "a  b", "a \n b",
)  # fmt: skip
PIECES = strategies.lists(texts | strategies.sampled_from(BORDERS), max_size=10)
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
O200K = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
O200K += r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(prose: list[str], *parts: pre_tokenizers.PreTokenizer, normalizer: object = None) -> Tokenizer:
    """A vocabulary with other rules around it."""
    backend = train_bpe(prose, 700).backend
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    if normalizer:
        backend.normalizer = normalizer  # type: ignore[assignment]
    backend.add_tokens([AddedToken("<tool>", special=False, lstrip=True)])
    return Tokenizer(backend)


def wordpiece(prose: list[str]) -> Tokenizer:
    words = {word for text in prose for word in text.lower().split() if len(word) < 9}
    entries = [
        "[UNK]",
        *sorted(words | {letter for text in prose for letter in text} | {f"##{letter}" for letter in "aeinst"}),
    ]
    backend = tokenizers.Tokenizer(models.WordPiece({token: id for id, token in enumerate(entries)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()  # type: ignore[assignment]
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    return Tokenizer(backend)


def metaspace(prose: list[str]) -> Tokenizer:
    """As T5's."""
    backend = tokenizers.Tokenizer(
        models.Unigram([("<unk>", 0.0), *((chr(i), -5.0) for i in range(33, 127)), ("▁a", -3.0), ("▁", -4.0)], 0)
    )
    backend.normalizer = normalizers.Replace(Regex(" {2,}"), " ")  # type: ignore[assignment]
    backend.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    backend.decoder = decoders.Metaspace()  # type: ignore[assignment]
    return Tokenizer(backend)


def gpt4_style(pattern: str) -> Callable[[list[str]], Tokenizer]:
    return lambda prose: train_bpe(prose, 700, pattern)


KINDS: dict[str, Callable[[list[str]], Tokenizer]] = {name: gpt4_style(name) for name in PATTERNS} | {
    "o200k": lambda prose: byte_level(prose, pre_tokenizers.Split(Regex(O200K), "removed", invert=True)),
    "qwen2, NFC": lambda prose: byte_level(
        prose, pre_tokenizers.Split(Regex(PATTERNS["qwen2"].regex), "isolated"), normalizer=normalizers.NFC()
    ),
    "digits": lambda prose: byte_level(
        prose, pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    ),
    "llama 2": lambda prose: load_sentencepiece(sentencepiece_model(prose, model_type="bpe", **PLAIN)),
    "no prefix": lambda prose: load_sentencepiece(sentencepiece_model(prose, model_type="bpe", add_dummy_prefix=False, **PLAIN)),
    "bert": wordpiece,
    "t5": metaspace,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_pieces_equal_those_of_the_whole(kind: str, prose: list[str], monkeypatch: pytest.MonkeyPatch):
    tokenizer = KINDS[kind](prose)
    monkeypatch.setattr(stream_encoding, "CHUNK_CHARACTERS", 8)

    @given(pieces=PIECES)
    @settings(max_examples=40, deadline=None)
    def same(pieces: list[str]):
        assert list(tokenizer.encode_iterable(pieces)) == tokenizer.encode("".join(pieces))

    same()
    for text in (PROSE, *TORTURE):
        pieces = [text[start : start + 3] for start in range(0, len(text), 3)]
        assert list(tokenizer.encode_iterable(pieces)) == tokenizer.encode(text), text


def test_memory_is_bounded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    """A text without an end is encoded as it arrives, and one piece of any length in parts."""
    endless = tokenizer.encode_iterable(itertools.repeat("It went on and on, 12 times. "))
    assert len(list(itertools.islice(endless, 40_000))) == 40_000
    longest = 0
    encode = tokenizer.encode

    def record(text: str) -> list[int]:
        nonlocal longest
        longest = max(longest, len(text))
        return encode(text)

    monkeypatch.setattr(tokenizer, "encode", record)
    text = PROSE.replace("\n", " ") * 400
    assert array("I", tokenizer.encode_iterable([text])) == array("I", encode(text))
    assert longest <= 2 * stream_encoding.CHUNK_CHARACTERS


def refused(rules: Callable[[Tokenizer], Any], tokenizer: Tokenizer) -> None:
    other = Tokenizer(tokenizers.Tokenizer.from_str(tokenizer.backend.to_str()))
    rules(other)
    with pytest.raises(UserError, match="cannot encode a stream"):
        other.encode_iterable([])


def test_rules_that_are_not_local_are_refused(tokenizer: Tokenizer, prose: list[str]):
    def set_rule(name: str, value: object) -> Callable[[Tokenizer], None]:
        return lambda other: setattr(other.backend, name, value)

    words = pre_tokenizers.Split(Regex(r"\w+ \w+|\s+"), "isolated")
    refused(set_rule("pre_tokenizer", words), tokenizer)
    refused(
        set_rule("pre_tokenizer", pre_tokenizers.Split(Regex(PATTERNS["gpt4"].regex), "merged_with_next")), tokenizer
    )
    refused(set_rule("pre_tokenizer", pre_tokenizers.ByteLevel(use_regex=False)), tokenizer)
    refused(set_rule("normalizer", normalizers.Strip()), tokenizer)
    refused(set_rule("model", models.BPE({"a": 0}, [], dropout=0.1)), tokenizer)
    refused(lambda other: other.backend.add_tokens(["New York"]), tokenizer)
    for options in ({"model_type": "unigram"}, {"model_type": "bpe", "user_defined_symbols": ["[X]"]}):
        with pytest.raises(UserError, match="cannot encode a stream"):
            load_sentencepiece(sentencepiece_model(prose, **PLAIN, **options)).encode_iterable([])


def test_alternatives_of_a_regex():
    assert split_alternatives(r"a|(b|c)|[|)]|\||d") == ["a", "(b|c)", "[|)]", r"\|", "d"]


def test_one_text_is_an_error(tokenizer: Tokenizer):
    with pytest.raises(UserError, match="texts is one str"):
        tokenizer.encode_iterable("text")
