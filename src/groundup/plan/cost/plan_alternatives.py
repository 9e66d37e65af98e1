"""Other plans beside one: half and double the budget, and the same training on other hardware."""

import math
from dataclasses import dataclass
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.cost.run_cost import budget_cost, load_prices
from groundup.plan.defaults.training_knobs import require_derived
from groundup.plan.derive import SECONDS_PER_HOUR, Plan, derive
from groundup.plan.hardware import DEVICES
from groundup.recipe import ModelConfig, Recipe

MIN_NETWORK = 12.5e9
"""Bytes per second to other machines, one way, below which the devices of a plan must fit one machine."""
MAX_DEVICES_FACTOR = 64
"""Other hardware may need so many times the devices to hold the model."""
BUDGET_LIMITS = ("hours", "cost", "compute")
SIZES = ("parameters", "total_parameters")
"""Knobs of [budget] from which size and tokens are derived."""


@dataclass(frozen=True)
class Alternative:
    """One row of the comparison. `objection`: why it is not possible, with all figures 0."""

    name: str
    hardware: str
    devices: int
    parameters: float = 0.0
    tokens: float = 0.0
    hours: float = 0.0
    cost: float = 0.0
    memory_bytes: float = 0.0
    objection: str = ""


def budget_alternatives(
    recipe: Recipe, plan: Plan, data_tokens: int | None, base_config: ModelConfig | None = None
) -> list[Alternative]:
    """Half the budget, this plan, and double: of hours, money or compute where the recipe names them, else of tokens."""
    rows = []
    for name, factor in (("half the budget", 0.5), ("this plan", 1.0), ("double the budget", 2.0)):
        if factor == 1:
            rows.append(_row(name, plan))
            continue
        changed = _scaled(recipe, plan, factor)
        rows.append(_try(name, changed, data_tokens, base_config))
    return rows


def _scaled(recipe: Recipe, plan: Plan, factor: float) -> Recipe:
    """The recipe with `factor` times its hours, money and compute; without any, with so many times the tokens."""
    assert recipe.train is not None
    assert plan.recipe.train is not None
    budget = recipe.budget
    is_open = recipe.train.tokens is None and recipe.train.steps is None
    limits = {name: value * factor for name in BUDGET_LIMITS if (value := getattr(budget, name)) is not None}
    if limits and is_open:
        return recipe.model_copy(update={"budget": budget.model_copy(update=limits)})
    tokens = int(factor * require_derived(plan.recipe.train.tokens, "train.tokens"))
    batch = require_derived(plan.recipe.train.batch_tokens, "train.batch_tokens")
    update = {"tokens": tokens, "steps": max(1, tokens // batch), "batch_tokens": batch}
    return recipe.model_copy(
        update={
            "budget": budget.model_copy(update=dict.fromkeys(BUDGET_LIMITS)),
            "train": recipe.train.model_copy(update=update),
        }
    )


def hardware_alternatives(plan: Plan, names: tuple[str, ...] = (), limit: int = 6) -> list[Alternative]:
    """The same model and tokens on other devices: as many, or as many more as hold the model; the cheapest first.

    `names`: default: all devices with a price; where one machine does not hold them, those with a fast network. Plans are made
    in the order of price per operation, until there are `limit`.
    """
    budget = plan.recipe.budget
    listed = load_prices(budget.prices)["per_hour"]

    def price_per_operation(name: str) -> float:
        return listed[name]["price"] / (DEVICES[name].peak_flops * DEVICES[name].utilization)

    rows: list[Alternative] = []
    for name in names or sorted((name for name in listed if name in DEVICES), key=price_per_operation):
        machines = budget.devices / DEVICES[name].devices_per_machine
        if name == budget.hardware or (machines > 1 and DEVICES[name].network_bandwidth < MIN_NETWORK and not names):
            continue
        row = _on_hardware(plan, name)
        if not row.objection:
            rows.append(row)
        if len(rows) == limit:
            break
    return sorted(rows, key=lambda row: row.cost)


def _on_hardware(plan: Plan, name: str) -> Alternative:
    budget, objection = plan.recipe.budget, None
    devices = budget.devices
    while devices <= budget.devices * MAX_DEVICES_FACTOR:
        changed: dict[str, Any] = dict.fromkeys((*BUDGET_LIMITS, *SIZES, "price_per_hour"))
        changed |= {"hardware": name, "devices": devices, "relative_speed": 1.0}
        machine = plan.recipe.machine.model_copy(update={"devices": None, "device": "auto"})
        other = plan.recipe.model_copy(update={"budget": budget.model_copy(update=changed), "machine": machine})
        row = _try(DEVICES[name].label or name, other, None, None)
        if not row.objection:
            return row
        objection = row.objection
        devices *= 2
    return Alternative(name, name, budget.devices, objection=objection or "")


def _try(name: str, recipe: Recipe, data_tokens: int | None, base_config: ModelConfig | None) -> Alternative:
    try:
        return _row(name, derive(recipe, data_tokens, base_config, with_hints=False))
    except UserError as error:
        return Alternative(name, recipe.budget.hardware, recipe.budget.devices, objection=error.message)


def _row(name: str, plan: Plan) -> Alternative:
    assert plan.parameters is not None
    assert plan.memory is not None
    assert plan.recipe.train is not None
    budget, hours = plan.recipe.budget, plan.seconds / SECONDS_PER_HOUR
    cost = budget_cost(hours, budget)
    tokens = require_derived(plan.recipe.train.tokens, "train.tokens")
    return Alternative(
        name, budget.hardware, budget.devices, plan.parameters.total, tokens, hours, cost.total, plan.memory.total
    )


def unique_tokens_missing(needed: float, available: float | None, max_epochs: float) -> float:
    """New tokens that a training on `needed` tokens lacks, if text may be read `max_epochs` times.

    >>> unique_tokens_missing(140e9, 2e6, 4), unique_tokens_missing(8e6, 2e6, 4)
    (34998000000.0, 0.0)
    """
    return max(0.0, math.ceil(needed / max_epochs) - (available or 0.0))
