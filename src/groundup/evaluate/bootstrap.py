"""How far could a score be off, only because these documents were drawn and not others?"""

from collections.abc import Sequence

import numpy

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
    """[low, high] of sum(numerators) / sum(denominators), by the percentile bootstrap over documents.

    Documents are drawn with replacement, as many as there are; the interval holds the middle `level` of what
    comes out (Efron 1979). Words within one document are alike: drawing words instead would promise too much.

    For a share of right answers the numerators are 0 or 1 and the denominators 1; for the difference of two
    models on the same documents the numerators are the differences, which makes the comparison a paired one.
    None where there are fewer than two documents: one says nothing of how much documents differ.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} numerators, {len(denominators)} denominators: expected as many")
    count = len(numerators)
    if count < 2:
        return None
    above = numpy.asarray(numerators, dtype=numpy.float64)
    below = numpy.asarray(denominators, dtype=numpy.float64)
    generator = numpy.random.default_rng(seed)
    ratios = numpy.empty(resamples)
    for i in range(resamples):
        drawn = generator.integers(0, count, size=count)
        ratios[i] = above[drawn].sum() / below[drawn].sum()
    tail = (1 - level) / 2
    return [float(edge) for edge in numpy.quantile(ratios, [tail, 1 - tail])]
