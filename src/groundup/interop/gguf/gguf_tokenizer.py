"""The tokenizer in a GGUF file (`tokenizer.ggml.*`): byte-level BPE (GPT-2 on), SentencePiece BPE, Unigram or WordPiece."""

import json
import logging
import re
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors

from groundup.artifacts.errors import UserError
from groundup.interop.gguf.gguf_pretokenizers import ADDS_BOS, DIGIT, GPT2, PRETOKENIZER_ALIASES, PRETOKENIZERS
from groundup.interop.gguf.gguf_vocabularies import read_unigram, read_wordpiece, write_unigram, write_wordpiece
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.sentencepiece import (
    adds_dummy_prefix,
    build_sentencepiece_backend,
    is_sentencepiece,
    scores_from_merges,
)

Metadata = dict[str, Any]
log = logging.getLogger("groundup.interop")

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Values of `tokenizer.ggml.token_type`."""

BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
ADDED: dict[str, dict[str, int]] = {"gpt2": {}, "llama": {"bos": 1}, "t5": {"eos": 1}, "bert": {"bos": 101, "sep": 102}}
"""By `tokenizer.ggml.model`: the tokens that llama.cpp adds around a text if the file does not say, and their default ids."""

ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}


def read_tokenizer(metadata: Metadata) -> Tokenizer:
    """The tokenizer of the metadata. Raises UserError for an unsupported vocabulary type or pretokenizer."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in ADDED:
        raise UserError(f"tokenizer.ggml.model = {kind!r} is not supported, expected {', '.join(map(repr, ADDED))}")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    types: list[int] = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    by_type = {type: [t for t, its in zip(tokens, types, strict=True) if its == type] for type in range(UNUSED)}
    match kind:
        case "gpt2":
            backend = _byte_level(metadata, tokens, types)
        case "llama":
            backend = _sentencepiece(metadata, tokens, types)
        case "t5":
            backend = read_unigram(
                metadata, _used(tokens, types), by_type[USER_DEFINED], by_type[UNKNOWN] + by_type[CONTROL]
            )
        case _:
            backend = read_wordpiece(metadata, _used(tokens, types), by_type[UNKNOWN] + by_type[CONTROL])
    for type, special in ((CONTROL, True), (USER_DEFINED, False)):
        backend.add_tokens([AddedToken(token, normalized=False, special=special) for token in by_type[type]])
    roles = {role: _token(tokens, metadata.get(f"tokenizer.ggml.{key}")) for role, key in ROLES.items()}
    _add_special_tokens(backend, metadata, tokens, kind)
    turn_ends = (metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom"))
    stop = [id for id in turn_ends if id is not None]
    return Tokenizer(backend, **roles, stop=stop, chat_template=metadata.get("tokenizer.chat_template"))


def _add_special_tokens(backend: tokenizers.Tokenizer, metadata: Metadata, tokens: list[str], kind: str) -> None:
    """The tokens around a text: those that the file names, or llama.cpp's for the vocabulary type."""
    around: dict[str, str] = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("sep", "seperator")):
        default_id = ADDED[kind].get(name)
        is_added = default_id is not None or (name == "bos" and metadata.get("tokenizer.ggml.pre") in ADDS_BOS)
        token = _token(tokens, metadata.get(f"tokenizer.ggml.{key}_token_id", default_id))
        if metadata.get(f"tokenizer.ggml.add_{name}_token", is_added) and token is not None:
            around[name] = token
    if not around:
        return
    begin, ends = around.get("bos", ""), [around[name] for name in ("eos", "sep") if name in around]
    single = " ".join(filter(None, [begin, "$A", *ends]))
    pair = " ".join(filter(None, [single, begin if kind != "bert" else "", "$B:1" if kind == "bert" else "$B", *ends]))
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=single, pair=pair, special_tokens=[(token, tokens.index(token)) for token in around.values()]
    )


def check_bpe(algorithm: str) -> None:
    """Raises UserError for another algorithm of a recipe than BPE: llama.cpp has no Unigram of bytes."""
    if algorithm.lower() != "bpe":
        raise UserError(f"GGUF export: a {algorithm} tokenizer, expected BPE", hint="use the huggingface format")


