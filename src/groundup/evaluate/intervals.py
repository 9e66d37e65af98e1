"""Confidence intervals of scores: shares of right answers, ratios of sums over documents, differences of paired shares.

All are formulas: no resampling, no seed. Items of one cluster (questions about one document, copies of one question) are
not independent; only the clusters are. `tests/evaluate/test_intervals.py` shows the coverage by simulation.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Probability that an interval covers the value that more data would give."""

NORMAL_QUANTILE = 1.959964
"""Of a standard normal variable: two-sided, at LEVEL."""

POWER, POWER_QUANTILE = 0.8, 0.841621
"""Probability of seeing the smallest visible difference, and its one-sided normal quantile."""

Array = NDArray[np.float64]


def share_interval(correct: Sequence[float], clusters: Sequence[Hashable] | None = None) -> list[float]:
    """[low, high] of the share of correct items: the score interval of Wilson 1927.

    With clusters, the number of items is replaced by the effective one (Kish 1965; Korn and Graubard 1998): the number of
    independent items whose share would vary as much.

    Args:
        correct: 1 or 0; one half for a tie.
        clusters: of each item; by default each item is its own.

    >>> share_interval([True, True, True])
    [0.43850266138239617, 1.0]
    """
    if not correct:
        raise ValueError("no items, expected at least one")
    hits, sizes = _cluster_sums(correct, [1.0] * len(correct), clusters)
    items = sizes.sum()
    share = hits.sum() / items
    if len(sizes) == items:
        return _wilson(share, items)
    if len(sizes) == 1:
        return _wilson(share, 1.0)
    effective = independent = items**2 / (sizes**2).sum()  # if the items of a cluster were all alike
    variance, of_independent = _ratio_variance(hits, sizes), share * (1 - share) / items
    if variance > 0 and of_independent > 0:
        effective = min(items, items * of_independent / variance)
    return _wilson(share, effective * (NORMAL_QUANTILE / student_quantile(independent - 1)) ** 2)


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> list[float] | None:
    """[low, high] of sum(numerators) / sum(denominators) over documents: Student's t with the jackknife's variance.

    The degrees of freedom are those of the effective number of documents (Kish 1965): few long documents among many short
    ones are few. None for fewer than two clusters.

    >>> ratio_interval([8.0, 9.0, 7.5], [4.0, 4.0, 4.0])
    [1.5713..., 2.5119...]
    """
    top, bottom = _cluster_sums(numerators, denominators, clusters)
    if len(top) < 2:
        return None
    ratio = top.sum() / bottom.sum()
    without_one = (top.sum() - top) / (bottom.sum() - bottom)
    variance = (len(top) - 1) / len(top) * ((without_one - without_one.mean()) ** 2).sum()
    half = student_quantile(bottom.sum() ** 2 / (bottom**2).sum() - 1) * math.sqrt(variance)
    return [float(ratio - half), float(ratio + half)]


