"""Byte-level BPE as plain data: a vocabulary (id to bytes) and merges (pairs of bytes), and the tokenizer made of them.

In tokenizer.json, tokens are strings of printable letters (bytes_to_unicode.py), and special tokens are themselves.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models

from groundup.artifacts.errors import UserError
from groundup.tokenizer.bytes_to_unicode import BYTE_VOCABULARY, from_unicode, to_unicode
from groundup.tokenizer.split_patterns import build_pre_tokenizer

BytePairs = list[tuple[bytes, bytes]]
MAX_IDS = 100_000_000
"""The library allocates memory for each id up to the highest."""


def byte_level_backend(model: models.Model, regex: str, special_tokens: Sequence[str]) -> tokenizers.Tokenizer:
    """A backend of the `tokenizers` library that splits text by `regex` and applies `model` to the bytes of each part."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = build_pre_tokenizer(regex)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return backend


def bpe_from_merges(
    vocabulary: Mapping[int, bytes],
    merges: Iterable[tuple[bytes, bytes]],
    regex: str,
    special_tokens: Sequence[str] = (),
    byte_fallback: bool = False,
) -> tokenizers.Tokenizer:
    """The backend of a vocabulary and its merges, first merge first. Special tokens that the vocabulary lacks get the next
    ids.

    byte_fallback: append the bytes that the vocabulary lacks; without them it is refused, since it would lose text.
    Raises UserError for values of another type, tokens that occur twice, and merges of tokens outside of the vocabulary.
    """
    vocabulary = _check_vocabulary(vocabulary)
    special = {token.encode() for token in special_tokens}
    known = {token for token in vocabulary.values() if token not in special}
    if missing := [byte for byte in BYTE_VOCABULARY if byte not in known]:
        if not byte_fallback:
            raise UserError(
                f"the vocabulary lacks {len(missing)} of the 256 bytes, such as {missing[0]!r}: text with them would be lost",
                hint="byte_fallback=True appends them",
            )
        vocabulary |= {max(vocabulary, default=-1) + 1 + index: byte for index, byte in enumerate(missing)}
        known.update(missing)
    ids = {token.decode() if token in special else to_unicode(token): id for id, token in vocabulary.items()}
    if len(ids) < len(vocabulary):
        raise UserError("a special token is spelled like another token in tokenizer.json", hint="rename it")
    for token in special_tokens:
        ids.setdefault(token, max(ids.values()) + 1)
    pairs = [(to_unicode(left), to_unicode(right)) for left, right in _check_merges(merges, known)]
    return byte_level_backend(models.BPE(ids, pairs), regex, special_tokens)


def vocabulary_of(rules: Mapping[str, Any]) -> dict[int, bytes]:
    """The bytes of each id of a byte-level tokenizer.json, by id; special tokens as UTF-8. Raises UserError for any other."""
    added = {token["content"]: token["id"] for token in rules["added_tokens"]}
    model = rules["model"]
    entries = (
        {token: index for index, (token, _) in enumerate(model["vocab"])} if _is_unigram(model) else model["vocab"]
    )
    ordinary = {id: token for token, id in entries.items() if token not in added}
    if not is_byte_level(rules):
        raise _not_byte_level("a vocabulary of bytes")
    try:
        found = {id: from_unicode(token) for id, token in ordinary.items()}
    except KeyError:
        raise _not_byte_level("a vocabulary of bytes") from None
    return dict(sorted((found | {id: token.encode() for token, id in added.items()}).items()))


def merges_of(rules: Mapping[str, Any]) -> BytePairs:
    """The merges of a byte-level BPE tokenizer.json, in order. Raises UserError for any other."""
    if rules["model"]["type"] != "BPE" or not is_byte_level(rules):
        raise _not_byte_level("merges of bytes")
    return [(from_unicode(left), from_unicode(right)) for left, right in rules["model"]["merges"]]


def is_byte_level(rules: Mapping[str, Any]) -> bool:
    """Whether text is mapped to bytes before the model of a tokenizer.json sees it."""
    pre_tokenizer = rules["pre_tokenizer"] or {}
    return any(part["type"] == "ByteLevel" for part in pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if part)


def missing_bytes(rules: Mapping[str, Any]) -> list[bytes]:
    """The bytes without a token in a byte-level tokenizer.json, in the order of BYTE_VOCABULARY."""
    vocab = rules["model"]["vocab"]
    known = {token for token, _ in vocab} if isinstance(vocab, list) else vocab
    return [byte for byte in BYTE_VOCABULARY if to_unicode(byte) not in known]


def with_added_tokens(rules: Mapping[str, Any]) -> dict[str, int]:
    """The ids of all tokens of a BPE tokenizer.json. Added tokens outside of the model's vocabulary would get other ids when
    it grows.
    """
    return rules["model"]["vocab"] | {token["content"]: token["id"] for token in rules["added_tokens"]}


def _is_unigram(model: Mapping[str, Any]) -> bool:
    return isinstance(model["vocab"], list)


def _check_vocabulary(vocabulary: Mapping[int, bytes]) -> dict[int, bytes]:
    if not isinstance(vocabulary, Mapping):
        raise UserError(f"vocabulary is a {type(vocabulary).__name__}, expected a dict of id to bytes")
    seen: dict[bytes, int] = {}
    for id, token in vocabulary.items():
        if type(id) is not int or not isinstance(token, bytes) or not token:
            raise UserError(
                f"vocabulary: {id!r}: {token!r}, expected id: bytes",
                hint='token.encode("utf-8") are the bytes of a text',
            )
        if not 0 <= id < MAX_IDS:
            raise UserError(f"vocabulary: id {id}, expected 0 to {MAX_IDS - 1:,}")
        if token in seen:
            raise UserError(f"vocabulary: {token!r} has the ids {seen[token]} and {id}, expected one")
        seen[token] = id
    return dict(vocabulary)


def _check_merges(merges: Iterable[tuple[bytes, bytes]], known: set[bytes]) -> BytePairs:
    if not isinstance(merges, Iterable):
        raise UserError(f"merges is a {type(merges).__name__}, expected a list of pairs of bytes")
    checked: dict[tuple[bytes, bytes], None] = {}
    for index, merge in enumerate(merges):
        if not isinstance(merge, tuple | list) or len(merge) != 2 or not all(isinstance(part, bytes) for part in merge):
            raise UserError(f"merges[{index}] is {merge!r}, expected a pair of bytes such as (b'a', b'b')")
        left, right = merge
        for token in (left, right, left + right):
            if token not in known:
                raise UserError(f"merges[{index}] is {merge!r}: {token!r} is not in the vocabulary")
        if (left, right) in checked:
            raise UserError(f"merges[{index}] is {merge!r}, which occurs before")
        checked[left, right] = None
    return list(checked)


def _not_byte_level(what: str) -> UserError:
    return UserError(
        f"the tokenizer has no {what}, expected byte-level BPE", hint="its rules: tokenizer.backend.to_str()"
    )
