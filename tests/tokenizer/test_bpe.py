"""The readable oracle, the `tokenizers` library and the bulk encoder agree, id for id."""

import json

import pytest
from hard_texts import PROSE, texts
from hypothesis import given, settings

from groundup.tokenizer import bpe
from groundup.tokenizer.bulk import LONG, BulkEncoder
from groundup.tokenizer.byte_letters import from_letters, to_letters
from groundup.tokenizer.patterns import PATTERNS
from groundup.tokenizer.special import SPECIAL_TOKENS
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.tokenizer.train import train_bpe


@pytest.fixture(scope="module", params=list(PATTERNS))
def pair(request: pytest.FixtureRequest) -> tuple[bpe.BytePairs, Tokenizer]:
    sample = [PROSE, PROSE[40:300], "aaaa aaa aa a aaaaaaaa", "low lower lowest newer wider"]
    oracle = bpe.learn(sample, 420, PATTERNS[request.param].regex, SPECIAL_TOKENS)
    return oracle, train_bpe(sample, 420, request.param)


def test_both_learn_the_same_vocabulary(pair: tuple[bpe.BytePairs, Tokenizer]):
    oracle, fast = pair
    rules = json.loads(fast.backend.to_str())["model"]
    letters = [
        token if token in SPECIAL_TOKENS else to_letters(oracle.vocabulary[id])
        for token, id in rules["vocab"].items()
    ]
    assert letters == list(rules["vocab"])
    assert [tuple(map(to_letters, merge)) for merge in oracle.merges] == [
        tuple(merge) for merge in rules["merges"]
    ]


@given(text=texts)
@settings(max_examples=150, deadline=None)
def test_all_three_encode_alike(pair: tuple[bpe.BytePairs, Tokenizer], text: str):
    oracle, fast = pair
    expected = oracle.encode(text)
    assert fast.encode(text) == expected
    ids, lengths = BulkEncoder(fast).encode([text, text[::2]])
    assert ids.tolist() == [*expected, fast.eos_id, *oracle.encode(text[::2]), fast.eos_id]
    assert lengths.tolist() == [len(expected) + 1, len(ids) - len(expected) - 1]
    assert oracle.decode(expected) == fast.decode(expected) == text


def test_long_pieces_and_repeats(tokenizer: Tokenizer):
    encoder = BulkEncoder(tokenizer)
    texts = ["=" * (LONG * 5), "東" * 100, "x" * LONG, "a" * (LONG + 1) + " " + "é" * LONG, PROSE]
    for _ in range(2):  # the second time everything is remembered
        ids, lengths = encoder.encode(texts)
        assert ids.tolist() == [id for text in texts for id in (*tokenizer.encode(text), tokenizer.eos_id)]
        assert lengths.tolist() == [len(tokenizer.encode(text)) + 1 for text in texts]


def test_forgetting_changes_nothing(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("groundup.tokenizer.bulk.REMEMBERED", 10)
    encoder = BulkEncoder(tokenizer)
    for text in (PROSE, PROSE[::-1], PROSE):
        assert encoder.encode([text])[0].tolist() == [*tokenizer.encode(text), tokenizer.eos_id]


def test_texts_that_spell_control_tokens_stay_text(tokenizer: Tokenizer):
    text = "a<|endoftext|>b<|im_start|>"
    ids, _ = BulkEncoder(tokenizer).encode([text])
    assert ids.tolist() == [*tokenizer.encode(text), tokenizer.eos_id]
    assert not set(ids[:-1].tolist()) & tokenizer.special_ids


def test_a_tokenizer_of_another_kind_is_left_to_the_library(tokenizer: Tokenizer):
    rules = json.loads(tokenizer.backend.to_str())
    rules["normalizer"] = {"type": "NFC"}
    other = Tokenizer(type(tokenizer.backend).from_str(json.dumps(rules)), eos=tokenizer.eos)
    encoder = BulkEncoder(other)
    assert encoder.pattern is None
    ids, lengths = encoder.encode(["e\u0301", "b"])
    assert ids.tolist() == [*other.encode("é"), other.eos_id, *other.encode("b"), other.eos_id]
    assert lengths.tolist() == [len(other.encode("é")) + 1, 2]


def test_byte_letters_are_the_library_s():
    from tokenizers import pre_tokenizers

    spelt = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("é \n\x00a")[
        0
    ][0]
    assert to_letters("é \n\x00a".encode()) == spelt
    assert from_letters(spelt) == "é \n\x00a".encode()
