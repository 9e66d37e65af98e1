"""[tokenizer]: how text becomes tokens."""

from typing import Literal

from groundup.recipe.section import Section, knob


class TokenizerSection(Section):
    algorithm: Literal["bpe"] = knob("bpe", "byte-level byte-pair encoding (Sennrich et al. 2016)")
    vocab_size: int = knob(32_000, "entries, special tokens included; 32,000 to 128,000 for real models", ge=257)
    pattern: Literal["gpt2", "gpt4"] = knob("gpt4", "how text is split before merging: GPT-2's rule or GPT-4's (digits in threes)")
