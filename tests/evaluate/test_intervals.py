"""Intervals: closed forms, and coverage by simulation."""

import math

import numpy as np
import pytest

from groundup.evaluate.intervals import (
    paired_difference,
    paired_share_interval,
    ratio_interval,
    share_interval,
    student_quantile,
)


def test_quantiles_of_student():
    table = {1: 12.706, 2: 4.303, 5: 2.571, 30: 2.042, 1000: 1.962}
    assert {freedom: student_quantile(freedom) for freedom in table} == pytest.approx(table, rel=2e-4)
    assert student_quantile(0.3) == student_quantile(1.0)


def test_share_equals_wilson():
    """Wilson 1927 for 8 of 10: the roots of (p - 0.8)² = z² p (1 - p) / 10."""
    low, high = share_interval([True] * 8 + [False] * 2)
    for root in (low, high):
        assert (root - 0.8) ** 2 == pytest.approx(1.959964**2 * root * (1 - root) / 10)
    assert share_interval([True] * 3)[0] == pytest.approx(0.4385, abs=1e-4), "all right of three proves little"


def test_copies_do_not_narrow_a_share():
    once = share_interval([1, 0, 1, 1, 0, 1])
    copies = share_interval([1, 0, 1, 1, 0, 1] * 4, clusters=list(range(6)) * 4)
    assert copies[0] <= once[0]
    assert copies[1] >= once[1]
    assert share_interval([1.0] * 50, clusters=[0] * 50) == share_interval([1.0])


def test_copies_do_not_narrow_a_ratio():
    bits, sizes = [8.0, 9.0, 7.5], [4.0, 4.5, 4.0]
    assert ratio_interval(bits * 3, sizes * 3, clusters=[0, 1, 2] * 3) == pytest.approx(ratio_interval(bits, sizes))
    assert ratio_interval([1.0], [2.0]) is None
    assert ratio_interval([1.0, 2.0], [2.0, 2.0], clusters=["a", "a"]) is None


