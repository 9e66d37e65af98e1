"""Pretokenization patterns: regexes that split text into pretokens; no token crosses their borders.

Each is the pattern of a published tokenizer, so that other programs support it (llama.cpp has a list of names).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, pre_tokenizers


@dataclass(frozen=True)
class SplitPattern:
    """A pretokenization regex.

    Attributes:
        regex: its matches are the pretokens; every character is in exactly one of them.
        gguf: llama.cpp's name of it, in `tokenizer.ggml.pre`.
        source: publication.
    """

    regex: str
    gguf: str
    source: str


PATTERNS = {
    # Contractions, words, numbers of any length and runs of symbols, each with one space before it.
    "gpt2": SplitPattern(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        gguf="gpt-2",
        source="Radford et al. 2019, section 2.2; openai/gpt-2 src/encoder.py",
    ),
    # Digits in groups of three; a word may carry any one symbol before it; line breaks stay with the symbols
    # before them, and end a run of white space.
    "gpt4": SplitPattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        gguf="llama-bpe",
        source="openai/tiktoken cl100k_base, in the form of Llama 3's tokenizer.json",
    ),
    # As gpt4, with single digits.
    "qwen2": SplitPattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        gguf="qwen2",
        source="Qwen2's tokenizer.json",
    ),
}


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern of openai/tiktoken o200k_base: words end where capitals follow small letters, and keep their contraction."""

_NO_HAN = r"&&[^\p{Han}]]"
KIMI = r"[\p{Han}]+|" + (
    O200K.replace(_UPPER, _UPPER[:-1] + _NO_HAN).replace(_LOWER, _LOWER[:-1] + _NO_HAN).replace(r"[\r\n/]*", r"[\r\n]*")
)
"""The pattern of Kimi K2 (moonshotai, tokenization_kimi.py): as o200k, with runs of Chinese characters apart."""


def build_pre_tokenizer(regex: str) -> pre_tokenizers.PreTokenizer:
    """Split by `regex`, then map UTF-8 bytes to printable letters (bytes_to_unicode.py)."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def identify_pattern(rules: Mapping[str, Any]) -> str | None:
    """The name of the pattern of a byte-level tokenizer.json without other rules; None for any other tokenizer."""
    pre_tokenizer = rules["pre_tokenizer"] or {}
    unsupported = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if rules["normalizer"] or any(rules["model"].get(name) for name in unsupported):
        return None
    if not all(token["special"] for token in rules["added_tokens"]):
        return None
    for name, pattern in PATTERNS.items():
        split = {"type": "Split", "pattern": {"Regex": pattern.regex}, "behavior": "Isolated", "invert": False}
        pairs = zip(pre_tokenizer.get("pretokenizers", ()), (split, _BYTES_ONLY), strict=False)
        if len(pre_tokenizer.get("pretokenizers", ())) == 2 and all(
            expected.items() <= actual.items() for actual, expected in pairs
        ):
            return name
    return "gpt2" if _GPT2.items() <= pre_tokenizer.items() else None


_BYTES_ONLY = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
