"""Pretokenizers of GGUF's byte-level BPE (`tokenizer.ggml.pre`): the file has a name, llama.cpp the rules.

The expressions are those of the published tokenizers that the names stand for; where llama.cpp's own expressions are simpler,
they differ for rare letters (tekken, gpt-4o: combining marks).

Source: llama.cpp, src/llama-vocab.cpp, and the tokenizer.json of each model.
"""

from groundup.tokenizer.split_patterns import PATTERNS

GPT2, GPT4, QWEN2 = (PATTERNS[name].regex for name in ("gpt2", "gpt4", "qwen2"))
DIGIT = r"\p{N}"
DIGITS = r"\p{N}{1,3}"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
SYMBOLS_AND_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
CASED = rf"{BEFORE}{UPPER}*{LOWER}+%s|{BEFORE}{UPPER}+{LOWER}*%s"
"""Words are also split where capitals follow small letters; %s: what may follow."""

TEKKEN = rf"{CASED % ('', '')}|\p{{N}}|{SYMBOLS_AND_SLASH}|{SPACES}"
GPT4O = rf"{CASED % (SUFFIXES + '?', SUFFIXES + '?')}|{DIGITS}|{SYMBOLS_AND_SLASH}|{SPACES}"
HAN_KANA = r"[一-龥぀-ゟ゠-ヿ]+"
ASCII_SYMBOL = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
DEEPSEEK = ASCII_SYMBOL + r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

PRETOKENIZERS: dict[str, tuple[tuple[str, ...], bool]] = {
    "gpt-2": ((GPT2,), False),
    "smollm": ((DIGIT, GPT2), False),
    "dbrx": ((GPT4,), False),
    "llama-bpe": ((GPT4,), True),
    "qwen2": ((QWEN2,), False),
    "qwen35": (
        (rf"{SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}",),
        False,
    ),
    "tekken": ((TEKKEN,), True),
    "gpt-4o": ((GPT4O,), False),
    "deepseek-v3": ((DIGITS, HAN_KANA, DEEPSEEK), False),
    "deepseek-coder": ((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGIT), False),
    "falcon": ((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"), False),
    "default": ((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), False),
    "bloom": ((BLOOM,), False),
    "viking": ((BLOOM, DIGIT), False),
    "bailingmoe": ((rf"'(?i:[sdmt]|ll|ve|re)|{BEFORE}\p{{L}}+|\p{{N}}|{SYMBOLS}|\s*[\r\n]|\s+(?!\S)|\s+",), False),
    "seed-coder": ((rf"{SUFFIXES}|{BEFORE}\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACES}",), False),
    "exaone-moe": (
        (
            rf"{SUFFIXES}|{BEFORE}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?"
            r"|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
        False,
    ),
}
"""By name: the regular expressions, applied in order, and `ignore_merges` (a pretoken that is a token is not merged)."""

SAME_RULES = {
    "gpt-2": (
        "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "jina-v1-en", "jina-v2-code", "roberta-bpe",
        "a.x-4.0", "mellum", "modern-bert", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4",
    ),
    "smollm": ("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
    "dbrx": ("smaug-bpe", "chatglm-bpe"),
    "llama-bpe": (
        "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "glm4", "glm5",
    ),
    "qwen2": (
        "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "hunyuan", "solar-open", "megrez", "grok-2",
    ),
    "gpt-4o": ("llama4", "kanana2", "talkie", "minimax-m2"),
    "deepseek-v3": ("hunyuan-dense", "joyai-llm", "hy_v4"),
    "bloom": ("poro-chat", "gpt3-finnish"),
    "bailingmoe": ("bailingmoe2", "llada-moe"),
}  # fmt: skip
PRETOKENIZER_ALIASES = {alias: name for name, aliases in SAME_RULES.items() for alias in aliases}

ADDS_BOS = {
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken",
    "chameleon",
}  # fmt: skip
"""Names with which a text begins with the bos token where the file does not say."""
