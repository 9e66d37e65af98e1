"""Which held-out documents are scored: whole ones, in an order that the seed decides."""

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.evaluate.perplexity import ScoredDocument
from groundup.tokenizer import Tokenizer, TokenShard

DOCUMENT_TOKENS = 8_192
"""Of each document at most: one long book must not be most of the score."""


def sample_validation_documents(
    shard: TokenShard, tokenizer: Tokenizer, *, max_tokens: int, seed: int
) -> list[ScoredDocument]:
    """Documents drawn from `shard` until they have about `max_tokens` tokens; all of it, where it has fewer.

    Each is scored after an end of text, as it stood in training. The end of text behind it is not scored: it
    stands for no bytes (the convention of the field, which makes scores comparable).
    Raises UserError when the shard has no text, or was written by another tokenizer.
    """
    shard.check_tokenizer(tokenizer)
    names = list(shard.sources)
    documents: list[ScoredDocument] = []
    left = max_tokens
    for index in np.random.default_rng(seed).permutation(shard.num_documents):
        if left <= 0:
            break
        ids = _truncate(tokenizer, shard.document(int(index))[:-1].tolist())
        if not ids:
            continue
        size = len(tokenizer.decode(ids).encode())
        documents.append(
            ScoredDocument([shard.end_of_text, *ids], size, names[int(shard.document_sources[index])])
        )
        left -= len(ids)
    if not documents:
        raise UserError(
            f"{shard.base}: no held-out text to score",
            hint="raise data.validation_fraction, or add text to [data]",
        )
    return documents


def _truncate(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """At most DOCUMENT_TOKENS tokens that end with a whole character, so that their bytes can be counted."""
    if len(ids) <= DOCUMENT_TOKENS:
        return ids
    ids = ids[:DOCUMENT_TOKENS]
    while ids and tokenizer.decode(ids[-8:]).endswith("\ufffd"):
        ids = ids[:-1]
    return ids
