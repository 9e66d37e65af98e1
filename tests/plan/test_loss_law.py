"""Published scaling laws: figures of their papers, and properties that follow from their form."""

import itertools
import math

import pytest

from groundup.artifacts.errors import UserError
from groundup.plan.cost.run_cost import load_prices, run_cost
from groundup.plan.scaling import compute_optimal, loss_law
from groundup.plan.scaling.loss_law import CHINCHILLA, PUBLISHED_LAWS, REPLICATION
from groundup.plan.scaling.scaling_law import fit_scaling_law
from groundup.plan.scaling.scaling_plan import isoflop_curve, other_budgets, solve_scaling


@pytest.mark.parametrize(
    ("rule", "compute", "parameters", "tokens"),
    [  # Hoffmann et al. 2022, tables 3 and A3
        (compute_optimal.chinchilla_training_curves, 5.76e23, 67e9, 1.5e12),
        (compute_optimal.chinchilla_training_curves, 1.21e20, 1e9, 20.2e9),
        (compute_optimal.chinchilla_isoflop_profiles, 6.88e23, 67e9, 1.7e12),
        (compute_optimal.chinchilla_parametric_loss, 1.71e24, 67e9, 4.1e12),
    ],
)  # fmt: skip
def test_three_fits_of_chinchilla(rule, compute, parameters, tokens):
    size, data = rule(compute)
    assert size == pytest.approx(parameters, rel=0.1)
    assert data == pytest.approx(tokens, rel=0.12)


def test_loss_of_chinchilla():
    assert CHINCHILLA.loss(70e9, 1.4e12) == pytest.approx(1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28)
    assert CHINCHILLA.loss(70e9, 1.4e12) < CHINCHILLA.loss(280e9, 300e9)  # better than Gopher with as much compute


@pytest.mark.parametrize("law", PUBLISHED_LAWS)
def test_optimum_is_the_lowest_point_of_its_curve(law):
    size, tokens = law.optimum(1e22)
    assert 6 * size * tokens == pytest.approx(1e22)
    losses = [law.loss(size * factor, tokens / factor) for factor in (0.9, 1.0, 1.1)]
    assert min(losses) == losses[1]
    assert law.tokens_for_loss(size, losses[1]) == pytest.approx(tokens)


def test_corrected_replication_has_about_twenty_tokens_per_parameter():
    for compute in (1e21, 5.76e23):  # Besiroglu et al. 2024, section 5
        size, tokens = REPLICATION.optimum(compute)
        assert 15 < tokens / size < 30


def test_repeated_data_is_worth_less_and_less():
    unique = 1e9
    values = [loss_law.effective_tokens(factor * unique, unique) for factor in (1, 2, 4, 16, 64, 10_000)]
    gains = [b - a for a, b in itertools.pairwise(values)]
    assert values[0] == unique
    assert values[2] > 0.93 * 4 * unique  # Muennighoff et al. 2023: up to four passes are almost as good
    assert all(gain > 0 for gain in gains)
    assert values[-1] < (1 + loss_law.REPEATED_DATA_DECAY) * unique + 1
    assert loss_law.predict_published_loss(1e9, 2e10, 1e9)["loss"] > loss_law.predict_published_loss(1e9, 2e10)["loss"]


def test_more_inference_gives_a_smaller_model():
    sizes = [loss_law.overtrained_size(1e22, tokens)[0] for tokens in (1e9, 1e11, 1e13)]
    assert sizes == sorted(sizes, reverse=True)
    optimal, _ = REPLICATION.optimum(1e22)
    assert sizes[0] == pytest.approx(optimal, rel=0.05)


def test_experts_add_less_to_larger_models():
    gains = [compute_optimal.effective_parameters(size, 64) / size for size in (1e8, 1e9, 1e10, 1e13)]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] == 1.0  # beyond the size at which routing stops helping (Clark et al. 2022, section 5.3)


def test_step_law_and_vocabulary():
    assert compute_optimal.step_law_learning_rate(1e9, 1e11) == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert compute_optimal.step_law_batch_tokens(1e11) == pytest.approx(0.58 * 1e11**0.571)
    assert (
        180_000 < compute_optimal.optimal_vocabulary(70e9, 8192) < 270_000
    )  # Tao et al. 2024, table 1: 216,000 to 231,000


def test_law_of_a_ladder_keeps_its_losses():
    sizes = [1e6, 2e6, 4e6, 8e6, 16e6]
    ladder = fit_scaling_law(sizes, [0.8 + 30 * size**-0.25 for size in sizes])
    law = loss_law.loss_law_of_ladder(ladder, tokens_per_parameter=10.0)
    for size in (4e6, 1e8):
        assert law.loss(size, 10 * size) == pytest.approx(ladder.predict(size)["loss"], rel=0.02)
    size, tokens = law.optimum(1e18)
    assert tokens / size == pytest.approx(20, rel=1e-6)


@pytest.mark.parametrize(
    "question",
    [{"cost": 50_000.0}, {"hours": 100.0}, {"compute": 1e21}, {"parameters": 1.3e9}, {"tokens": 26e9},
     {"parameters": 1.1e9, "tokens": 3e12}, {}],
)  # fmt: skip
def test_any_quantity_determines_the_others(question):
    plan = solve_scaling(**question, hardware="h100", devices=8)
    for name, value in question.items():
        assert (plan.cost.total if name == "cost" else getattr(plan, name)) == pytest.approx(value)
    assert plan.compute == pytest.approx(6 * plan.parameters * plan.tokens)
    again = solve_scaling(
        hours=plan.hours, hardware="h100", devices=8, tokens_per_parameter=plan.tokens / plan.parameters
    )
    assert again.parameters == pytest.approx(plan.parameters)
    assert plan.loss["low"] < plan.loss["loss"] < plan.loss["high"]


def test_two_quantities_contradict():
    with pytest.raises(UserError, match="hours and tokens are given"):
        solve_scaling(hours=1.0, tokens=1e9)
    with pytest.raises(UserError, match="expected a finite number above 0"):
        solve_scaling(hours=math.inf)


def test_curve_of_equal_compute():
    curve = isoflop_curve(1.1e9, 3e12)  # TinyLlama: far from the optimum
    assert curve.minimum[2] <= min(curve.losses)
    assert curve.penalty > 2
    assert curve.chosen[2] == pytest.approx(REPLICATION.loss(1.1e9, 3e12))
    half, double, *_ = other_budgets(1.1e9, 3e12)
    assert half.change > 0 > double.change


def test_cost_of_rented_and_owned_devices(tmp_path):
    rented = run_cost(10, "h100", 8)
    assert rented.total == pytest.approx(load_prices()["per_hour"]["h100"]["price"] * 80)
    assert not rented.is_owned
    owned = run_cost(10, "m4-max", 1)
    assert owned.is_owned
    assert owned.total == pytest.approx(owned.energy_kwh * 0.15)
    table = tmp_path / "prices.toml"
    table.write_text(
        'currency = "EUR"\ndate = 2026-01-01\n[per_hour]\nh100 = { price = 2.0, source = "offer" }\n'
        "[electricity]\nper_kwh = 0.3\ngrams_co2_per_kwh = 50\npue = 1.1\nhost_fraction = 0.5\n"
    )
    own = run_cost(10, "h100", 8, load_prices(str(table)))
    assert (own.total, own.currency) == (160.0, "EUR")
    table.write_text(table.read_text().replace("h100", "abacus"))
    load_prices.cache_clear()
    with pytest.raises(UserError, match=r"per_hour\.abacus: unknown device"):
        load_prices(str(table))
