"""Statistics of a vocabulary and of token shards, for the report."""

from typing import Any

from groundup.tokenizer.token_shards import TokenShard
from groundup.tokenizer.tokenizer import Tokenizer

NUM_LONGEST_TOKENS = 20
SAMPLE_CHARACTERS = 600


def vocabulary_stats(tokenizer: Tokenizer) -> dict[str, Any]:
    """Size, special tokens and the longest entries, as text."""
    ids = set(tokenizer.backend.get_vocab(with_added_tokens=True).values())  # a foreign vocabulary may skip millions
    texts = [tokenizer.decode([id]) for id in sorted(ids - tokenizer.special_ids)]
    longest = sorted((text for text in texts if text.strip()), key=lambda text: (-len(text), text))
    return {
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": {tokenizer.token(id): id for id in sorted(tokenizer.special_ids)},
        "longest_tokens": longest[:NUM_LONGEST_TOKENS],
    }


def tokenized_sample(tokenizer: Tokenizer, text: str) -> list[str]:
    """The beginning of a text, split into its tokens; tokens of one character are shown together."""
    ids = tokenizer.encode(text[:SAMPLE_CHARACTERS])
    tokens: list[str] = []
    pending: list[int] = []
    for id in ids:
        pending.append(id)
        token = tokenizer.decode(pending)
        if "\ufffd" not in token or len(pending) > 8:
            tokens.append(token)
            pending = []
    return tokens


def shard_stats(shard: TokenShard) -> dict[str, Any]:
    """Counts of one split, in total and by source, with bytes per token."""
    per_source = {
        name: counts | {"bytes_per_token": round(counts["bytes"] / max(counts["tokens"], 1), 4)}
        for name, counts in shard.sources.items()
    }
    return {
        "tokens": shard.num_tokens,
        "documents": shard.num_documents,
        "bytes": shard.bytes,
        "bytes_per_token": round(shard.bytes / max(shard.num_tokens, 1), 4),
        "dtype": shard.dtype,
        "sources": per_source,
    }
