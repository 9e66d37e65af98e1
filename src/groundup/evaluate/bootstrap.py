"""Bootstrap confidence intervals of ratios of sums, resampled over documents (Efron 1979)."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2_000
LEVEL = 0.95


def bootstrap_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> list[float] | None:
    """[low, high] of sum(numerators) / sum(denominators): the percentile bootstrap over documents.

    Accuracy: numerators 0 or 1, denominators 1. Paired comparison of two models: numerators are differences per
    document. Documents are resampled, not tokens: tokens of one document are correlated, which would make the interval
    too narrow. None for fewer than two documents.

    >>> bootstrap_interval([1, 0, 1, 1], [1, 1, 1, 1], seed=0)
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} numerators, {len(denominators)} denominators: expected equal numbers")
    count = len(numerators)
    if count < 2:
        return None
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.asarray(denominators, dtype=np.float64)
    generator = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for i in range(resamples):
        index = generator.integers(0, count, size=count)
        ratios[i] = top[index].sum() / bottom[index].sum()
    tail = (1 - level) / 2
    return [float(edge) for edge in np.quantile(ratios, [tail, 1 - tail])]
