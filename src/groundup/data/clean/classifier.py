"""Quality classifier: a linear model over hashed words and word pairs, trained on the user's examples.

fastText's supervised mode without the hidden layer (Joulin et al. 2016), trained by AdaGrad (Duchi et al. 2011):
a million weights, seconds to train.
"""

import re
from pathlib import Path

import numpy
from numpy.typing import NDArray

from groundup.data.clean.step_types import FilterFunction
from groundup.data.stable_hash import splitmix64

HASH_BITS = 20
EPOCHS = 5
LEARNING_RATE = 0.5
MAX_WORDS = 2_000
WORD = re.compile(r"\w+|[^\w\s]")


def hash_features(text: str) -> NDArray[numpy.int64]:
    """Buckets of the words and word pairs that occur in a text, in lower case."""
    words = WORD.findall(text[: 12 * MAX_WORDS].lower())[:MAX_WORDS]
    if not words:
        return numpy.zeros(0, dtype=numpy.int64)
    known = {word: _fnv1a(word) for word in dict.fromkeys(words)}
    single = numpy.array([known[word] for word in words], dtype=numpy.uint64)
    pairs = splitmix64(single[:-1] * numpy.uint64(3) + single[1:])
    hashes = numpy.concatenate([splitmix64(single), pairs])
    return numpy.unique(hashes >> numpy.uint64(64 - HASH_BITS)).astype(numpy.int64)


def train_classifier(positive: list[str], negative: list[str], seed: int) -> NDArray[numpy.float32]:
    """Weights (2**20 + 1; the last is the bias). Deterministic in texts and seed."""
    examples = [(hash_features(text), 1.0) for text in positive]
    examples += [(hash_features(text), 0.0) for text in negative]
    class_weights = {1.0: 0.5 / max(len(positive), 1), 0.0: 0.5 / max(len(negative), 1)}
    weights = numpy.zeros((1 << HASH_BITS) + 1, dtype=numpy.float32)
    squares = numpy.full_like(weights, 1e-8)
    random = numpy.random.default_rng(seed)
    for _ in range(EPOCHS):
        for index in random.permutation(len(examples)):
            buckets, label = examples[index]
            if len(buckets) == 0:
                continue
            slope = (_probability(weights, buckets) - label) * class_weights[label] * len(examples)
            gradient = slope / numpy.sqrt(len(buckets))
            for indices in (buckets, numpy.array([1 << HASH_BITS])):
                squares[indices] += gradient**2
                weights[indices] -= LEARNING_RATE * gradient / numpy.sqrt(squares[indices])
    return weights


def _probability(weights: NDArray[numpy.float32], buckets: NDArray[numpy.int64]) -> float:
    score = float(weights[buckets].sum()) / float(numpy.sqrt(len(buckets))) + float(weights[-1])
    return 1.0 / (1.0 + float(numpy.exp(-numpy.clip(score, -30, 30))))


def _fnv1a(word: str) -> int:
    value = 0xCBF29CE484222325
    for byte in word.encode("utf-8", "surrogatepass")[:32]:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def quality_score(weights: NDArray[numpy.float32], text: str) -> float:
    """Probability of the positive class; 0.5 for a text without words."""
    buckets = hash_features(text)
    return _probability(weights, buckets) if len(buckets) else 0.5


def classifier_filter(path: Path, threshold: float) -> FilterFunction:
    """Filter with trained weights; reason "low_score"."""
    weights = numpy.load(path, allow_pickle=False)
    return lambda text: None if quality_score(weights, text) >= threshold else "low_score"
