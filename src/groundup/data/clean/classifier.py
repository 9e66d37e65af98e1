"""Good text or bad? A linear classifier over hashed words and word pairs, as fastText's supervised mode
without its hidden layer (Joulin et al. 2016), trained by AdaGrad (Duchi et al. 2011) on the user's own
examples.

Small on purpose: a million weights, seconds to train, and its verdict is a sum that can be read.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy
from numpy.typing import NDArray

from groundup.data.clean.ngrams import splitmix64

HASH_BITS = 20
EPOCHS = 5
LEARNING_RATE = 0.5
MAX_WORDS = 2_000
WORD = re.compile(r"\w+|[^\w\s]")


def hash_features(text: str) -> NDArray[numpy.int64]:
    """The buckets of a text's words and word pairs, in lower case; counts do not matter, presence does."""
    words = WORD.findall(text[: 12 * MAX_WORDS].lower())[:MAX_WORDS]
    if not words:
        return numpy.zeros(0, dtype=numpy.int64)
    known: dict[str, int] = {}
    numbers = [known.setdefault(word, _fnv1a(word)) if word not in known else known[word] for word in words]
    single = numpy.array(numbers, dtype=numpy.uint64)
    pairs = splitmix64(single[:-1] * numpy.uint64(3) + single[1:])
    return numpy.unique(
        numpy.concatenate([splitmix64(single), pairs]) >> numpy.uint64(64 - HASH_BITS)
    ).astype(numpy.int64)


def train_classifier(positive: list[str], negative: list[str], seed: int) -> NDArray[numpy.float32]:
    """Weights (2**20 + 1, the last is the bias) that tell the two apart. Same texts, same seed, same bits."""
    examples = [(hash_features(text), 1.0) for text in positive] + [
        (hash_features(text), 0.0) for text in negative
    ]
    share = {
        1.0: 0.5 / max(len(positive), 1),
        0.0: 0.5 / max(len(negative), 1),
    }  # both sides weigh alike, however many they are
    weights = numpy.zeros((1 << HASH_BITS) + 1, dtype=numpy.float32)
    squares = numpy.full_like(weights, 1e-8)
    random = numpy.random.default_rng(seed)
    for _ in range(EPOCHS):
        for index in random.permutation(len(examples)):
            buckets, label = examples[index]
            if len(buckets) == 0:
                continue
            slope = (_probability(weights, buckets) - label) * share[label] * len(examples)
            gradient = slope / numpy.sqrt(len(buckets))
            for place in (buckets, numpy.array([1 << HASH_BITS])):
                squares[place] += gradient**2
                weights[place] -= LEARNING_RATE * gradient / numpy.sqrt(squares[place])
    return weights


def _probability(weights: NDArray[numpy.float32], buckets: NDArray[numpy.int64]) -> float:
    score = float(weights[buckets].sum()) / float(numpy.sqrt(len(buckets))) + float(weights[-1])
    return 1.0 / (1.0 + float(numpy.exp(-numpy.clip(score, -30, 30))))


def _fnv1a(word: str) -> int:
    value = 0xCBF29CE484222325  # FNV-1a: Python's own hash differs from process to process
    for byte in word.encode("utf-8", "surrogatepass")[:32]:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def quality_score(weights: NDArray[numpy.float32], text: str) -> float:
    """Probability that a text is good; 0.5 for one without a word."""
    buckets = hash_features(text)
    return _probability(weights, buckets) if len(buckets) else 0.5


def classifier_filter(path: Path, threshold: float) -> Callable[[str], str | None]:
    """A judge with the weights that training wrote."""
    weights = numpy.load(path, allow_pickle=False)

    def drop_reason(text: str) -> str | None:
        return None if quality_score(weights, text) >= threshold else "low_score"

    return drop_reason
