"""Unigram ("t5") and WordPiece ("bert") vocabularies in GGUF.

Unigram: scores, a table of normalized characters and two flags. WordPiece: the first piece of a word begins with U+2581, where
tokenizer.json marks the other pieces by ##.

Source: llama.cpp, src/llama-vocab.cpp (llm_tokenizer_ugm, llm_tokenizer_wpm).
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from groundup.artifacts.errors import UserError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.sentencepiece import character_table, split_spelled
from groundup.tokenizer.token_bytes import SPACE

Metadata = dict[str, Any]

CHARACTER_TABLE = "tokenizer.ggml.precompiled_charsmap"
MERGES_SPACES = "tokenizer.ggml.remove_extra_whitespaces"
SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
CONTINUES = "##"
LONGEST_WORD = 1_000_000
"""llama.cpp has no longest word."""

PROBES = (
    "the quick brown fox", " two  spaces ", "tab\tand\nlines\n\n", "Ünïcödé ﬁ ① Ⅷ", "don't, they? 12345", "狐と🦊",
    "a", "A.B-C_D", "ÅÅ e\u0301",
)  # fmt: skip
"""Texts that tell the flags apart."""


def read_unigram(
    metadata: Metadata, tokens: Sequence[str], user_defined: Sequence[str], control: Sequence[str]
) -> tokenizers.Tokenizer:
    scores: list[float] = metadata["tokenizer.ggml.scores"]
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 2)
    scored = [(t, 0.0 if t in user_defined else float(s)) for t, s in zip(tokens, scores[: len(tokens)], strict=True)]
    backend = tokenizers.Tokenizer(models.Unigram(scored, unk_id=unknown, byte_fallback=False))
    table = bytes(value & 255 for value in metadata.get(CHARACTER_TABLE, ()))
    merges, prefix = metadata.get(MERGES_SPACES, False), metadata.get(SPACE_PREFIX, True)
    steps: list[Any] = character_table(table) if table else []
    if merges:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if prefix or merges else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])  # type: ignore[assignment]
    backend.pre_tokenizer = split_spelled(user_defined, control)  # type: ignore[assignment]
    undo = [decoders.Replace(SPACE, " "), decoders.Fuse()]
    undo += [decoders.Strip(" ", 1, 0)] if prefix or merges else []
    backend.decoder = decoders.Sequence(undo)  # type: ignore[assignment]
    return backend


def write_unigram(tokenizer: Tokenizer, rules: Metadata, size: int) -> Metadata:
    """Scores, table and flags. Raises UserError where no flags give the ids of the tokenizer."""
    if rules["model"].get("byte_fallback") or rules["model"].get("unk_id") is None:
        raise UserError(
            "GGUF export: a Unigram tokenizer of bytes, which llama.cpp does not have",
            hint="use the huggingface format",
        )
    scores = dict(rules["model"]["vocab"])
    tokens = [tokenizer.token(id) for id in range(size)]
    known = [token for token in tokens if token is not None]
    metadata: Metadata = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.scores": [float(scores.get(token, 0.0)) if token is not None else 0.0 for token in tokens],
        "tokenizer.ggml.unknown_token_id": rules["model"]["unk_id"],
    }
    tables = [step["precompiled_charsmap"] for step in _steps(rules["normalizer"]) if step["type"] == "Precompiled"]
    if tables and tables[0]:
        metadata[CHARACTER_TABLE] = base64.b64decode(tables[0])
    expected = tokenizer.encode_batch(PROBES)
    for merges, prefix in ((True, True), (False, True), (False, False)):
        flags = {MERGES_SPACES: merges, SPACE_PREFIX: prefix}
        seen = metadata | flags | {"tokenizer.ggml.scores": metadata["tokenizer.ggml.scores"][: len(known)]}
        read = Tokenizer(read_unigram(seen, known, (), ()))
        if read.encode_batch(PROBES) == expected:
            return metadata | flags
    raise UserError(
        "GGUF export: llama.cpp would split texts otherwise than this Unigram tokenizer, whose rules are "
        f"{json.dumps(rules['pre_tokenizer'])[:200]}",
        hint="use the huggingface format",
    )


def read_wordpiece(metadata: Metadata, tokens: Sequence[str], special: Sequence[str]) -> tokenizers.Tokenizer:
    unknown = tokens[metadata.get("tokenizer.ggml.unknown_token_id", 100)]
    vocabulary = {_piece(token, special): id for id, token in enumerate(tokens)}
    model = models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=LONGEST_WORD)
    backend = tokenizers.Tokenizer(model)
    lowercase = metadata.get("tokenizer.ggml.normalizer.lowercase", True)
    strip_accents = metadata.get("tokenizer.ggml.normalizer.strip_accents", lowercase)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)  # type: ignore[assignment]
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    backend.decoder = decoders.WordPiece()  # type: ignore[assignment]
    return backend


def write_wordpiece(rules: Metadata, tokens: Sequence[str], special: Sequence[str]) -> Metadata:
    """The tokens in llama.cpp's spelling. Raises UserError for other rules than those of an uncased BERT."""
    normalizer = rules["normalizer"] or {"type": None}
    strips = normalizer.get("strip_accents")
    if normalizer["type"] != "BertNormalizer" or not normalizer["lowercase"] or strips is False:
        raise UserError(
            "GGUF export: a WordPiece tokenizer that keeps capitals or accents, which llama.cpp removes",
            hint="use the huggingface format",
        )
    if (rules["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer":
        raise UserError(f"GGUF export: WordPiece with the pretokenizer {rules['pre_tokenizer']}, expected BERT's")
    if rules["model"]["continuing_subword_prefix"] != CONTINUES:
        raise UserError("GGUF export: WordPiece with another mark of continued words, expected ##")
    spelled = [
        token if token in special else token.removeprefix(CONTINUES) if token.startswith(CONTINUES) else SPACE + token
        for token in tokens
    ]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": spelled,
        "tokenizer.ggml.unknown_token_id": tokens.index(rules["model"]["unk_token"]),
    }


def _piece(token: str, special: Sequence[str]) -> str:
    if token in special or (token.startswith("[") and token.endswith("]")):
        return token
    return token.removeprefix(SPACE) if token.startswith(SPACE) else CONTINUES + token


def _steps(normalizer: Metadata | None) -> list[Metadata]:
    if normalizer is None:
        return []
    return normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
