"""The other kind of vocabulary in GGUF: SentencePiece's BPE (Llama 1 and 2, Mistral, Mixtral), called "llama"
there.

Text is not cut; spaces become U+2581, with one before the first word, and characters without a token become
bytes. The file has no list of merges: each token has a score, and of all neighbours that make a token those
with the best are joined first. A list of merges and a list of scores say the same, so each is made of the
other here.

Sources: Kudo & Richardson 2018; llama.cpp's llm_tokenizer_spm; the tokenizer.json of Llama 2.
"""

from itertools import count
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers

SPACE = "▁"
Merge = tuple[str, str]


def build_backend(
    tokens: list[str], scores: list[float], unknown: str | None, prefix: bool
) -> tokenizers.Tokenizer:
    """The rules of such a vocabulary; `prefix` says whether a space is put before the text."""
    vocabulary = {token: id for id, token in enumerate(tokens)}
    merges = merges_of(vocabulary, scores)
    model = models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    return backend


def merges_of(vocabulary: dict[str, int], scores: list[float]) -> list[Merge]:
    """Every way to make a token of two others, those first that make the token with the best score."""
    merges = [
        (-scores[id], vocabulary[token[:cut]], vocabulary[token[cut:]], (token[:cut], token[cut:]))
        for token, id in vocabulary.items()
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    return [merge for *_, merge in sorted(merges)]


def scores_of(tokens: list[str], merges: list[Merge]) -> list[float]:
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


def puts_space(rules: dict[str, Any]) -> bool:
    """Whether a space is put before the text."""
    return len(_steps(rules["normalizer"])) == 2


def _steps(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if normalizer is None:
        return []
    return normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
