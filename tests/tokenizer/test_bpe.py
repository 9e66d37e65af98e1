"""BPE: the reference, the `tokenizers` library and the batch encoder give the same merges and ids."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hard_texts import PROSE, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from groundup.artifacts.errors import UserError
from groundup.recipe.tokenizer_config import TokenizerAlgorithm
from groundup.tokenizer import bpe, tokenizer_training
from groundup.tokenizer.batch_encoder import SELF_TEST_TEXTS, BatchEncoder
from groundup.tokenizer.bytes_to_unicode import from_unicode, to_unicode
from groundup.tokenizer.special_tokens import SPECIAL_TOKENS
from groundup.tokenizer.split_patterns import PATTERNS, build_pre_tokenizer
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import (
    ALGORITHMS,
    extend_tokenizer,
    train_bpe,
    train_tokenizer,
    train_unigram,
)


@pytest.fixture(scope="module", params=list(PATTERNS))
def pair(request: pytest.FixtureRequest) -> tuple[bpe.ReferenceBPE, Tokenizer]:
    sample = [PROSE, PROSE[40:300], "aaaa aaa aa a aaaaaaaa", "low lower lowest newer wider"]
    reference = bpe.train_reference_bpe(sample, 420, PATTERNS[request.param].regex, SPECIAL_TOKENS)
    return reference, train_bpe(sample, 420, request.param)


def train_with_the_library(texts: list[str], vocab_size: int, pattern: str) -> dict[str, Any]:
    """The model of the `tokenizers` library's trainer, as in tokenizer.json."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = build_pre_tokenizer(PATTERNS[pattern].regex)  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return json.loads(backend.to_str())["model"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_bpe_training_equals_the_tokenizers_library(prose: list[str], pattern: str):
    rules = json.loads(train_bpe(prose, 900, pattern).backend.to_str())["model"]
    expected = train_with_the_library(prose, 900, pattern)
    assert rules["merges"] == expected["merges"]
    assert rules["vocab"] == expected["vocab"]


