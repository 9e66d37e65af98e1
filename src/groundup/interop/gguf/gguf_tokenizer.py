"""The tokenizer in a GGUF file (`tokenizer.ggml.*`): byte-level BPE (GPT-2 on) or SentencePiece BPE.

llama.cpp knows pretokenizers by name (`tokenizer.ggml.pre`): their rules are in its source, not in the file. The names below are
the supported ones.
"""

import json
import re
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors

from groundup.artifacts.errors import UserError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.sentencepiece import (
    adds_dummy_prefix,
    build_sentencepiece_backend,
    is_sentencepiece,
    scores_from_merges,
)
from groundup.tokenizer.split_patterns import PATTERNS

Metadata = dict[str, Any]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Values of `tokenizer.ggml.token_type`."""

GPT2, GPT4, QWEN2 = (PATTERNS[name].regex for name in ("gpt2", "gpt4", "qwen2"))
DIGIT = r"\p{N}"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (  # Mistral since 2024: words are also split where capitals follow small letters
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PRETOKENIZERS: dict[str, tuple[tuple[str, ...], bool]] = {
    "gpt-2": ((GPT2,), False),
    "smollm": ((DIGIT, GPT2), False),
    "dbrx": ((GPT4,), False),
    "llama-bpe": ((GPT4,), True),
    "qwen2": ((QWEN2,), False),
    "tekken": ((TEKKEN,), True),
}
"""By name: the regular expressions, applied in order, and `ignore_merges` (a pretoken that is a token is not
merged). Source: llama.cpp, src/llama-vocab.cpp."""

PRETOKENIZER_ALIASES = {
    "default": "gpt-2",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "smaug-bpe": "dbrx",
    "starcoder": "smollm",
    "refact": "smollm",
    "command-r": "smollm",
    "deepseek-r1-qwen": "qwen2",
}
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}


def read_tokenizer(metadata: Metadata) -> Tokenizer:
    """The tokenizer of the metadata. Raises UserError for an unsupported vocabulary type or pretokenizer."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise UserError(f"tokenizer.ggml.model = {kind!r} is not supported, expected 'gpt2' or 'llama'")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    types: list[int] = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    backend = _byte_level(metadata, tokens, types) if kind == "gpt2" else _sentencepiece(metadata, tokens, types)
    for type, special in ((CONTROL, True), (USER_DEFINED, False)):
        added = [token for token, its_type in zip(tokens, types, strict=True) if its_type == type]
        backend.add_tokens([AddedToken(token, normalized=False, special=special) for token in added])
    roles = {role: _token(tokens, metadata.get(f"tokenizer.ggml.{key}")) for role, key in ROLES.items()}
    if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama") and (bos := roles["bos"]):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens.index(bos))]
        )
    turn_ends = (metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom"))
    stop = [id for id in turn_ends if id is not None]
    return Tokenizer(backend, **roles, stop=stop, chat_template=metadata.get("tokenizer.chat_template"))


def check_bpe(algorithm: str) -> None:
    """Raises UserError for another tokenizer than BPE."""
    if algorithm.lower() != "bpe":
        raise UserError(f"GGUF export: a {algorithm} tokenizer, expected BPE", hint="use the huggingface format")


def write_tokenizer(tokenizer: Tokenizer, size: int) -> Metadata:
    """The metadata of `tokenizer`, for a model whose embedding has `size` rows; rows beyond the vocabulary are [PAD...].

    Raises UserError for a tokenizer that llama.cpp has no rules for: it would tokenize texts differently.
    """
    rules = json.loads(tokenizer.backend.to_str())
    if tokenizer.vocab_size > size:
        raise UserError(f"GGUF export: {tokenizer.vocab_size} tokens, but the embedding has {size} rows")
    check_bpe(rules["model"]["type"])
    names = [tokenizer.token(id) for id in range(size)]
    tokens = [f"[PAD{id}]" if name is None else name for id, name in enumerate(names)]
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in rules["model"]["merges"]]
    merges = [(first, second) for first, second in pairs]
    types = _types(tokenizer, names, rules["model"])
    metadata: Metadata = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    if is_sentencepiece(rules):
        metadata |= {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": scores_from_merges(tokens, merges),
            "tokenizer.ggml.add_space_prefix": adds_dummy_prefix(rules),
        }
        if (unknown := rules["model"].get("unk_token")) is not None:
            metadata["tokenizer.ggml.unknown_token_id"] = tokens.index(unknown)
    else:
        metadata |= {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": _pretokenizer_name(rules),
            "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
            "tokenizer.ggml.add_space_prefix": False,
        }
        if not merges:
            raise UserError(
                "GGUF export: a vocabulary without merges, which llama.cpp does not open",
                hint="train a tokenizer with a larger vocab_size, or use the huggingface format",
            )
    metadata["tokenizer.ggml.add_bos_token"] = _adds_bos(tokenizer)
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    metadata |= {f"tokenizer.ggml.{ROLES[role]}": id for role, id in ids.items() if id is not None}
    if turn_ends := sorted(tokenizer.stop_ids - {tokenizer.eos_id}):
        metadata["tokenizer.ggml.eot_token_id"] = turn_ends[0]
    if tokenizer.chat_template is not None:
        metadata["tokenizer.chat_template"] = tokenizer.chat_template
    return metadata