def write_tokenizer(tokenizer: Tokenizer, size: int) -> Metadata:
    """The metadata of `tokenizer`, for a model whose embedding has `size` rows; rows beyond the vocabulary are [PAD...].

    Raises UserError for a tokenizer that llama.cpp has no rules for: it would tokenize texts differently.
    """
    rules = json.loads(tokenizer.backend.to_str())
    if tokenizer.vocab_size > size:
        raise UserError(f"GGUF export: {tokenizer.vocab_size} tokens, but the embedding has {size} rows")
    names = [tokenizer.token(id) for id in range(size)]
    tokens = [f"[PAD{id}]" if name is None else name for id, name in enumerate(names)]
    types = _types(tokenizer, names, rules["model"])
    metadata: Metadata = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    match rules["model"]["type"]:
        case "Unigram":
            metadata |= write_unigram(tokenizer, rules, size)
        case "WordPiece":
            special = [token for token, type in zip(tokens, types, strict=True) if type in (UNKNOWN, CONTROL, UNUSED)]
            metadata |= write_wordpiece(rules, tokens, special)
        case "BPE":
            metadata |= _write_bpe(rules, tokens)
        case kind:
            raise UserError(f"GGUF export: a {kind} tokenizer, expected BPE, Unigram or WordPiece")
    metadata |= _write_special_tokens(tokenizer)
    if turn_ends := sorted(tokenizer.stop_ids - {tokenizer.eos_id}):
        metadata["tokenizer.ggml.eot_token_id"] = turn_ends[0]
    if tokenizer.chat_template is not None:
        metadata["tokenizer.chat_template"] = tokenizer.chat_template
    return metadata


def _write_bpe(rules: Metadata, tokens: list[str]) -> Metadata:
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in rules["model"]["merges"]]
    merges = [(first, second) for first, second in pairs]
    if is_sentencepiece(rules):
        metadata: Metadata = {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": scores_from_merges(tokens, merges),
            "tokenizer.ggml.add_space_prefix": adds_dummy_prefix(rules),
        }
        if (unknown := rules["model"].get("unk_token")) is not None:
            metadata["tokenizer.ggml.unknown_token_id"] = tokens.index(unknown)
        return metadata
    metadata = {
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
    return metadata


def _write_special_tokens(tokenizer: Tokenizer) -> Metadata:
    """Ids by role, and which of them the post-processor adds around a text: [CLS] and [SEP] are roles of BERT's."""
    whole, inner = tokenizer.encode("a", add_special_tokens=True), tokenizer.encode("a")
    first = whole.index(inner[0]) if inner else 0
    begins, ends = whole[:first], whole[first + len(inner) :]
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    is_bert = type(tokenizer.backend.model).__name__ == "WordPiece"
    if is_bert and len(begins) == 1 and len(ends) == 1:
        ids |= {"bos": begins[0], "eos": None}
    elif len(begins) > 1 or len(ends) > 1 or (ends and ids["eos"] not in (None, *ends)):
        raise UserError(
            f"GGUF export: the tokenizer adds {[tokenizer.token(id) for id in (*begins, *ends)]} around a text, expected at most "
            f"one token before it, and the end-of-text token {tokenizer.eos!r} after it",
            hint="use the huggingface format",
        )
    else:  # what is added has the role
        ids |= {role: added[0] for role, added in (("bos", begins), ("eos", ends)) if added}
    metadata = {f"tokenizer.ggml.{ROLES[role]}": id for role, id in ids.items() if id is not None}
    metadata["tokenizer.ggml.add_bos_token"] = bool(begins)
    if is_bert:
        if len(ends) == 1:
            metadata["tokenizer.ggml.seperator_token_id"] = ends[0]
        metadata |= {"tokenizer.ggml.add_sep_token": len(ends) == 1, "tokenizer.ggml.add_eos_token": False}
    else:
        metadata["tokenizer.ggml.add_eos_token"] = bool(ends)
    return metadata


def _used(tokens: list[str], types: list[int]) -> list[str]:
    """The tokens without the unused ones at the end, which have no text of their own."""
    used = [token for token, type in zip(tokens, types, strict=True) if type != UNUSED]
    if used != tokens[: len(used)]:
        raise UserError("tokenizer.ggml.token_type: unused tokens before used ones, expected them at the end")
    return used


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
    used = _used(tokens, types)
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
    if rules["normalizer"]:
        log.warning("GGUF: llama.cpp does not normalize text (NFC): letters typed as a base and a mark get other ids")
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
