"""Scaling law: recovery of exact laws, interval coverage, errors."""

import numpy as np
import pytest

from groundup.artifacts.errors import UserError
from groundup.plan import scaling_law

SIZES = [1e6, 2e6, 4e6, 8e6, 16e6]


def losses(sizes, floor=0.8, scale=0.6, exponent=0.3):
    return [floor + scale * (size / 4e6) ** -exponent for size in sizes]


def test_fit_recovers_an_exact_law():
    fitted = scaling_law.fit_scaling_law(SIZES, losses(SIZES))
    typical = fitted.medians()
    assert typical["exponents"] == pytest.approx(0.3, abs=0.01)
    assert typical["floors"] == pytest.approx(0.8, abs=0.02)
    far = fitted.predict(1e9)
    assert far["loss"] == pytest.approx(losses([1e9])[0], abs=0.02)
    assert far["low"] <= far["loss"] <= far["high"]


def test_interval_coverage():
    rng = np.random.default_rng(3)
    inside, trials = 0, 150
    for _ in range(trials):
        noisy = [loss + rng.normal(0, 0.01) for loss in losses(SIZES)]
        bounds = scaling_law.fit_scaling_law(SIZES, noisy).predict(64e6)
        inside += bounds["low"] <= losses([64e6])[0] <= bounds["high"]
    assert 0.8 < inside / trials <= 1.0, "coverage of the 90% interval"


def test_interval_grows_with_noise_and_distance():
    calm = scaling_law.fit_scaling_law(SIZES, losses(SIZES)).predict(64e6)
    jitter = [loss + sign * 0.02 for loss, sign in zip(losses(SIZES), (1, -1, 1, -1, 1), strict=True)]
    noisy = scaling_law.fit_scaling_law(SIZES, jitter)
    near, far = noisy.predict(16e6), noisy.predict(1e9)
    assert near["high"] - near["low"] > calm["high"] - calm["low"]
    assert far["high"] - far["low"] > near["high"] - near["low"]


def test_fit_is_deterministic():
    assert scaling_law.fit_scaling_law(SIZES, losses(SIZES)) == scaling_law.fit_scaling_law(SIZES, losses(SIZES))


def test_errors():
    with pytest.raises(UserError, match="3 distinct model sizes, expected at least 4"):
        scaling_law.fit_scaling_law(SIZES[:3], losses(SIZES[:3]))
    with pytest.raises(UserError, match="does not fall with size"):
        scaling_law.fit_scaling_law(SIZES, [1.0, 1.2, 1.4, 1.6, 1.8])


def test_holdout_check():
    check = scaling_law.holdout_check(SIZES, losses(SIZES))
    assert check is not None
    assert check["parameters"] == 16e6
    assert check["loss"] == pytest.approx(check["observed"], abs=0.02)
    assert scaling_law.holdout_check(SIZES[:4], losses(SIZES[:4])) is None