def test_ratio_of_sums_not_mean_of_ratios():
    assert ratio_interval([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == pytest.approx([2.0, 2.0])


def test_ratio_with_equal_denominators_is_the_t_interval_of_the_mean():
    values = np.random.default_rng(0).normal(3.0, 1.0, size=20)
    half = student_quantile(19) * values.std(ddof=1) / math.sqrt(20)
    assert ratio_interval(values.tolist(), [1.0] * 20) == pytest.approx([values.mean() - half, values.mean() + half])


def test_equal_answers_to_few_questions_do_not_prove_equal_models():
    low, high = paired_share_interval([1, 0, 1], [1, 0, 1])
    assert low == pytest.approx(-high)
    assert high > 0.35
    assert paired_share_interval([0] * 100, [1] * 100)[0] > 0.9
    assert paired_share_interval([0.5, 0.5], [1.0, 0.0]) == pytest.approx(paired_share_interval([1.0, 0.0], [0.5, 0.5]))


def test_unequal_lengths_are_refused():
    for call in (ratio_interval, paired_share_interval):
        with pytest.raises(ValueError, match="expected equal numbers"):
            call([1.0, 2.0], [1.0])


REPEATS = 600
LOWEST, HIGHEST = 0.915, 1.0
"""Coverage that 600 repeats of a 95% interval show, less three standard errors."""


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize(("clusters", "largest"), [(3, 1), (3, 7), (10, 1), (30, 7), (200, 1)])
def test_coverage_of_shares(share, clusters, largest):
    """Items of a cluster have a common chance of being right, with correlation 0.3."""
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(REPEATS):
        sizes = generator.integers(1, largest + 1, clusters)
        alpha = (1 - 0.3) / 0.3
        chances = generator.beta(share * alpha, (1 - share) * alpha, clusters) if largest > 1 else share
        index = np.repeat(np.arange(clusters), sizes)
        correct = generator.random(len(index)) < (chances[index] if largest > 1 else share)
        low, high = share_interval(correct.tolist(), index.tolist())
        covered += low <= share <= high
    assert LOWEST <= covered / REPEATS <= HIGHEST


@pytest.mark.parametrize("documents", [3, 10, 100])
@pytest.mark.parametrize("spread", [0.3, 1.2])
def test_coverage_of_bits_per_byte(documents, spread):
    """Documents of very unequal sizes (lognormal), the longer ones of fewer bits per byte."""
    generator = np.random.default_rng(2)

    def draw(count):
        sizes = 2000 * np.exp(generator.normal(0, spread, count))
        return sizes * sizes**-0.05 * np.exp(generator.normal(0, 0.25, count)), sizes

    bits, sizes = draw(200_000)
    truth = bits.sum() / sizes.sum()
    covered = 0
    for _ in range(REPEATS):
        bits, sizes = draw(documents)
        low, high = ratio_interval(bits.tolist(), sizes.tolist())  # type: ignore[misc]
        covered += low <= truth <= high
    assert LOWEST <= covered / REPEATS <= HIGHEST


@pytest.mark.parametrize("items", [3, 10, 100])
def test_coverage_of_differences(items):
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(REPEATS):
        before = generator.random(items) < 0.5
        after = np.where(generator.random(items) < 0.7, before, generator.random(items) < 0.8)
        low, high = paired_share_interval(before.tolist(), after.tolist())
        covered += low <= 0.3 * (0.8 - 0.5) <= high
    assert LOWEST <= covered / REPEATS <= HIGHEST


def test_paired_shares_of_one_seed_equal_agresti_and_min():
    before, after = [1, 0, 1, 1, 0, 1, 1], [1, 1, 1, 0, 1, 1, 1]
    found = paired_difference([before], [after], [1.0] * 7, is_share=True)
    assert found.interval == pytest.approx(paired_share_interval(before, after))
    assert found.difference == pytest.approx(1 / 7)
    assert not found.covers_seeds
    assert not found.is_visible


def test_paired_ratios_of_one_seed_equal_the_t_interval():
    before, after, sizes = [8.0, 9.0, 7.5, 8.2], [7.0, 8.5, 7.4, 7.9], [4.0, 4.0, 4.0, 4.0]
    found = paired_difference([before], [after], sizes)
    assert found.interval == pytest.approx(ratio_interval(np.subtract(after, before).tolist(), sizes))
    assert paired_difference([[1.0]], [[2.0]], [1.0]).interval is None
    same = paired_difference([before], [before], sizes)
    assert (same.difference, same.interval, same.smallest_visible) == (0.0, [0.0, 0.0], 0.0)


def test_copies_do_not_narrow_a_difference():
    before, after = [1, 0, 1, 1, 0, 1, 0, 0], [1, 1, 1, 0, 1, 1, 1, 0]
    once = paired_difference([before], [after], [1.0] * 8, is_share=True).smallest_visible
    copies = paired_difference([before * 3], [after * 3], [1.0] * 24, list(range(8)) * 3, is_share=True)
    assert copies.smallest_visible >= 0.95 * once
    none = paired_difference([[1] * 24], [[1] * 24], [1.0] * 24, list(range(8)) * 3, is_share=True)
    assert none.interval[1] > paired_share_interval([1] * 8, [1] * 8)[1], "no change in few clusters proves little"


@pytest.mark.parametrize(("items", "seeds"), [(5, 1), (40, 1), (400, 1), (40, 3), (400, 5)])
@pytest.mark.parametrize("is_share", [True, False])
def test_coverage_of_paired_differences(items, seeds, is_share):
    """Items of different difficulty; seeds of different ability, where there are several."""
    generator = np.random.default_rng(2)
    covered = 0
    deviation = 0.05 if seeds > 1 else 0.0
    for _ in range(REPEATS):
        difficulty = generator.uniform(0.3, 0.9, items)
        ability = generator.normal(0, deviation, (2, seeds, 1)) + np.array([0.0, 0.06])[:, None, None]
        chance = np.clip(difficulty + ability, 0, 1)
        scores = (
            generator.random(chance.shape) < chance if is_share else chance + generator.normal(0, 0.1, chance.shape)
        )
        found = paired_difference(scores[0], scores[1], [1.0] * items, is_share=is_share)
        truth = 0.06
        covered += found.interval[0] <= truth <= found.interval[1]
    assert covered / REPEATS >= LOWEST


def test_power_at_the_smallest_visible_difference():
    """Simulated at the difference that one draw calls visible: it is seen in about 80% of the repetitions."""
    generator = np.random.default_rng(3)
    items = 300

    def draw(gain: float):
        before = generator.normal(0, 1, items)
        return paired_difference([before], [before + generator.normal(gain, 0.5, items)], [1.0] * items)

    gain = draw(0.0).smallest_visible
    assert np.mean([draw(gain).is_visible for _ in range(REPEATS)]) == pytest.approx(0.8, abs=0.08)
