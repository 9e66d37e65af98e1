"""How text is cut into pieces before any merging: no token ever reaches over such a cut.

Each pattern is the very one of a published tokenizer, so that every other program that knows the tokenizer
(llama.cpp keeps a list of them by name) cuts alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, pre_tokenizers


@dataclass(frozen=True)
class SplitPattern:
    """A rule for cutting text.

    Attributes:
        regex: its matches are the pieces; every character is in exactly one of them.
        gguf: what llama.cpp calls it in `tokenizer.ggml.pre`.
        source: where it comes from.
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
    # As gpt4, and each digit is a piece of its own: a number of any length is written in one way.
    "qwen2": SplitPattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        gguf="qwen2",
        source="Qwen2's tokenizer.json",
    ),
}


def build_pre_tokenizer(regex: str) -> pre_tokenizers.PreTokenizer:
    """Cut by `regex`, then write each piece's UTF-8 bytes in the printable letters of GPT-2's byte alphabet."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def identify_pattern(rules: Mapping[str, Any]) -> str | None:
    """The name of the pattern, when a tokenizer.json cuts by one of PATTERNS into bytes, and does nothing else to text."""
    cutting = rules["pre_tokenizer"] or {}
    unusual = (
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "byte_fallback",
    )
    if rules["normalizer"] or any(rules["model"].get(name) for name in unusual):
        return None
    if not all(token["special"] for token in rules["added_tokens"]):
        return None
    for name, pattern in PATTERNS.items():
        split = {
            "type": "Split",
            "pattern": {"Regex": pattern.regex},
            "behavior": "Isolated",
            "invert": False,
        }
        pairs = zip(cutting.get("pretokenizers", ()), (split, _BYTES_ONLY), strict=False)
        if len(cutting.get("pretokenizers", ())) == 2 and all(
            wanted.items() <= found.items() for found, wanted in pairs
        ):
            return name
    return "gpt2" if _GPT2.items() <= cutting.items() else None


_BYTES_ONLY = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
