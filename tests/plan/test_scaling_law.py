"""Scaling law: recovery of exact laws, interval coverage, errors."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.plan.scaling import scaling_law

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


@pytest.mark.parametrize(
    ("sizes", "values", "message"),
    [
        (SIZES, [2.0] * 5, r"losses of all 5 sizes are equal \(2\): the loss does not fall"),
        (SIZES, [2.0, 1.9, math.nan, 1.7, 1.6], "loss 3 of 5 is nan, expected a finite number above 0"),
        (SIZES, [2.0, 1.9, 1.8, 1.7, -math.inf], "loss 5 of 5 is -inf"),
        (SIZES, [2.0, 1.9, 1.8, 1.7, 0.0], "loss 5 of 5 is 0.0"),
        (SIZES, [2.0, None, 1.8, 1.7, 1.6], "loss 2 of 5 is None"),
        ([1e6, 2e6, 0.0, 8e6], losses(SIZES[:4]), "model size 3 of 4 is 0.0"),
        ([1e6, 2e6, math.inf, 8e6], losses(SIZES[:4]), "model size 3 of 4 is inf"),
        (SIZES, losses(SIZES[:4]), "5 model sizes and 4 losses"),
        ([], [], "0 distinct model sizes"),
        ([1e6, 1e6 * (1 + 1e-12), 2e6, 4e6], [2.0, 1.9, 1.8, 1.7], "3 distinct model sizes"),
    ],
)
def test_points_that_no_law_fits_are_one_error(sizes, values, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=message):
            scaling_law.fit_scaling_law(sizes, values)


@given(
    st.lists(st.tuples(st.floats(1.0, 1e15), st.floats(1e-6, 1e6)), min_size=3, max_size=8), st.sampled_from([0.0, 1.0])
)
@settings(max_examples=50, deadline=None)
def test_any_finite_points_give_a_law_or_an_error(points, same):
    sizes, values = [size for size, _ in points], [loss if same else 1.0 for _, loss in points]
    try:
        predicted = scaling_law.fit_scaling_law(sizes, values).predict(1e9)
    except UserError:
        return
    assert all(map(math.isfinite, predicted.values()))


@pytest.mark.parametrize("parameters", [0.0, -1.0, math.nan, math.inf])
def test_prediction_for_a_size_that_is_none(parameters):
    with pytest.raises(UserError, match="expected a finite number above 0"):
        scaling_law.fit_scaling_law(SIZES, losses(SIZES)).predict(parameters)


def test_holdout_check():
    check = scaling_law.holdout_check(SIZES, losses(SIZES))
    assert check is not None
    assert check["parameters"] == 16e6
    assert check["loss"] == pytest.approx(check["observed"], abs=0.02)
    assert scaling_law.holdout_check(SIZES[:4], losses(SIZES[:4])) is None
