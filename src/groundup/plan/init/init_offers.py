"""`groundup init`: two or three plans for money, hardware and time: small now, good tonight, best for the money."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.cost.run_cost import RunCost, load_prices, run_cost
from groundup.plan.defaults.training_knobs import require_derived
from groundup.plan.derive import MONEY_SHARE, SECONDS_PER_HOUR, Plan
from groundup.plan.hardware import DEVICES, device_spec
from groundup.plan.init.init_recipe import RecipeData, check_hardware, check_hours, recipe_toml
from groundup.plan.plan_table import format_hours
from groundup.plan.scaling.expected_loss import UNIT, expected_loss

OFFER_MEANINGS = {
    "small": "now: an eighth of the time, or an hour",
    "good": "the time that you give, or tonight",
    "best": "what the money buys",
}
OPEN = "open"
"""Answer that leaves a part of the budget to the offers."""
NOW_HOURS, TONIGHT_HOURS, LONGEST_HOURS = 1.0, 8.0, 168.0
"""Hours of the plans where none are given: now, tonight, and at most a week for money."""
SMALL_FRACTION = 1 / 8
AS_GOOD = 1.005
"""Ratio of losses to expect up to which a plan on other devices is not offered."""
DEVICE_COUNTS = (1, 2, 4, 8)
"""Devices of one machine among which the best plan chooses."""


@dataclass(frozen=True)
class BudgetAnswers:
    """What is given of the budget; None: open."""

    money: float | None = None
    hardware: str | None = None
    devices: int | None = None
    hours: float | None = None


@dataclass(frozen=True)
class Offer:
    """A budget to plan for, with its name. `cost`: the money that is given, where the device is rented."""

    name: str
    hardware: str
    devices: int
    hours: float
    cost: float | None = None


@dataclass(frozen=True)
class OfferedPlan:
    """An offer with its recipe, plan, cost of pretraining, and loss to expect: "loss", "low", "high"."""

    offer: Offer
    text: str
    plan: Plan
    cost: RunCost
    loss: dict[str, float]

    @property
    def hours(self) -> float:
        return self.plan.seconds / SECONDS_PER_HOUR


def check_money(answer: Any) -> float | None:
    """An amount above 0; 0 and nothing: None. Raises UserError for anything else."""
    try:
        value = float(answer or 0)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(
            f"--money {answer}: expected a number of {load_prices()['currency']}", hint="such as 100; 0: none"
        )
    return value or None


def check_optional_hours(answer: Any) -> float | None:
    """Hours above 0; nothing: None. Raises UserError for anything else."""
    return None if answer in (None, "", OPEN) else check_hours(answer)


def check_optional_hardware(answer: Any) -> str | None:
    """The name of a device; nothing: None. Raises UserError for anything else."""
    return None if answer in (None, "", OPEN) else check_hardware(answer)


def make_offers(budget: BudgetAnswers, here: str) -> list[Offer]:
    """Offers for a budget, on the device `here` unless it names another; without money, no best one.

    >>> [(offer.name, offer.hardware, offer.hours) for offer in make_offers(BudgetAnswers(hours=2.0), "cpu-2")]
    [('small', 'cpu-2', 0.25), ('good', 'cpu-2', 2.0)]
    """
    hardware, devices = budget.hardware or here, budget.devices or 1
    affordable = _affordable_hours(budget.money, hardware, devices)
    cost = None if run_cost(1.0, hardware, devices).is_owned else budget.money
    small = NOW_HOURS if budget.hours is None else budget.hours * SMALL_FRACTION
    good = TONIGHT_HOURS if budget.hours is None else budget.hours
    offers = [
        Offer("small", hardware, devices, min(small, affordable), cost),
        Offer("good", hardware, devices, min(good, affordable), cost),
    ]
    if budget.money is not None:
        offers.append(_best_offer(budget))
    return offers


def default_offer(budget: BudgetAnswers) -> str:
    """The offer that is taken if none is named."""
    return "best" if budget.money is not None else "good" if budget.hours is not None else "small"


def _affordable_hours(money: float | None, hardware: str, devices: int) -> float:
    """Hours that the money pays, of an owned device its electricity; infinite without money, and for a device without a price."""
    price = run_cost(1.0, hardware, devices).total
    return math.inf if money is None or not price else MONEY_SHARE * money / price


def _best_offer(budget: BudgetAnswers) -> Offer:
    """The devices with which the money buys most operations in the given time, or in a week: the fewest of these."""
    assert budget.money is not None
    limit = budget.hours or LONGEST_HOURS
    names = [budget.hardware] if budget.hardware else [name for name in load_prices()["per_hour"] if name in DEVICES]
    counts = (budget.devices,) if budget.devices else DEVICE_COUNTS
    offers = [
        Offer("best", name, count, min(limit, hours), None if run_cost(1.0, name, count).is_owned else budget.money)
        for name in names
        for count in counts
        if budget.devices or count <= device_spec(name).devices_per_machine
        for hours in (_affordable_hours(budget.money, name, count),)
    ]
    return max(offers, key=lambda offer: (round(math.log(_operations(offer)), 3), -offer.devices))


def _operations(offer: Offer) -> float:
    device = device_spec(offer.hardware)
    return device.peak_flops * device.utilization * offer.devices * offer.hours


def plan_offers(
    goal: str, data: RecipeData, offers: Sequence[Offer], name: str, relative_speeds: Mapping[str, float] | None = None
) -> tuple[list[OfferedPlan], list[str]]:
    """The plans of `offers`, without those that equal a longer one, and a line for each that is not possible or no better.

    `relative_speeds`: of devices, as in budget.relative_speed. Raises UserError if no offer is possible.
    """
    plans: list[OfferedPlan] = []
    refused: list[str] = []
    error = UserError("no plan")
    for offer in offers:
        speed = (relative_speeds or {}).get(offer.hardware, 1.0)
        try:
            text, plan = recipe_toml(goal, data, offer.hardware, offer.devices, offer.hours, name, speed, offer.cost)
        except UserError as reason:
            error = reason
            refused.append(f"{offer.name} plan: {reason.message}")
            continue
        offered = _offered(offer, text, plan, data.tokens)
        if offer.name == "best" and (equal := [other for other in plans if _is_as_good(other, offered)]):
            refused.append(
                f"best plan: {offer.devices} x {offer.hardware} would be no better than the {equal[-1].offer.name} plan"
            )
            continue
        plans = [*(other for other in plans if not _is_same(offered, other)), offered]
    if not plans:
        raise error
    return plans, refused


def _offered(offer: Offer, text: str, plan: Plan, data_tokens: int | None) -> OfferedPlan:
    assert plan.parameters is not None
    assert plan.recipe.train is not None
    cost = run_cost(plan.seconds / SECONDS_PER_HOUR, offer.hardware, offer.devices)
    tokens = require_derived(plan.recipe.train.tokens, "train.tokens")
    loss = expected_loss(plan.parameters.active, tokens, None if data_tokens is None else float(data_tokens))
    return OfferedPlan(offer, text, plan, cost, loss)


def _is_same(one: OfferedPlan, other: OfferedPlan) -> bool:
    """Whether both train the same model on the same tokens on the same device: where the text is the limit."""
    assert one.plan.recipe.train is not None
    assert other.plan.recipe.train is not None
    return (
        one.offer.hardware == other.offer.hardware
        and one.plan.parameters == other.plan.parameters
        and one.plan.recipe.train.tokens == other.plan.recipe.train.tokens
    )


def _is_as_good(one: OfferedPlan, other: OfferedPlan) -> bool:
    """Whether other devices than those of `one` would reach no lower loss, as where the text is the limit."""
    return one.offer.hardware != other.offer.hardware and one.loss["loss"] <= AS_GOOD * other.loss["loss"]


def describe_offer(offered: OfferedPlan) -> dict[str, str]:
    """One column of the comparison: hardware, time, cost, parameters, text, expected loss."""
    plan, offer, cost = offered.plan, offered.offer, offered.cost
    assert plan.parameters is not None
    assert plan.recipe.train is not None
    tokens = require_derived(plan.recipe.train.tokens, "train.tokens")
    passes = f", {tokens / plan.data_tokens:.2g} passes" if plan.data_tokens else ""
    loss = offered.loss
    return {
        "hardware": f"{offer.devices} x {offer.hardware}",
        "time": format_hours(offered.hours) + (", all the text" if plan.data_limited else ""),
        "cost": f"{_amount(cost.total)} {cost.currency}" + (" of electricity" if cost.is_owned else ""),
        "parameters": _count(plan.parameters.total),
        "tokens": f"{_count(tokens)}{passes}",
        "expected loss": f"{loss['loss']:.2f} ({loss['low']:.2f} to {loss['high']:.2f}) {UNIT}",
    }


def format_offers(plans: Sequence[OfferedPlan]) -> str:
    """The plans side by side."""
    columns = [{"": offered.offer.name} | describe_offer(offered) for offered in plans]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.01 or not value else "under 0.01"


def _count(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"
