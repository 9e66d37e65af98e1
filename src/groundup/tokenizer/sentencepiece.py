"""SentencePiece: load its model files, and build its BPE as in Llama 1 and 2, Mistral and GGUF's "llama".

There is no pretokenization: spaces become U+2581, with one before the first word (dummy prefix), and characters without a
token become byte tokens. The model has a score for each token instead of a list of merges: of all pairs of neighbours that
make a token, the one with the best score is merged first. Scores and merges are converted into each other here.

Sources: Kudo & Richardson 2018; sentencepiece's sentencepiece_model.proto; llama.cpp's llm_tokenizer_spm; the
tokenizer.json of Llama 2.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from groundup.tokenizer.token_bytes import SPACE
from groundup.tokenizer.tokenizer import Tokenizer

Merge = tuple[str, str]
FieldValue = int | bytes


def build_sentencepiece_backend(
    tokens: list[str], scores: list[float], unknown: str | None, add_dummy_prefix: bool
) -> tokenizers.Tokenizer:
    """The `tokenizers` backend of a BPE vocabulary with scores; `add_dummy_prefix`: a space before the text."""
    vocabulary = {token: id for id, token in enumerate(tokens)}
    merges = merges_from_scores(vocabulary, scores)
    model = models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if add_dummy_prefix else spaces
    backend.decoder = _decoder(add_dummy_prefix)
    return backend


def _decoder(add_dummy_prefix: bool) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if add_dummy_prefix else steps)


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of entries."""


