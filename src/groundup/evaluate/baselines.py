"""Baselines in bits per byte: unigram and bigram counts, and the compressors gzip, bzip2 and xz."""

import bz2
import gzip
import lzma
import math
from collections.abc import Sequence

import numpy as np

from groundup.evaluate.likelihood import ScoredDocument
from groundup.tokenizer import TokenShard

COUNTED_TOKENS = 20_000_000
"""Training tokens counted at most, in evenly spaced spans of the shard."""

SPAN_TOKENS = 1 << 16


def ngram_baselines(shard: TokenShard, documents: Sequence[ScoredDocument]) -> dict[str, float]:
    """{"unigram", "bigram"}: bits per byte of `documents` under token counts of the training shard.

    Unigram: add-one smoothing. Bigram: interpolated with the unigram, with the weights of Witten and Bell 1991, method C:
    distinct followers / (distinct followers + occurrences).
    """
    spans = _sample_spans(shard)
    size = shard.vocab_size
    singles = np.bincount(np.concatenate(spans), minlength=size).astype(np.float64)
    unigram = (singles + 1) / (singles.sum() + size)
    pairs = np.concatenate([span[:-1].astype(np.int64) * size + span[1:] for span in spans])
    keys, counts = np.unique(pairs, return_counts=True)
    occurrences = np.bincount(keys // size, weights=counts, minlength=size)
    followers = np.bincount(keys // size, minlength=size)
    nats = np.zeros(2)
    for document in documents:
        ids = np.asarray(document.ids, dtype=np.int64)
        before, after = ids[document.num_context_tokens - 1 : -1], ids[document.num_context_tokens :]
        p_unigram = unigram[after]
        key = before * size + after
        index = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        count = np.where(keys[index] == key, counts[index], 0)
        total = occurrences[before] + followers[before]
        p_bigram = np.where(total > 0, (count + followers[before] * p_unigram) / np.maximum(total, 1), p_unigram)
        nats -= [np.log(p_unigram).sum(), np.log(p_bigram).sum()]
    bits = nats / math.log(2) / sum(document.bytes for document in documents)
    return {"unigram": float(bits[0]), "bigram": float(bits[1])}


def compression_baselines(text: bytes) -> dict[str, float]:
    """{"gzip", "bzip2", "xz"}: bits per byte of a text as one file, at the strongest setting of each."""
    sizes = {
        "gzip": len(gzip.compress(text, compresslevel=9, mtime=0)),
        "bzip2": len(bz2.compress(text, compresslevel=9)),
        "xz": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
    }
    return {name: 8 * size / len(text) for name, size in sizes.items()}


def _sample_spans(shard: TokenShard) -> list[np.ndarray]:
    """The whole shard, or evenly spaced spans of SPAN_TOKENS tokens."""
    if shard.num_tokens <= COUNTED_TOKENS:
        return [np.asarray(shard.tokens)]
    count = COUNTED_TOKENS // SPAN_TOKENS
    begins = [(shard.num_tokens - SPAN_TOKENS) * i // (count - 1) for i in range(count)]
    return [np.asarray(shard.tokens[begin : begin + SPAN_TOKENS]) for begin in begins]
