"""SentencePiece's vocabularies: its own model files, and its BPE as Llama 1 and 2, Mistral and GGUF's "llama" have it.

Text is not cut; spaces become U+2581, with one before the first word, and characters without a token become
bytes. There is no list of merges: each token has a score, and of all neighbours that make a token those
with the best are joined first. A list of merges and a list of scores say the same, so each is made of the
other here.

Sources: Kudo & Richardson 2018; sentencepiece's sentencepiece_model.proto; llama.cpp's llm_tokenizer_spm; the
tokenizer.json of Llama 2.
"""

import re
from itertools import count
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from groundup.tokenizer.protobuf import decode_float, parse_fields
from groundup.tokenizer.tokenizer import Tokenizer

SPACE = "▁"
Merge = tuple[str, str]


def build_sentencepiece_backend(
    tokens: list[str], scores: list[float], unknown: str | None, add_dummy_prefix: bool
) -> tokenizers.Tokenizer:
    """The rules of such a vocabulary; `prefix` says whether a space is put before the text."""
    vocabulary = {token: id for id, token in enumerate(tokens)}
    merges = merges_from_scores(vocabulary, scores)
    model = models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = (
        normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if add_dummy_prefix else spaces
    )
    backend.decoder = _decoder(add_dummy_prefix)
    return backend


def _decoder(prefix: bool) -> decoders.Decoder:
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces."""


def load_sentencepiece(data: bytes) -> Tokenizer:
    """The tokenizer in a SentencePiece model file (BPE or Unigram), with the ids of `SentencePieceProcessor.encode`.

    Where the model brings a table of normalized characters, the library applies it to a letter with all its marks at
    once, sentencepiece from left to right: they part on rare letters with several marks. And texts that spell control
    tokens may be cut more often here than there, where such a token would be taken for one.
    Raises ValueError when it is none, or does what these rules cannot.
    """
    parts: dict[int, list[Any]] = {1: [], 2: [], 3: []}
    for key, value in parse_fields(data):
        parts.setdefault(key, []).append(value)
    trainer: dict[int, Any]
    normalizer: dict[int, Any]
    trainer, normalizer = (dict(parse_fields(b"".join(parts[key]))) for key in (2, 3))
    pieces = [{1: b"", 2: b"\0\0\0\0", 3: NORMAL, **dict(parse_fields(piece))} for piece in parts[1]]
    tokens = [piece[1].decode() for piece in pieces]
    scores, types = [decode_float(piece[2]) for piece in pieces], [piece[3] for piece in pieces]
    unknown = next((id for id, type in enumerate(types) if type == UNKNOWN), None)
    kind = {1: "Unigram", 2: "BPE"}.get(trainer.get(3, 1))
    if unknown is None or kind is None or UNUSED in types or trainer.get(24) or not normalizer.get(5, 1):
        raise ValueError(
            "a SentencePiece model of an unknown kind, with unused pieces or with spaces behind words"
        )
    own = [token for token, type in zip(tokens, types, strict=True) if type == USER_DEFINED]
    if kind == "BPE":
        vocabulary = {token: id for id, token in enumerate(tokens)}
        ordinary = {token: id for token, id in vocabulary.items() if types[id] == NORMAL}
        model: Any = models.BPE(
            vocabulary, merges_from_scores(ordinary, scores), unk_token=tokens[unknown], fuse_unk=True,
            byte_fallback=bool(trainer.get(35)), ignore_merges=bool(own),
        )  # fmt: skip
    else:
        low = min(score for score, type in zip(scores, types, strict=True) if type == NORMAL)
        scored = [
            score if type in (NORMAL, USER_DEFINED) else low
            for score, type in zip(scores, types, strict=True)
        ]
        model = models.Unigram(
            list(zip(tokens, scored, strict=True)), unk_id=unknown, byte_fallback=bool(trainer.get(35))
        )
    backend = tokenizers.Tokenizer(model)
    prefix = bool(normalizer.get(3, 1))
    steps: list[Any] = [normalizers.Precompiled(normalizer[2])] if normalizer.get(2) else []
    if normalizer.get(4, 1):
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])  # type: ignore[assignment]
    control = [id for id, type in enumerate(types) if type in (UNKNOWN, CONTROL)]
    if own or kind == "Unigram":  # where a spelt control token or byte would be taken for one: cut it
        cuts = sorted(map(re.escape, own), key=len, reverse=True)
        cuts += [f"{re.escape(tokens[id][0])}(?={re.escape(tokens[id][1:])})" for id in control]
        cuts += ["<(?=0x[0-9A-F]{2}>)"]
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(cuts)), "isolated")  # type: ignore[assignment]
    backend.decoder = _decoder(prefix)  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken(tokens[id], special=True, normalized=False) for id in control])
    roles = {"bos": trainer.get(41, 1), "eos": trainer.get(42, 2), "pad": trainer.get(43, 2**64 - 1)}
    return Tokenizer(backend, **{role: tokens[id] for role, id in roles.items() if id in control})


def merges_from_scores(vocabulary: dict[str, int], scores: list[float]) -> list[Merge]:
    """Every way to make a token of two others, those first that make the token with the best score."""
    merges = [
        (-scores[id], vocabulary[token[:cut]], vocabulary[token[cut:]], (token[:cut], token[cut:]))
        for token, id in vocabulary.items()
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    return [merge for *_, merge in sorted(merges)]


def scores_from_merges(tokens: list[str], merges: list[Merge]) -> list[float]:
    """A score for each token: minus the place of the first merge that makes it; tokens that none makes come
    last."""
    place: dict[str, int] = {}
    for first, second in merges:
        place.setdefault(first + second, len(place))
    last = count(len(place))
    return [-float(place[token]) if token in place else -float(next(last)) for token in tokens]


def is_sentencepiece(rules: dict[str, Any]) -> bool:
    """Whether a tokenizer.json has these rules and no others: what llama.cpp would do with its vocabulary."""
    steps = _steps(rules["normalizer"])
    replaces = steps[-1:] == [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    prepends = steps[:-1] in ([], [{"type": "Prepend", "prepend": SPACE}])
    return (
        bool(rules["model"].get("byte_fallback")) and replaces and prepends and rules["pre_tokenizer"] is None
    )


def adds_dummy_prefix(rules: dict[str, Any]) -> bool:
    """Whether a space is put before the text."""
    return len(_steps(rules["normalizer"])) == 2


def _steps(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if normalizer is None:
        return []
    return normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
