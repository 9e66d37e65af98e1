"""Characters that a vocabulary cannot express, which an encoder drops or replaces by the unknown token, and their remedy: a
token for each of the 256 bytes.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tokenizers

from groundup.artifacts.arguments import iter_texts
from groundup.artifacts.errors import UserError
from groundup.tokenizer.byte_level_vocabulary import is_byte_level, missing_bytes, with_added_tokens
from groundup.tokenizer.bytes_to_unicode import to_unicode
from groundup.tokenizer.token_bytes import SPACE
from groundup.tokenizer.tokenizer import Tokenizer

BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""SentencePiece's names of the bytes."""

BATCH = 256
"""Texts encoded at once."""


def count_lost_characters(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """The characters of `texts` that the vocabulary cannot express, with the number of times; white space is not counted
    where pretokenization drops it.

    >>> count_lost_characters(train_tokenizer(["a b"], 260), ["any text 東京 🤗"])
    Counter()
    """
    texts = iter_texts(texts)
    rules = json.loads(tokenizer.backend.to_str())
    lost: Counter[str] = Counter()
    if is_byte_level(rules):
        missing = set(b"".join(missing_bytes(rules)))
        for text in texts if missing else ():
            counts = Counter(text)
            lost.update({letter: n for letter, n in counts.items() if missing & set(letter.encode("utf-8", "replace"))})
        return lost
    if _has_byte_fallback(rules):
        return lost
    if rules["model"]["type"] == "BPE":  # its offsets are wrong after a dropped character
        _count_letters(lost, tokenizer.backend, rules["model"], texts)
    else:
        _count_unknown(lost, tokenizer.backend, _unknown_id(rules), texts)
    for letter in [letter for letter in lost if letter.isspace() or letter == SPACE]:
        del lost[letter]
    return lost


def _count_letters(
    lost: Counter[str], backend: tokenizers.Tokenizer, model: Mapping[str, Any], texts: Iterator[str]
) -> None:
    """Letters of normalized texts without a token: BPE merges letters only."""
    prefix = model.get("continuing_subword_prefix") or ""
    for text in texts:
        normalized = backend.normalizer.normalize_str(text) if backend.normalizer else text
        counts = Counter(normalized)
        lost.update(
            {letter: n for letter, n in counts.items() if not {letter, prefix + letter} & model["vocab"].keys()}
        )


def _count_unknown(
    lost: Counter[str], backend: tokenizers.Tokenizer, unknown: int | None, texts: Iterator[str]
) -> None:
    """Characters of unknown tokens, and those that no token covers."""
    for batch in _batches(texts):
        for text, encoding in zip(batch, backend.encode_batch(batch, add_special_tokens=False), strict=True):
            end = 0
            for id, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
                if first > end:
                    lost.update(text[end:first])
                if id == unknown:
                    lost.update(text[max(first, end) : last])
                end = max(end, last)
            lost.update(text[end:])


def lacks_bytes(tokenizer: Tokenizer) -> bool:
    """Whether there may be texts that the vocabulary cannot express."""
    rules = json.loads(tokenizer.backend.to_str())
    return bool(missing_bytes(rules)) if is_byte_level(rules) else not _has_byte_fallback(rules)


def add_byte_fallback(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with tokens for all 256 bytes: those that it lacks get the next ids, the old ids keep their meaning.

    Raises UserError for models other than BPE and Unigram, whose tokens are not made of bytes.
    """
    if not lacks_bytes(tokenizer):
        return tokenizer
    rules = json.loads(tokenizer.backend.to_str())
    model, first = rules["model"], tokenizer.vocab_size
    byte_level = is_byte_level(rules)
    decodes = byte_level or '"ByteFallback"' in json.dumps(rules["decoder"])
    if model["type"] == "BPE" and decodes:
        names = (
            [to_unicode(byte) for byte in missing_bytes(rules)] if byte_level else _missing_byte_tokens(model["vocab"])
        )
        model["vocab"] = with_added_tokens(rules) | {name: first + index for index, name in enumerate(names)}
    elif model["type"] == "Unigram" and decodes and first == len(model["vocab"]):
        lowest = min(score for _, score in model["vocab"])
        names = (
            [to_unicode(byte) for byte in missing_bytes(rules)]
            if byte_level
            else _missing_byte_tokens(dict(model["vocab"]))
        )
        model["vocab"] += [[name, lowest] for name in names]
    else:
        raise UserError(
            f"a {model['type']} vocabulary cannot get bytes, expected BPE or Unigram", hint="train a new tokenizer"
        )
    model["byte_fallback"] = not byte_level
    return tokenizer.with_rules(rules)


def _has_byte_fallback(rules: Mapping[str, Any]) -> bool:
    model = rules["model"]
    vocab = dict(model["vocab"]) if isinstance(model["vocab"], list) else model["vocab"]
    return bool(model.get("byte_fallback")) and not _missing_byte_tokens(vocab)


def _missing_byte_tokens(vocab: Mapping[str, Any]) -> list[str]:
    return [name for name in BYTE_TOKENS if name not in vocab]


def _unknown_id(rules: Mapping[str, Any]) -> int | None:
    model = rules["model"]
    return model.get("unk_id") if isinstance(model["vocab"], list) else model["vocab"].get(model.get("unk_token"))


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