@given(sample=st.lists(st.text(alphabet="ab \n'é", max_size=60), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_bpe_training_equals_the_tokenizers_library_on_repeats(sample: list[str]):
    expected = train_with_the_library(sample, 330, "gpt4")
    found = train_bpe(sample, len(expected["vocab"]))
    assert json.loads(found.backend.to_str())["model"]["merges"] == expected["merges"]


def test_bpe_training_equals_the_reference(pair: tuple[bpe.ReferenceBPE, Tokenizer]):
    reference, fast = pair
    rules = json.loads(fast.backend.to_str())["model"]
    expected = [
        token if token in SPECIAL_TOKENS else to_unicode(reference.vocabulary[id])
        for token, id in rules["vocab"].items()
    ]
    assert expected == list(rules["vocab"])
    assert [tuple(map(to_unicode, merge)) for merge in reference.merges] == [tuple(merge) for merge in rules["merges"]]


@given(text=texts)
@settings(max_examples=60, deadline=None)
def test_encoders_are_equal(pair: tuple[bpe.ReferenceBPE, Tokenizer], text: str):
    reference, fast = pair
    expected = reference.encode(text)
    assert fast.encode(text) == expected
    ids, lengths = BatchEncoder(fast).encode([text, text[::2]])
    assert ids.tolist() == [*expected, fast.eos_id, *reference.encode(text[::2]), fast.eos_id]
    assert lengths.tolist() == [len(expected) + 1, len(ids) - len(expected) - 1]
    assert reference.decode(expected) == fast.decode(expected) == text


def test_long_pretokens_and_repeats(tokenizer: Tokenizer):
    encoder = BatchEncoder(tokenizer)
    texts = ["=" * 300, "東" * 100, "x" * 64, "a" * 65 + " " + "é" * 64, PROSE, *SELF_TEST_TEXTS]
    for _ in range(2):  # the second time from the cache of pretokens
        ids, lengths = encoder.encode(texts)
        assert ids.tolist() == [id for text in texts for id in (*tokenizer.encode(text), tokenizer.eos_id)]
        assert lengths.tolist() == [len(tokenizer.encode(text)) + 1 for text in texts]
    ids, lengths = encoder.encode([])
    assert (len(ids), len(lengths)) == (0, 0)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_batch_encoder_equals_the_tokenizers_library(prose: list[str], pattern: str):
    """About two megabytes of Python's sources, and every assigned code point."""
    fast = train_bpe(prose, 900, pattern)
    folder = Path(os.__file__).parent
    texts = [
        path.read_text(encoding="utf-8")
        for package in ("json", "email", "encodings")
        for path in sorted((folder / package).glob("*.py"))
    ]
    texts.append("".join(chr(point) for point in range(1, 0x32400) if not 0xD800 <= point < 0xE000))
    encoder = BatchEncoder(fast)
    assert encoder.uses_fastokens
    ids, lengths = encoder.encode(texts)
    expected = fast.encode_batch(texts)
    assert lengths.tolist() == [len(ids) + 1 for ids in expected]
    assert ids.tolist() == [id for document in expected for id in (*document, fast.eos_id)]


def test_inexact_fast_encoder_is_not_used(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    wrong = np.zeros(3, np.uint32), np.array([3])
    monkeypatch.setattr("groundup.tokenizer.batch_encoder.fastokens_encode", lambda *_: wrong)
    encoder = BatchEncoder(tokenizer)
    assert not encoder.uses_fastokens
    assert encoder.encode([PROSE])[0].tolist() == [*tokenizer.encode(PROSE), tokenizer.eos_id]


def test_spelled_special_tokens_stay_text(tokenizer: Tokenizer):
    text = "a<|endoftext|>b<|im_start|>"
    ids, _ = BatchEncoder(tokenizer).encode([text])
    assert ids.tolist() == [*tokenizer.encode(text), tokenizer.eos_id]
    assert not set(ids[:-1].tolist()) & tokenizer.special_ids


@pytest.mark.parametrize(("normalizer", "fast"), [("NFC", True), ("NFKC", False)])
def test_batch_encoder_with_normalizers(tokenizer: Tokenizer, normalizer: str, fast: bool):
    rules = json.loads(tokenizer.backend.to_str())
    rules["normalizer"] = {"type": normalizer}
    other = Tokenizer(type(tokenizer.backend).from_str(json.dumps(rules)), eos=tokenizer.eos)
    encoder = BatchEncoder(other)
    assert encoder.uses_fastokens == fast  # fastokens does not support NFKC
    ids, lengths = encoder.encode(["e\u0301", "b"])
    assert ids.tolist() == [*other.encode("é"), other.eos_id, *other.encode("b"), other.eos_id]
    assert lengths.tolist() == [len(other.encode("é")) + 1, 2]


def test_bytes_to_unicode_equals_the_tokenizers_library():
    from tokenizers import pre_tokenizers

    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("é \n\x00a")[0][0]
    assert to_unicode("é \n\x00a".encode()) == spelled
    assert from_unicode(spelled) == "é \n\x00a".encode()


@pytest.fixture(scope="module")
def unigram(prose: list[str]) -> Tokenizer:
    return train_unigram(prose, 340)


def test_batch_encoder_of_a_unigram_model(unigram: Tokenizer):
    texts = [PROSE, "a<|endoftext|>b 🚀", "", "x" * 200]
    encoder = BatchEncoder(unigram)
    assert not encoder.uses_fastokens
    assert encoder.encode(texts)[0].tolist() == [id for text in texts for id in (*unigram.encode(text), unigram.eos_id)]
    assert all(unigram.decode(unigram.encode(text)) == text for text in texts)
    assert unigram.vocab_size == 340


def test_unigram_training_is_deterministic(unigram: Tokenizer, prose: list[str]):
    again = train_unigram(prose, 340)
    assert again.backend.to_str() == unigram.backend.to_str()


def test_extended_tokenizer_keeps_its_entries(tokenizer: Tokenizer):
    new = ["zyzzyva zyzzyvas quokka quokkas " * 5, "def zyzzyva(quokka):"]
    larger = extend_tokenizer(tokenizer, new, 712)
    assert larger.vocab_size == 712
    assert [larger.token(id) for id in range(700)] == [tokenizer.token(id) for id in range(700)]
    assert len(larger.encode(new[0])) < len(tokenizer.encode(new[0]))
    assert larger.decode(larger.encode(PROSE)) == PROSE
    assert BatchEncoder(larger).encode(new)[0].tolist() == [i for t in new for i in (*larger.encode(t), larger.eos_id)]
    assert (larger.eos_id, larger.stop_ids, larger.chat_template) == (0, {0, 2}, tokenizer.chat_template)


def test_tokenizers_that_cannot_be_extended_are_refused(tokenizer: Tokenizer, unigram: Tokenizer):
    with pytest.raises(UserError, match="vocab_size = 700: the tokenizer to extend has 700 entries"):
        extend_tokenizer(tokenizer, [PROSE], 700)
    with pytest.raises(UserError, match="expected byte-level BPE"):
        extend_tokenizer(unigram, [PROSE], 800)
    with pytest.raises(UserError, match="the text yields only"):
        extend_tokenizer(tokenizer, ["a b"], 800)


def test_unigram_training_breaks_endless_words():
    """A word of 10 MB would take hours."""
    trainable = tokenizer_training._trainable  # pyright: ignore[reportPrivateUsage]
    broken = trainable("a" * 10_000 + " b\ud800")
    assert [len(word) for word in broken.split()] == [4192, 4192, 1616, 2]
    assert trainable(PROSE) == PROSE
    assert train_unigram(["ab" * 20_000 + PROSE], 270).vocab_size == 270


def test_recipe_algorithms_equal_the_implemented_ones():
    assert set(TokenizerAlgorithm.__args__) == set(ALGORITHMS)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tokenizer_of_vocabulary_and_merges_is_the_same(prose: list[str], pattern: str):
    original = train_bpe(prose, 600, pattern)
    special = [token for id in sorted(original.special_ids) if (token := original.token(id))]
    copy = Tokenizer.from_merges(original.vocabulary, original.merges, pretokenizer=pattern, special_tokens=special)
    assert copy.fingerprint == original.fingerprint
    assert (copy.eos, copy.pad) == (original.eos, original.pad)
    assert original.vocabulary[original.encode("e")[0]] == b"e"
    assert b"".join(original.vocabulary[id] for id in original.encode(PROSE)) == PROSE.encode()
    reference = bpe.train_reference_bpe([PROSE], 300, PATTERNS[pattern].regex)
    ours = Tokenizer.from_merges(dict(enumerate(reference.vocabulary)), reference.merges, pretokenizer=pattern)
    assert ours.encode(PROSE) == reference.encode(PROSE)
    assert (ours.vocab_size, ours.eos) == (len(reference.vocabulary), None)


def test_vocabulary_without_some_bytes_gets_them():
    merges = [(b"a", b"b")]
    tokenizer = Tokenizer.from_merges(
        {5: b"a", 3: b"b", 9: b"ab"}, merges, byte_fallback=True, special_tokens=["</s>"], eos="</s>"
    )
    assert tokenizer.encode("ab")[0] == 9
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.merges) == (10 + 254 + 1, 264, merges)
    assert tokenizer.decode(tokenizer.encode(PROSE)) == PROSE
    with pytest.raises(UserError, match="merges of bytes, expected byte-level BPE"):
        _ = train_unigram([PROSE], 270).merges


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("special", [(), ("</s>",), ("<|endoftext|>",), ("<s>", "</s>", "[PAD]")])
def test_any_set_of_special_tokens(algorithm: str, special: tuple[str, ...], tmp_path: Path):
    tokenizer = train_tokenizer([PROSE], 256 + len(special) + 1, algorithm=algorithm, special_tokens=special)
    assert tokenizer.vocab_size == 257 + len(special)
    assert tokenizer.special_ids == set(range(len(special)))
    assert (tokenizer.eos, tokenizer.pad) == ("<|endoftext|>" if "<|endoftext|>" in special else None, None)
    assert tokenizer.chat_template is None
    assert tokenizer.decode(tokenizer.encode(f"{PROSE}</s>")) == f"{PROSE}</s>"
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint


def test_roles_of_special_tokens():
    tokenizer = train_tokenizer([PROSE], 270, special_tokens=["<s>", "</s>", "[PAD]"], eos="</s>", pad="[PAD]")
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.stop_ids) == (1, 2, {1})


@pytest.mark.parametrize("token", ["EOS", "a", "Ġ", "Ġthe", " the", "Ġ1"])
def test_special_tokens_that_text_may_be_merged_to_are_refused(token: str):
    """In tokenizer.json, both would be one string."""
    with pytest.raises(UserError, match="is a word, which the training may learn"):
        train_bpe(["the EOS 1"], 300, "gpt2", special_tokens=[token])
