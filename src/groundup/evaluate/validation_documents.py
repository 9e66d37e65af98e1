"""Held-out documents to score: whole documents of a validation shard, of every source, in an order drawn by a seed."""

from collections.abc import Iterator

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.evaluate.likelihood import ScoredDocument
from groundup.tokenizer import Tokenizer, TokenShard

DOCUMENT_TOKENS = 8_192
"""Tokens of each document at most, so that one long book does not dominate the score; fewer where there are many sources."""

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
    for index in _stratified_order(shard, max_tokens, np.random.default_rng(seed).permutation(shard.num_documents)):
        if remaining <= 0:
            break
        ids = _truncate(tokenizer, shard.document(int(index))[:-1].tolist(), longest)
        if not ids:
            continue
        size = len(tokenizer.decode(ids).encode())
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


def _truncate(tokenizer: Tokenizer, ids: list[int], longest: int) -> list[int]:
    """At most `longest` tokens, ending at a character boundary, so that their bytes can be counted."""
    if len(ids) <= longest:
        return ids
    ids = ids[:longest]
    while ids and tokenizer.decode(ids[-8:]).endswith("\ufffd"):
        ids = ids[:-1]
    return ids
