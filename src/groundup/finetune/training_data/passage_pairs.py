"""Pairs of a query and a text, cut out of one document each: search learnt without labels.

Neighbouring passages of a document are about the same thing (Neelakantan et al. 2022, Text and Code Embeddings by Contrastive
Pre-Training). In the other half of the pairs, the query is a span from the middle of its text (the inverse cloze task, Lee
et al. 2019), which is left in the text now and then, so that equal words count too.
"""

import numpy as np

from groundup.evaluate.retrieval import MIN_HALF_TOKENS
from groundup.tokenizer import Tokenizer, TokenShard

KEPT_IN_TEXT = 0.1
"""Fraction of spans that their text keeps (Lee et al. 2019, section 9.2)."""
MIN_QUERY_TOKENS = 8


class PassagePairs:
    """The pairs of the documents of `shard`; a pure function of (seed, epoch, index).

    Args:
        half_tokens: tokens of a passage: twice as many.
    """

    def __init__(self, shard: TokenShard, tokenizer: Tokenizer, half_tokens: int, seed: int):
        self.shard, self.tokenizer, self.length, self.seed = shard, tokenizer, 2 * half_tokens, seed
        lengths = shard.document_lengths.astype(np.int64) - 1  # without the end of text
        smallest = 2 * min(MIN_HALF_TOKENS, half_tokens)
        counts = np.where(lengths >= smallest, (lengths + self.length - smallest) // self.length, 0)
        self.documents = np.repeat(np.arange(len(counts)), counts)
        self.positions = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)

    def __len__(self) -> int:
        return len(self.documents)

    def pair(self, index: int, epoch: int) -> tuple[str, str]:
        """The pair of one passage, which begins elsewhere in every epoch."""
        random = np.random.default_rng((self.seed, epoch, index))
        ids = self.shard.document(int(self.documents[index]))[:-1]
        begin = int(self.positions[index]) * self.length + int(random.integers(self.length // 2)) * (epoch > 0)
        begin = min(begin, max(0, len(ids) - self.length))
        passage = ids[begin : begin + self.length].tolist()
        size = int(random.integers(min(MIN_QUERY_TOKENS, len(passage) // 2), len(passage) // 2 + 1))
        start = int(random.integers(len(passage) - size + 1)) if random.random() < 0.5 else 0
        span, rest = passage[start : start + size], passage[:start] + passage[start + size :]
        if start and random.random() < KEPT_IN_TEXT:
            rest = passage
        return self._decode(span), self._decode(rest)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids).strip("\ufffd")  # halves of characters at the cuts
