"""Held-out documents to score: whole documents of a validation shard, of every source, in an order drawn by a seed.

The order and the cuts of long documents depend on their texts, not on their places in the shard or the tokenizer: runs on
one corpus, whose training seeds differ, score the same texts, so that their scores pair by document.
"""

from collections.abc import Iterator

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.data.stable_hash import hash_fraction
from groundup.evaluate.likelihood import ScoredDocument
from groundup.tokenizer import Tokenizer, TokenShard

DOCUMENT_TOKENS = 8_192
"""Tokens of each document at most, so that one long book does not dominate the score; fewer where there are many sources."""

BYTES_PER_TOKEN = 4
"""By which the limit of tokens is one of bytes: documents are cut at the same place whatever the tokenizer."""

HASHED_TOKENS, HASHED_CHARACTERS = 256, 64
"""Of the beginning of a document, by which its place in the order is drawn; a token is a byte or more, a character up to
four."""

MIN_SOURCE_FRACTION = 0.5
"""Of the tokens to score, divided equally among the sources before the rest is drawn at random: a small source has a score."""


def sample_validation_documents(
    shard: TokenShard, tokenizer: Tokenizer, *, max_tokens: int, seed: int
) -> list[ScoredDocument]:
    """Random documents of `shard` with about `max_tokens` tokens in all, or all of them; of each source its equal part of
    `MIN_SOURCE_FRACTION` of the tokens, as far as it has them.

    The context of each is an end-of-text token, as in training. The end of text after it is not scored: it has no bytes
    (the usual convention, so that scores are comparable).
    Raises UserError when the shard has no text, or was written by another tokenizer.
    """
    shard.check_tokenizer(tokenizer)
    names = list(shard.sources)
    documents: list[ScoredDocument] = []
    remaining = max_tokens
    longest = min(DOCUMENT_TOKENS, max(1, max_tokens // max(1, len(shard.sources))))
    for index in _stratified_order(shard, max_tokens, _order(shard, tokenizer, seed)):
        if remaining <= 0:
            break
        ids, size = _truncate(tokenizer, shard.document(int(index))[:-1].tolist(), BYTES_PER_TOKEN * longest)
        if not ids:
            continue
        documents.append(ScoredDocument([shard.end_of_text, *ids], size, names[int(shard.document_sources[index])]))
        remaining -= len(ids)
    if not documents:
        raise UserError(
            f"{shard.base}: no document was held out", hint="raise data.validation_fraction, or add documents to [data]"
        )
    return documents


def _stratified_order(shard: TokenShard, max_tokens: int, order: np.ndarray) -> Iterator[int]:
    """`order`, with one document of each source at the front, then more of each up to its minimum of tokens."""
    least = int(MIN_SOURCE_FRACTION * max_tokens / max(1, len(shard.sources)))
    taken = dict.fromkeys(range(len(shard.sources)), 0)
    firsts = sorted(np.unique(shard.document_sources[order], return_index=True)[1].tolist())
    rest: list[int] = []
    for index in map(int, [*order[firsts], *np.delete(order, firsts)]):
        source = int(shard.document_sources[index])
        if taken[source] >= least:
            rest.append(index)
            continue
        taken[source] += min(DOCUMENT_TOKENS, len(shard.document(index)))
        yield index
    yield from rest


def _order(shard: TokenShard, tokenizer: Tokenizer, seed: int) -> np.ndarray:
    """Indices of all documents, sorted by a hash of their beginnings."""
    beginnings = (shard.document(index)[:HASHED_TOKENS].tolist() for index in range(shard.num_documents))
    keys = [hash_fraction(tokenizer.decode(ids)[:HASHED_CHARACTERS], seed) for ids in beginnings]
    return np.argsort(keys, kind="stable")


def _truncate(tokenizer: Tokenizer, ids: list[int], limit: int) -> tuple[list[int], int]:
    """Tokens and bytes of the beginning of a document, of at most `limit` bytes, to a character boundary."""
    text = tokenizer.decode(ids[: limit + 1]).encode()
    if len(text) <= limit:
        return ids, len(text)
    ids = tokenizer.encode(text[:limit].decode(errors="ignore"))
    return ids, len(tokenizer.decode(ids).encode())
