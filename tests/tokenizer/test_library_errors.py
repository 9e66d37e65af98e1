"""Foreign tokenizers: panics of the library and endless regexes are one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from test_tokenizer import llama_like
from tokenizers import models, normalizers, pre_tokenizers

from groundup.artifacts.errors import UserError
from groundup.tokenizer import BatchEncoder, Tokenizer, load_pretrained_tokenizer
from groundup.tokenizer.library_errors import has_nested_repetition
from groundup.tokenizer.split_patterns import PATTERNS


def with_regex(pattern: str) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")  # type: ignore[assignment]
    return backend


@pytest.mark.parametrize(
    ("pattern", "nested"),
    [
        ("(a+)+$", True), ("(a*)*", True), ("((a+)b)*", True), ("(?:a+|b)+", True), ("(a{2,})+", True), ("(a+){2,}", True),
        ("(a|b)+", False), ("(?>a+)+", False), ("(?=a+)+", False), ("[(a+)+]", False), (r"\(a+\)+", False), ("(a{1,3})+", False),
        ("x(a+)?y", False), ("[[a-z]+&&[^(x+)]]+", False), ("(a+)(b)+", False),
        *((pattern.regex, False) for pattern in PATTERNS.values()),
    ],
)  # fmt: skip
def test_nested_repetitions_are_found(pattern: str, nested: bool):
    assert has_nested_repetition(pattern) is nested


def test_exponential_regex_is_refused_when_it_is_loaded(tmp_path: Path):
    with_regex("(a+)+$").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"the regex '\(a\+\)\+\$' repeats a repetition"):
        Tokenizer.load(tmp_path)
    with_regex(r"(?:b\s+)+").save(str(tmp_path / "tokenizer.json"))
    Tokenizer.load(tmp_path)


def replace(before: str, after: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": before}, "content": after}


@pytest.mark.parametrize(
    ("part", "rule", "refused"),
    [
        ("normalizer", replace(" ", "x" * 1_000_000), True),
        ("normalizer", {"type": "Sequence", "normalizers": [replace("a", "aaaa")] * 4}, True),
        ("decoder", {"type": "Sequence", "decoders": [replace("a", "aaaa")] * 4}, True),
        ("normalizer", {"type": "Prepend", "prepend": "x" * 1_000_000}, True),
        ("normalizer", {"type": "Sequence", "normalizers": [replace(" ", "▁"), replace("``", '"')]}, False),
    ],
)
def test_replacements_that_fill_the_memory_are_refused(part: str, rule: dict[str, Any], refused: bool, tmp_path: Path):
    """A text of 20,000 spaces would become 20 GB."""
    rules = json.loads(tokenizers.Tokenizer(models.BPE({"a": 0}, [])).to_str())
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules | {part: rule}))
    if not refused:
        Tokenizer.load(tmp_path)
        return
    with pytest.raises(UserError, match=r"replacements make up to .* characters of one"):
        Tokenizer.load(tmp_path)


def test_panic_of_the_library_is_one_line():
    tokenizer = Tokenizer(with_regex("(a+)+$"))  # in memory: not checked
    with pytest.raises(UserError, match=r"cannot encode a text: .*retry-limit"):
        tokenizer.encode("a" * 40 + "b")


def test_panic_of_the_batch_encoder_falls_back(tokenizer: Tokenizer):
    """fastokens' regexes have other limits than those of the library, which then encodes, or says what is wrong."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.normalizer = normalizers.Replace(tokenizers.Regex(r"(.*)(.*)(.*)\1\2\3z"), "x")  # type: ignore[assignment]
    foreign = Tokenizer(backend)
    assert BatchEncoder(foreign).encode_flat(["a" * 400])[0].tolist() == foreign.encode("a" * 400)
    with pytest.raises(UserError, match="lone surrogate"):
        BatchEncoder(tokenizer).encode_flat(["a\ud800"])


@pytest.mark.parametrize("data", [b"\x10\x05", b"\x0a\x02\x08\x05", b"\x1a\x00\x08\x01", b"{}", b'{"model": 1}'])
def test_damaged_models_are_one_line(data: bytes, tmp_path: Path):
    (tmp_path / "x.model").write_bytes(data)
    with pytest.raises(UserError) as caught:
        load_pretrained_tokenizer(tmp_path / "x.model")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "value", [{"type": "BPE"}, {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}, 1, []]
)
def test_damaged_rules_are_one_line(value: Any, tmp_path: Path):
    rules = json.loads(llama_like().to_str())
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules | {"normalizer": value}))
    with pytest.raises(UserError, match="not a readable tokenizer"):
        Tokenizer.load(tmp_path)