def paired_share_interval(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """[low, high] of the share of `after` less that of `before`, of the same items: Agresti and Min 2005.

    Wald's interval after half an item is added to each of the four outcomes of a pair, so that equal answers to few
    questions do not prove equal models.

    >>> paired_share_interval([True, False], [True, False])
    [-0.69..., 0.69...]
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} items before, {len(after)} after: expected equal numbers, at least one")
    count = len(before) + 2
    changes = [float(a) - float(b) for b, a in zip(before, after, strict=True)]
    gained = 0.5 + sum(max(change, 0.0) for change in changes)
    lost = 0.5 + sum(max(-change, 0.0) for change in changes)
    difference = (gained - lost) / count
    half = NORMAL_QUANTILE * math.sqrt((gained + lost) / count - difference**2) / math.sqrt(count)
    return [max(-1.0, difference - half), min(1.0, difference + half)]


@dataclass(frozen=True)
class PairedDifference:
    """`difference` of two scores of the same items.

    Attributes:
        interval: [low, high] at LEVEL; None where the items are too few.
        smallest_visible: the true difference that such an interval would tell from none in POWER of all repetitions.
        covers_seeds: the interval is that of other training seeds too, not of these models alone.
    """

    difference: float
    interval: list[float] | None
    smallest_visible: float | None
    covers_seeds: bool

    @property
    def is_visible(self) -> bool:
        """Whether the interval excludes no difference."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def paired_difference(
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    denominators: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    is_share: bool = False,
) -> PairedDifference:
    """The score of `after` less that of `before`, paired by item. A score is sum(numerators) / sum(denominators).

    The items vary as in `ratio_interval`, shares as in `paired_share_interval`. Where an entry has several seeds, its items are
    means over them, and the variance between the seeds' scores is added (Welch 1947); an entry with one seed is taken to vary
    as the other one does.

    Args:
        before, after: numerators of each seed (S N).
        denominators: of the items (N); 1 for shares.
        is_share: numerators are from 0 to 1, and denominators 1.

    >>> paired_difference([[1, 0, 1, 0]], [[1, 1, 1, 0]], [1.0] * 4, is_share=True).difference
    0.25
    """
    first, second = (np.asarray(rows, dtype=np.float64) for rows in (before, after))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not first.shape[1]:
        raise ValueError(f"items {first.shape} before, {second.shape} after: expected equal numbers, at least one")
    changes, sizes = _cluster_sums((second.mean(axis=0) - first.mean(axis=0)).tolist(), denominators, clusters)
    total = float(sizes.sum())
    difference = centre = float(changes.sum() / total)
    effective = total**2 / float((sizes**2).sum())
    if is_share:
        items = (second.mean(axis=0) - first.mean(axis=0)).tolist()
        centre, item_variance = _share_difference_variance(items, changes, sizes)
    elif len(changes) < 2:
        return PairedDifference(difference, None, None, False)
    else:
        without_one = (total * difference - changes) / (total - sizes)
        item_variance = (len(changes) - 1) / len(changes) * float(((without_one - without_one.mean()) ** 2).sum())
    is_independent = is_share and len(changes) == len(denominators)
    item_freedom = math.inf if is_independent else max(1.0, effective - 1)
    terms = [(item_variance, item_freedom), *_seed_variances(first.sum(axis=1) / total, second.sum(axis=1) / total)]
    variance = sum(value for value, _ in terms)
    spread = sum(value**2 / freedom for value, freedom in terms if value > 0)
    quantile = (
        NORMAL_QUANTILE
        if spread == 0 and is_share
        else student_quantile(variance**2 / spread if spread > 0 else item_freedom)
    )
    error = math.sqrt(variance)
    interval = [centre - quantile * error, centre + quantile * error]
    if is_share:
        interval = [max(-1.0, interval[0]), min(1.0, interval[1])]
    return PairedDifference(difference, interval, (quantile + POWER_QUANTILE) * error, len(terms) > 1)


def _share_difference_variance(items: Sequence[float], changes: Array, sizes: Array) -> tuple[float, float]:
    """Difference and its variance after Agresti and Min's two more items, of as many independent items as the clusters are
    worth (design effect, Kish 1965).
    """
    design = 1.0
    if len(changes) < len(items):
        design = float((sizes**2).sum() / sizes.sum())  # if the items of a cluster were all alike
        mean = sum(items) / len(items)
        of_independent = sum((each - mean) ** 2 for each in items)
        if of_independent > 0:
            design = max(1.0, float(((changes - mean * sizes) ** 2).sum()) / of_independent)
    count = len(items) / design + 2
    centre = sum(items) / design / count
    return centre, ((sum(each**2 for each in items) / design + 1) / count - centre**2) / count


def _seed_variances(before: Array, after: Array) -> list[tuple[float, float]]:
    """(variance of the mean over seeds, degrees of freedom) of each entry; none where no entry has several seeds."""
    known = [(float(scores.var(ddof=1)), len(scores) - 1) for scores in (before, after) if len(scores) > 1]
    if not known:
        return []
    return [
        (float(scores.var(ddof=1)) / len(scores), len(scores) - 1) if len(scores) > 1 else known[0]
        for scores in (before, after)
    ]


@lru_cache(maxsize=1024)
def student_quantile(freedom: float) -> float:
    """Two-sided quantile of Student's t at LEVEL. Fewer degrees of freedom than one count as one.

    With t = sqrt(freedom) tan(angle), the density of the angle is cos(angle) ** (freedom - 1).

    >>> round(student_quantile(4), 3)
    2.776
    """
    freedom = max(1.0, min(freedom, 1e6))
    angles = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angles) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(math.sqrt(freedom) * math.tan(np.interp(LEVEL, below / below[-1], angles)))


def _cluster_sums(
    numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Hashable] | None
) -> tuple[Array, Array]:
    """Numerators and denominators, summed by cluster."""
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} numerators, {len(denominators)} denominators: expected equal numbers")
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if clusters is None:
        return top, bottom
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    top, bottom = (np.bincount(index, weights=values, minlength=len(numbers)) for values in (top, bottom))
    return top.astype(np.float64), bottom.astype(np.float64)


def _ratio_variance(top: Array, bottom: Array) -> float:
    """Of the ratio of sums, over clusters (linearized)."""
    errors = top - bottom * (top.sum() / bottom.sum())
    return float((errors**2).sum() * len(top) / (len(top) - 1) / bottom.sum() ** 2)


def _wilson(share: float, items: float) -> list[float]:
    square = NORMAL_QUANTILE**2 / items
    centre = (share + square / 2) / (1 + square)
    half = NORMAL_QUANTILE / (1 + square) * math.sqrt(share * (1 - share) / items + square / items / 4)
    return [float(max(0.0, centre - half)), float(min(1.0, centre + half))]
