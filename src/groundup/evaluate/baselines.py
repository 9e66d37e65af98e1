"""What one gets without a neural network, by counting and by compressing: a score means little without it."""

import bz2
import gzip
import lzma
import math
from collections.abc import Sequence

import numpy as np

from groundup.evaluate.perplexity import ScoredDocument
from groundup.tokenizer import TokenShard

COUNTED_TOKENS = 20_000_000
"""Training tokens that the counting models see at most, in runs spread evenly over the shard."""

SPAN_TOKENS = 1 << 16


def ngram_baselines(shard: TokenShard, documents: Sequence[ScoredDocument]) -> dict[str, float]:
    """Bits per byte of `documents` under the counts of single tokens and of pairs in the training shard.

    Unigram: add-one smoothing. Bigram: interpolated with the unigram by how likely something new follows: the
    kinds of followers seen, over these and the number of times (Witten and Bell 1991, method C).
    """
    rows = _sample_spans(shard)
    size = shard.vocab_size
    singles = np.bincount(np.concatenate(rows), minlength=size).astype(np.float64)
    unigram = (singles + 1) / (singles.sum() + size)
    pairs = np.concatenate([row[:-1].astype(np.int64) * size + row[1:] for row in rows])
    keys, counts = np.unique(pairs, return_counts=True)
    seen = np.bincount(keys // size, weights=counts, minlength=size)
    kinds = np.bincount(keys // size, minlength=size)
    nats = np.zeros(2)
    for document in documents:
        ids = np.asarray(document.ids, dtype=np.int64)
        before, after = ids[document.num_context_tokens - 1 : -1], ids[document.num_context_tokens :]
        alone = unigram[after]
        wanted = before * size + after
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        together = np.where(keys[places] == wanted, counts[places], 0)
        followed = (together + kinds[before] * alone) / np.maximum(seen[before] + kinds[before], 1)
        both = np.where(seen[before] > 0, followed, alone)
        nats -= [np.log(alone).sum(), np.log(both).sum()]
    bits = nats / math.log(2) / sum(document.bytes for document in documents)
    return {"unigram": float(bits[0]), "bigram": float(bits[1])}


def compression_baselines(text: bytes) -> dict[str, float]:
    """Bits per byte of a text as one file, at each program's best setting; they have seen no other text."""
    packed = {
        "gzip": len(gzip.compress(text, compresslevel=9, mtime=0)),
        "bzip2": len(bz2.compress(text, compresslevel=9)),
        "xz": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
    }
    return {name: 8 * size / len(text) for name, size in packed.items()}


def _sample_spans(shard: TokenShard) -> list[np.ndarray]:
    """All of the shard, or runs of RUN tokens spread evenly over it."""
    if shard.num_tokens <= COUNTED_TOKENS:
        return [np.asarray(shard.tokens)]
    count = COUNTED_TOKENS // SPAN_TOKENS
    begins = [(shard.num_tokens - SPAN_TOKENS) * i // (count - 1) for i in range(count)]
    return [np.asarray(shard.tokens[begin : begin + SPAN_TOKENS]) for begin in begins]
