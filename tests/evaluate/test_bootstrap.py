import numpy as np
import pytest

from groundup.evaluate import bootstrap_interval


def test_interval_depends_on_the_seed_only():
    above, below = [float(n * n) for n in range(40)], [n + 1.0 for n in range(40)]
    assert bootstrap_interval(above, below, seed=1) == bootstrap_interval(above, below, seed=1)
    assert bootstrap_interval(above, below, seed=1) != bootstrap_interval(above, below, seed=2)


def test_width_equals_the_normal_approximation():
    values = np.random.default_rng(0).normal(3.0, 1.0, size=400)
    low, high = bootstrap_interval(values.tolist(), [1.0] * 400, seed=0)  # type: ignore[misc]
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_ratio_of_sums_not_mean_of_ratios():
    low, high = bootstrap_interval([2.0, 20.0, 200.0], [1.0, 10.0, 100.0], seed=0)  # type: ignore[misc]
    assert low == pytest.approx(2.0)
    assert high == pytest.approx(2.0)


def test_one_document_has_no_interval():
    assert bootstrap_interval([1.0], [2.0], seed=0) is None


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="expected equal numbers"):
        bootstrap_interval([1.0, 2.0], [1.0], seed=0)
