"""[tokenizer]: how text becomes tokens."""

from typing import Literal

from groundup.recipe.section import Section, knob

Algorithm = Literal["bpe"]
Pattern = Literal["gpt2", "gpt4", "gpt4o", "qwen2"]


class TokenizerSection(Section):
    algorithm: Algorithm = knob("bpe", "byte-level byte-pair encoding (Sennrich et al. 2016)")
    vocab_size: int = knob(32_000, "entries, special tokens included; 32,000 to 128,000 for real models", ge=260)
    pattern: Pattern = knob(
        "gpt4", "how text is split before merging: gpt2, gpt4 (digits in threes), gpt4o (words by letter case), qwen2 (single digits)"
    )
    sample_bytes: int = knob(
        1_000_000_000, "text to learn the vocabulary from, at most; drawn evenly from all of the training text", ge=1_000
    )