def load_sentencepiece(data: bytes, first: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer in a SentencePiece model file (BPE or Unigram), with the ids of `SentencePieceProcessor.encode`.

    first: special tokens, the unknown one last, in place of the model's first three: its other ids begin after them.

    Known differences: a model's table of normalized characters is applied to a letter with all its combining marks at once,
    composed where Unicode composes them, not from left to right, which differs for several marks in an unusual order; and text
    around spelled special tokens may be split more often.
    Raises ValueError when the data is no SentencePiece model or uses unsupported features.
    """
    sections: dict[int, list[Any]] = {1: [], 2: [], 3: []}
    for key, value in parse_fields(data):
        sections.setdefault(key, []).append(value)
    trainer: dict[int, Any]
    normalizer: dict[int, Any]
    trainer, normalizer = (dict(parse_fields(b"".join(sections[key]))) for key in (2, 3))
    entries = [_entry(entry) for entry in sections[1]]
    if first:
        special = [_SPECIAL | {1: token.encode(), 3: UNKNOWN if token == first[-1] else CONTROL} for token in first]
        entries = special + entries[3:]
    tokens = [entry[1].decode() for entry in entries]
    scores, types = [decode_float(entry[2]) for entry in entries], [entry[3] for entry in entries]
    unknown = next((id for id, type in enumerate(types) if type == UNKNOWN), None)
    model_type = {1: "Unigram", 2: "BPE"}.get(trainer.get(3, 1))
    if unknown is None or model_type is None or UNUSED in types or trainer.get(24) or not normalizer.get(5, 1):
        raise ValueError(
            "unsupported SentencePiece model: neither BPE nor Unigram, unused entries, or a suffix instead of a prefix"
        )
    user_defined = [token for token, type in zip(tokens, types, strict=True) if type == USER_DEFINED]
    if model_type == "BPE":
        vocabulary = {token: id for id, token in enumerate(tokens)}
        ordinary = {token: id for token, id in vocabulary.items() if types[id] == NORMAL}
        model: Any = models.BPE(
            vocabulary, merges_from_scores(ordinary, scores), unk_token=tokens[unknown], fuse_unk=True,
            byte_fallback=bool(trainer.get(35)), ignore_merges=bool(user_defined),
        )  # fmt: skip
    else:
        low = min(score for score, type in zip(scores, types, strict=True) if type == NORMAL)
        scored = [score if type in (NORMAL, USER_DEFINED) else low for score, type in zip(scores, types, strict=True)]
        model = models.Unigram(
            list(zip(tokens, scored, strict=True)), unk_id=unknown, byte_fallback=bool(trainer.get(35))
        )
    backend = tokenizers.Tokenizer(model)
    add_dummy_prefix = bool(normalizer.get(3, 1))
    steps: list[Any] = character_table(normalizer[2]) if normalizer.get(2) else []
    if normalizer.get(4, 1):
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if add_dummy_prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])  # type: ignore[assignment]
    control = [id for id, type in enumerate(types) if type in (UNKNOWN, CONTROL)]
    if user_defined or model_type == "Unigram":  # split spelled special tokens and bytes, so that they stay text
        backend.pre_tokenizer = split_spelled(user_defined, [tokens[id] for id in control])  # type: ignore[assignment]
    backend.decoder = _decoder(add_dummy_prefix)  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken(tokens[id], special=True, normalized=False) for id in control])
    roles = {"bos": trainer.get(41, 1), "eos": trainer.get(42, 2), "pad": trainer.get(43, 2**64 - 1)}
    return Tokenizer(backend, **{role: tokens[id] for role, id in roles.items() if id in control})


_SPECIAL: dict[int, Any] = {1: b"", 2: b"\0\0\0\0", 3: NORMAL}


def _entry(data: bytes) -> dict[int, Any]:
    """Token, score and type under their field numbers."""
    return _SPECIAL | dict(parse_fields(data))


def sentencepiece_vocabulary(data: bytes) -> tuple[dict[str, float], list[str]]:
    """The score of each token of a model file, and the special ones among them."""
    entries = [_entry(entry) for key, entry in parse_fields(data) if key == 1 and isinstance(entry, bytes)]
    special = [entry[1].decode() for entry in entries if entry[3] in (UNKNOWN, CONTROL)]
    return {entry[1].decode(): decode_float(entry[2]) for entry in entries}, special


def split_spelled(user_defined: Sequence[str], control: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    """Cuts around entries of users, and inside of spelled special tokens and bytes, so that those stay text."""
    splits = sorted(map(re.escape, user_defined), key=len, reverse=True)
    splits += [f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in control]
    splits += ["<(?=0x[0-9A-F]{2}>)"]
    return pre_tokenizers.Split(Regex("|".join(splits)), "isolated")


def character_table(table: bytes) -> list[Any]:
    """The steps of a model's table of normalized characters.

    The library looks up a whole letter of at most five bytes, else each of its code points: letters that a table composes are
    composed before, such as Korean syllables and what file systems take apart. It replaces both characters of a Windows line
    break by one entry; as two line feeds, they are replaced one by one.
    """
    entries = normalizers.Precompiled(table)
    composes = [normalizers.NFC()] if entries.normalize_str("e\u0301") == "é" else []
    if entries.normalize_str("\r") != entries.normalize_str("\n"):
        return [*composes, entries]
    return [*composes, normalizers.Replace("\r\n", "\n\n"), entries]


def merges_from_scores(vocabulary: dict[str, int], scores: list[float]) -> list[Merge]:
    """All splits of tokens into two tokens, best score first; of equal scores, the one with the longest left part first.

    The order of equal scores is that of transformers. A list of merges cannot say "leftmost first" among merges of one
    score, as SentencePiece decides; with long parts first, runs of one character (spaces) get the same tokens.
    """
    merges = [
        (-scores[id], -i, i - len(token), id, (token[:i], token[i:]))
        for token, id in vocabulary.items()
        for i in range(1, len(token))
        if token[:i] in vocabulary and token[i:] in vocabulary
    ]
    return [merge for *_, merge in sorted(merges)]


def scores_from_merges(tokens: list[str], merges: list[Merge]) -> list[float]:
    """Minus the index of the first merge that makes each token; tokens without a merge come last."""
    index: dict[str, int] = {}
    for first, second in merges:
        index.setdefault(first + second, len(index))
    rest = count(len(index))
    return [-float(index[token]) if token in index else -float(next(rest)) for token in tokens]


def is_sentencepiece(rules: dict[str, Any]) -> bool:
    """Whether a tokenizer.json has exactly the rules that llama.cpp applies to such a vocabulary."""
    steps = _steps(rules["normalizer"])
    replaces = steps[-1:] == [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    prepends = steps[:-1] in ([], [{"type": "Prepend", "prepend": SPACE}])
    return bool(rules["model"].get("byte_fallback")) and replaces and prepends and rules["pre_tokenizer"] is None


def adds_dummy_prefix(rules: dict[str, Any]) -> bool:
    """Whether a space is added before the text."""
    return len(_steps(rules["normalizer"])) == 2


def _steps(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if normalizer is None:
        return []
    return normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]


def parse_fields(message: bytes) -> Iterator[tuple[int, FieldValue]]:
    """Field numbers and values (integers or raw bytes) of a protocol buffer. Raises ValueError for invalid messages.

    protobuf.dev, "Encoding": a key is a varint of field number and wire type; wire type 0 is a varint, 1 eight bytes,
    2 a length and that many bytes, 5 four bytes.
    """
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _read_varint(message, position)
            yield key >> 3, value
            continue
        if wire_type == 2:
            size, position = _read_varint(message, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        if position + size > len(message):
            raise ValueError(f"a field of {size} bytes at byte {position} of {len(message)}")
        yield key >> 3, message[position : position + size]
        position += size


def decode_float(value: FieldValue) -> float:
    """The value of a `float` field."""
    if not isinstance(value, bytes) or len(value) != 4:
        raise ValueError("expected four bytes")
    return struct.unpack("<f", value)[0]


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError(f"unterminated varint at byte {position}")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
