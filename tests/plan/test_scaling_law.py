"""The law through small models: it finds the law that made the points, and its bounds hold as often as they say."""

import numpy as np
import pytest

from groundup.artifacts.errors import UserError
from groundup.plan import scaling_law

SIZES = [1e6, 2e6, 4e6, 8e6, 16e6]


def losses(sizes, floor=0.8, scale=0.6, exponent=0.3):
    return [floor + scale * (size / 4e6) ** -exponent for size in sizes]


def test_points_on_a_law_give_that_law():
    fitted = scaling_law.fit_scaling_law(SIZES, losses(SIZES))
    typical = fitted.medians()
    assert typical["exponents"] == pytest.approx(0.3, abs=0.01)
    assert typical["floors"] == pytest.approx(0.8, abs=0.02)
    far = fitted.predict(1e9)
    assert far["loss"] == pytest.approx(losses([1e9])[0], abs=0.02)
    assert far["low"] <= far["loss"] <= far["high"]


def test_the_bounds_hold_as_often_as_they_say():
    rng = np.random.default_rng(3)
    held, trials = 0, 150
    for _ in range(trials):
        noisy = [loss + rng.normal(0, 0.01) for loss in losses(SIZES)]
        bounds = scaling_law.fit_scaling_law(SIZES, noisy).predict(64e6)
        held += bounds["low"] <= losses([64e6])[0] <= bounds["high"]
    assert 0.8 < held / trials <= 1.0, "90% was promised; few points may make it cautious, never bold"


def test_noise_widens_the_bounds_and_distance_too():
    calm = scaling_law.fit_scaling_law(SIZES, losses(SIZES)).predict(64e6)
    jitter = [loss + sign * 0.02 for loss, sign in zip(losses(SIZES), (1, -1, 1, -1, 1), strict=True)]
    noisy = scaling_law.fit_scaling_law(SIZES, jitter)
    near, far = noisy.predict(16e6), noisy.predict(1e9)
    assert near["high"] - near["low"] > calm["high"] - calm["low"]
    assert far["high"] - far["low"] > near["high"] - near["low"]


def test_same_points_same_law():
    assert scaling_law.fit_scaling_law(SIZES, losses(SIZES)) == scaling_law.fit_scaling_law(
        SIZES, losses(SIZES)
    )


def test_what_is_no_law_is_refused():
    with pytest.raises(UserError, match="needs 4 sizes, and there are 3"):
        scaling_law.fit_scaling_law(SIZES[:3], losses(SIZES[:3]))
    with pytest.raises(UserError, match="does not fall with size"):
        scaling_law.fit_scaling_law(SIZES, [1.0, 1.2, 1.4, 1.6, 1.8])


def test_the_largest_rung_is_predicted_from_the_others():
    check = scaling_law.holdout_check(SIZES, losses(SIZES))
    assert check is not None
    assert check["parameters"] == 16e6
    assert check["loss"] == pytest.approx(check["reached"], abs=0.02)
    assert scaling_law.holdout_check(SIZES[:4], losses(SIZES[:4])) is None
