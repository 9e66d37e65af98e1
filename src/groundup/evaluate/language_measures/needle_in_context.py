"""Needle in context: whether the model finds a number that stands at some depth of a long text.

"Needle in a haystack" (Kamradt 2023) for base models, without answers to parse: a sentence with a random number is put into
held-out text, which ends with the beginning of the same sentence. The log-probability of the number there is compared with
that of other numbers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from groundup.artifacts.progress import Progress
from groundup.evaluate.continuations import Pair, score_continuations
from groundup.evaluate.intervals import share_interval
from groundup.model import Decoder
from groundup.tokenizer import Tokenizer

SENTENCE = "\nThe secret number is"
NUM_CHOICES = 8
"""The number and the others."""
NUM_TRIALS = 4
"""Of each depth and length, with numbers and text of their own."""
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the needle: 0 is the beginning of the text, 1 the place right before the question."""
LENGTH_FRACTIONS, MAX_LENGTH = (0.25, 1.0), 1_024
"""Lengths of the text: these fractions of the context, of which at most `MAX_LENGTH` tokens are used."""


def score_needles(
    model: Decoder, tokenizer: Tokenizer, texts: Sequence[Sequence[int]], *, seed: int, progress: Progress
) -> dict[str, Any] | None:
    """How often the number is the likeliest of `NUM_CHOICES`, and by how much.

    Returns {"accuracy", "interval", "chance", "items", "cells": [{"length", "depth", "accuracy", "advantage"}]}; `advantage` is
    the log-probability of the number less the mean of the others, in nats. Lengths are in tokens, with the question. None where
    the sentence takes more than half of the shortest text, or there is less held-out text than the longest one.
    """
    opening, stop = tokenizer.encode(SENTENCE), tokenizer.encode(".\n")
    haystack = [id for text in texts for id in text]
    generator = np.random.default_rng(seed)
    cells: list[tuple[int, float]] = []
    pairs: list[Pair] = []
    longest = min(model.config.cached_context_length, MAX_LENGTH)
    for length in (int(fraction * longest) for fraction in LENGTH_FRACTIONS):
        for depth in DEPTHS:
            for _ in range(NUM_TRIALS):
                numbers = generator.choice(np.arange(10_000, 100_000), NUM_CHOICES, replace=False).tolist()
                choices = [tokenizer.encode(f" {number}") for number in numbers]
                needle = [*opening, *choices[0], *stop]
                size = length - len(needle) - len(opening) - max(map(len, choices))
                if size < length // 4 or size > len(haystack):
                    continue
                begin = int(generator.integers(len(haystack) - size + 1))
                filler = haystack[begin : begin + size]
                place = round(depth * size)
                context = [*filler[:place], *needle, *filler[place:], *opening]
                cells.append((length, depth))
                pairs += [(context, choice) for choice in choices]
    if not cells:
        return None
    with progress.task("needle in context", total=len(pairs), unit="answers") as task:
        scores = score_continuations(model, pairs, task)
    logprobs = np.array([score.logprob for score in scores]).reshape(-1, NUM_CHOICES)
    right = (logprobs[:, 0] > logprobs[:, 1:].max(1)).astype(float)
    advantage = logprobs[:, 0] - logprobs[:, 1:].mean(1)
    rows = {cell: [index for index, other in enumerate(cells) if other == cell] for cell in dict.fromkeys(cells)}
    return {
        "accuracy": float(right.mean()),
        "interval": share_interval(right.tolist()),
        "chance": 1 / NUM_CHOICES,
        "items": len(cells),
        "cells": [
            {
                "length": length,
                "depth": depth,
                "accuracy": float(right[members].mean()),
                "advantage": float(advantage[members].mean()),
            }
            for (length, depth), members in rows.items()
        ],
    }
