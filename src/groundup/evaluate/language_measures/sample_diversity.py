"""Repetition and diversity of written tokens: distinct n-grams, repeated n-grams, loops.

distinct-n (Li et al. 2016, arXiv:1510.03055): different n-grams by all n-grams, over all samples. Repeated 4-grams (seq-rep-4,
Welleck et al. 2019, arXiv:1908.04319): the share of the 4-grams of a sample that it had before. Both depend on the number and
length of the samples and on the tokenizer: the same amount of held-out text is measured beside them.
"""

from collections.abc import Sequence
from typing import Any

from groundup.evaluate.intervals import ratio_interval
from groundup.generate import SamplingParams
from groundup.generate.text_completions import generate_many
from groundup.model import Decoder

DISTINCT = (1, 2, 3)
REPEATED = 4
PROMPT_TOKENS, SAMPLE_TOKENS = 16, 128


def write_samples(
    model: Decoder, texts: Sequence[Sequence[int]], stop_ids: Sequence[int], *, temperature: float, seed: int
) -> list[list[int]]:
    """Continuations of the first `PROMPT_TOKENS` tokens of texts, of at most `SAMPLE_TOKENS` tokens and the context.

    Sampled from the model's own probabilities: no top-p, no penalties.
    """
    sampling = SamplingParams(temperature=temperature, seed=seed)
    prompts = [text[:PROMPT_TOKENS] for text in texts]
    return generate_many(model, prompts, max_tokens=SAMPLE_TOKENS, sampling=sampling, stop_ids=stop_ids)


def diversity(samples: Sequence[Sequence[int]]) -> dict[str, Any]:
    """{"samples", "tokens", "distinct_1" to 3, "repeated_4grams", "repeated_4grams_interval", "longest_loop"}.

    `longest_loop` is the longest stretch of tokens, over samples, that is one block repeated without a pause.

    >>> diversity([[1, 2, 3, 1, 2, 3, 1]])["longest_loop"]
    7
    """
    result: dict[str, Any] = {"samples": len(samples), "tokens": sum(map(len, samples))}
    for n in DISTINCT:
        grams = [gram for sample in samples for gram in _ngrams(sample, n)]
        result[f"distinct_{n}"] = len(set(grams)) / len(grams) if grams else None
    counted = [grams for sample in samples if (grams := _ngrams(sample, REPEATED))]
    repeated, total = (
        [float(len(grams) - len(set(grams))) for grams in counted],
        [float(len(grams)) for grams in counted],
    )
    result["repeated_4grams"] = sum(repeated) / sum(total) if total else None
    result["repeated_4grams_interval"] = _clipped(ratio_interval(repeated, total)) if total else None
    result["longest_loop"] = max(map(longest_loop, samples), default=0)
    return result


def longest_loop(sample: Sequence[int]) -> int:
    """Tokens of the longest stretch that is a block of tokens twice or more, the last time perhaps in part.

    >>> longest_loop([7, 1, 2, 1, 2, 1, 9]), longest_loop([1, 2, 3])
    (5, 0)
    """
    longest = 0
    for period in range(1, len(sample) // 2 + 1):
        run = 0  # consecutive tokens that equal the one a period before
        for index in range(period, len(sample)):
            run = run + 1 if sample[index] == sample[index - period] else 0
            if run >= period:
                longest = max(longest, run + period)
    return longest


def _ngrams(sample: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(sample[begin : begin + n]) for begin in range(len(sample) - n + 1)]


def _clipped(interval: list[float] | None) -> list[float] | None:
    return None if interval is None else [max(0.0, interval[0]), min(1.0, interval[1])]
