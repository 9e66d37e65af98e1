"""Memorization: whether greedy decoding goes on with the very tokens of the training text.

Extractable memorization (Carlini et al. 2023, "Quantifying Memorization Across Neural Language Models", arXiv:2202.07646): a
passage is memorized if greedy decoding after its first tokens gives its next tokens. Held-out passages are the control: what
the model continues alike there is predictable, not memorized.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from groundup.artifacts.progress import Progress
from groundup.evaluate.continuations import Pair, score_continuations
from groundup.evaluate.intervals import share_interval
from groundup.evaluate.trace.suffix_array import SuffixArray
from groundup.evaluate.trace.verbatim_spans import match_lengths
from groundup.model import Decoder
from groundup.tokenizer import TokenShard

PROMPT_TOKENS, CONTINUATION_TOKENS = 32, 32
NUM_PASSAGES = 200


def score_memorization(
    model: Decoder, train: TokenShard, held_out: TokenShard, *, seed: int, progress: Progress
) -> dict[str, Any] | None:
    """{"train" | "held_out": {"share", "interval", "passages"}} of passages of `PROMPT_TOKENS` + `CONTINUATION_TOKENS` tokens.

    None where either has no passage so long, or the context is shorter.
    """
    result: dict[str, Any] = {"prompt_tokens": PROMPT_TOKENS, "continuation_tokens": CONTINUATION_TOKENS}
    if model.config.context_length < PROMPT_TOKENS + CONTINUATION_TOKENS - 1:
        return None
    for name, shard in (("train", train), ("held_out", held_out)):
        if not (pairs := draw_passages(shard, seed)):
            return None
        # Greedy decoding gives a continuation if and only if each of its tokens is the likeliest after those before it.
        with progress.task(f"memorization, {name.replace('_', ' ')}", total=len(pairs), unit="passages") as task:
            exact = [float(score.is_greedy) for score in score_continuations(model, pairs, task)]
        result[name] = {"share": sum(exact) / len(exact), "interval": share_interval(exact), "passages": len(exact)}
    return result


def draw_passages(shard: TokenShard, seed: int) -> list[Pair]:
    """Prompts and continuations within documents: at most `NUM_PASSAGES` documents, a random place in each."""
    generator = np.random.default_rng(seed)
    length = PROMPT_TOKENS + CONTINUATION_TOKENS
    long_enough = np.flatnonzero(np.asarray(shard.document_lengths) > length)  # with the end of text
    pairs: list[Pair] = []
    for index in generator.permutation(long_enough)[:NUM_PASSAGES]:
        ids = shard.document(int(index))[:-1]
        begin = int(generator.integers(len(ids) - length + 1))
        passage = ids[begin : begin + length]
        pairs.append((passage[:PROMPT_TOKENS], passage[PROMPT_TOKENS:]))
    return pairs


def longest_overlap(index: SuffixArray, samples: Sequence[Sequence[int]]) -> int:
    """Tokens of the longest span of the samples that stands verbatim in the training text of the index."""
    return max((length for sample in samples for length in match_lengths(index, sample)), default=0)