def _byte_level(metadata: Metadata, tokens: list[str], types: list[int]) -> tokenizers.Tokenizer:
    name = metadata.get("tokenizer.ggml.pre", "default")
    name = PRETOKENIZER_ALIASES.get(name, name)
    if name not in PRETOKENIZERS:
        known = ", ".join(sorted(PRETOKENIZERS.keys() | PRETOKENIZER_ALIASES.keys()))
        raise UserError(f"tokenizer.ggml.pre = {name!r} is not supported, expected one of {known}")
    patterns, ignore_merges = PRETOKENIZERS[name]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    used = {token: id for id, token in enumerate(tokens) if types[id] != UNUSED}
    backend = tokenizers.Tokenizer(models.BPE(used, merges, ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(metadata: Metadata, tokens: list[str], types: list[int]) -> tokenizers.Tokenizer:
    used = [token for token, type in zip(tokens, types, strict=True) if type != UNUSED]
    if used != tokens[: len(used)]:
        raise UserError("tokenizer.ggml.token_type: unused tokens before used ones, expected them at the end")
    unknown = _token(tokens, metadata.get("tokenizer.ggml.unknown_token_id"))
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    return build_sentencepiece_backend(used, metadata["tokenizer.ggml.scores"], unknown, prefix)


def _types(tokenizer: Tokenizer, names: list[str | None], model: Metadata) -> list[int]:
    added = tokenizer.backend.get_added_tokens_decoder()
    types = []
    for id, name in enumerate(names):
        if name is None:
            types.append(UNUSED)
        elif name == model.get("unk_token"):
            types.append(UNKNOWN)
        elif id in added:
            types.append(CONTROL if added[id].special else USER_DEFINED)
        elif model.get("byte_fallback") and BYTE_TOKEN.fullmatch(name):
            types.append(BYTE)
        else:
            types.append(NORMAL)
    return types


def _pretokenizer_name(rules: Metadata) -> str:
    if not _is_byte_level(rules["pre_tokenizer"]):
        raise UserError("GGUF export: the tokenizer is neither byte-level BPE nor SentencePiece BPE")
    if (rules["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        kind = rules["normalizer"]["type"]
        raise UserError(f"GGUF export: a tokenizer with a {kind} normalizer, expected none")
    rules_used = tuple(_split_patterns(rules["pre_tokenizer"])), bool(rules["model"].get("ignore_merges"))
    name = next((name for name, rule in PRETOKENIZERS.items() if rule == rules_used), None)
    if name is None:
        raise UserError(
            f"GGUF export: llama.cpp has no pretokenizer that splits by {' then '.join(rules_used[0])}",
            hint=f"it has {', '.join(PRETOKENIZERS)}",
        )
    return name


def _token(tokens: list[str], id: int | None) -> str | None:
    return tokens[id] if id is not None and 0 <= id < len(tokens) else None


def _adds_bos(tokenizer: Tokenizer) -> bool:
    return tokenizer.bos_id is not None and tokenizer.encode("a", add_special_tokens=True)[0] == tokenizer.bos_id


def _parts(rules: Metadata | None) -> list[Metadata]:
    if rules is None:
        return []
    return rules["pretokenizers"] if rules["type"] == "Sequence" else [rules]


def _is_byte_level(rules: Metadata | None) -> bool:
    """Whether the last rule is byte-level, without an added space."""
    parts = _parts(rules)
    return bool(parts) and parts[-1]["type"] == "ByteLevel" and not parts[-1]["add_prefix_space"]


def _split_patterns(rules: Metadata) -> list[str]:
    """The regular expressions of the rules; a rule without one is represented by its type."""
    patterns = []
    for part in _parts(rules):
        match part:
            case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}:
                patterns.append(regex)
            case {"type": "Digits", "individual_digits": True}:
                patterns.append(DIGIT)
            case {"type": "ByteLevel", "use_regex": use_regex}:
                patterns += [GPT2] if use_regex else []
            case _:
                patterns.append(part["type"])
    return patterns
