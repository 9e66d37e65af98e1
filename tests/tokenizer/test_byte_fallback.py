"""Characters that a vocabulary cannot express are counted, and adding the bytes keeps them."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hard_texts import PROSE, TORTURE
from test_pretrained import sentencepiece_model
from test_stage import recipe, run_encode, write_data
from tokenizers import models, normalizers, pre_tokenizers

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.report.quality_checks import check_stage
from groundup.tokenizer import Tokenizer, add_byte_fallback, count_lost_characters, extend_tokenizer, stage
from groundup.tokenizer.byte_level_vocabulary import byte_level_backend
from groundup.tokenizer.sentencepiece import load_sentencepiece
from groundup.tokenizer.split_patterns import PATTERNS

TEXT = "the cat élan 東 é\n"
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "character_coverage": 0.98}


def ascii_only() -> Tokenizer:
    """Byte-level BPE that lacks all bytes beyond ASCII."""
    letters = [chr(code) for code in range(33, 127)] + [
        "Ġ",
        "Ċ",
        "th",
        "the",
        *(f"word{index}" for index in range(200)),
    ]
    vocabulary = {token: id for id, token in enumerate(letters)}
    backend = byte_level_backend(models.BPE(vocabulary, [("t", "h"), ("th", "e")]), PATTERNS["gpt4"].regex, ["</s>"])
    return Tokenizer(backend, eos="</s>")


def word_level(text: str = TEXT) -> Tokenizer:
    words = ["[UNK]", *dict.fromkeys(word for word in text.split() if word.isascii())]
    backend = tokenizers.Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    backend.normalizer = normalizers.NFC()  # type: ignore[assignment]
    return Tokenizer(backend)


def test_lost_characters_are_counted():
    assert ascii_only().decode(ascii_only().encode(TEXT)) == "the cat lan  \n"
    assert count_lost_characters(ascii_only(), [TEXT, TEXT]) == {"é": 4, "東": 2}
    assert count_lost_characters(word_level(), [TEXT]) == {"é": 2, "l": 1, "a": 1, "n": 1, "東": 1}
    letters = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    assert count_lost_characters(Tokenizer(letters), ["abxab x"]) == {"x": 2}
    with pytest.raises(UserError, match="texts is one str"):
        count_lost_characters(ascii_only(), "text")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece_without_bytes(kind: str):
    lossy = load_sentencepiece(sentencepiece_model([PROSE] * 3, model_type=kind, **PLAIN))
    text = f"{TEXT}ⵣⵓ"
    assert count_lost_characters(lossy, [text])["ⵓ"] == 1
    whole = add_byte_fallback(lossy)
    assert whole.vocab_size == lossy.vocab_size + 256
    assert not count_lost_characters(whole, [text, *TORTURE])
    assert whole.decode(whole.encode(text)) == text
    common = "the town and the clock"
    assert whole.encode(common) == lossy.encode(common)


def test_bytes_are_added_to_byte_level_bpe():
    lossy = ascii_only()
    whole = add_byte_fallback(lossy)
    assert whole.vocab_size == lossy.vocab_size + 256 - 96
    assert whole.eos_id == lossy.eos_id
    assert whole.encode("the cat") == lossy.encode("the cat")
    for text in TORTURE:
        assert whole.decode(whole.encode(text)) == text
    assert add_byte_fallback(whole) is whole
    assert extend_tokenizer(lossy, [], whole.vocab_size).fingerprint == whole.fingerprint
    assert whole.token_id("</s>") == lossy.eos_id
    extended = extend_tokenizer(lossy, ["東東東東 cat cat cat"] * 9, whole.vocab_size + 3)
    assert extended.decode(extended.encode(TEXT)) == TEXT
    assert extended.token_id("</s>") == lossy.token_id("</s>")  # though the model's vocabulary does not hold it
    with pytest.raises(UserError, match="a WordLevel vocabulary cannot get bytes"):
        add_byte_fallback(word_level())


def test_the_stage_counts_and_warns(tmp_path: Path):
    data = write_data(tmp_path / "data", [TEXT * 9] * 4)
    ascii_only().save(tmp_path / "lossy")
    size = ascii_only().vocab_size
    found: list[dict[str, Any]] = []
    for vocab_size in (size, size + 160):
        settings = recipe(pretrained=str(tmp_path / "lossy"), vocab_size=vocab_size)
        out = tmp_path / f"out-{vocab_size}"
        trained = (out, stage.train(settings, {"data": data}, out, Machine()))
        found.append(run_encode(data, trained, tmp_path / f"tokens-{vocab_size}")["lost_characters"])
    repeats = 9 * (4 + 2)  # training and held-out texts
    assert found[0] == {
        "count": 3 * repeats, "characters": len(TEXT) * repeats, "most_frequent": {"é": 2 * repeats, "東": repeats},
        "vocab_size_with_bytes": size + 160,
    }  # fmt: skip
    assert found[1] == {"count": 0}
    metrics = {"tokens": {"vocab_size": 99, "lost_characters": found[0]}}
    assert check_stage("tokens", json.loads(json.dumps(metrics))) == [
        f"162 of 918 characters are not in the vocabulary and are lost, such as é 東: tokenizer.vocab_size = {size + 160} adds "
        "the missing bytes"
    ]
