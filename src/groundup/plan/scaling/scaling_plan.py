"""From one of money, hours, operations, parameters, tokens or hardware to all the others, and the picture of equal compute."""

import math
from dataclasses import dataclass

from groundup.artifacts.errors import UserError
from groundup.plan.cost.run_cost import PriceTable, RunCost, load_prices, run_cost
from groundup.plan.hardware import device_spec
from groundup.plan.scaling.compute_optimal import compute_optimal_size
from groundup.plan.scaling.loss_law import (
    PUBLISHED_LAWS,
    REPLICATION,
    LossLaw,
    minimize_unimodal,
    predict_published_loss,
)

SECONDS_PER_HOUR = 3600
DEFAULT_HOURS = 24.0
"""Of a question that names nothing but hardware."""


@dataclass(frozen=True)
class ScalingPlan:
    """Compute, size, data, time, money and loss that belong together.

    Attributes:
        compute: 6 N D, in floating point operations.
        loss: "loss", "low" and "high", in `loss_unit`.
    """

    compute: float
    parameters: float
    tokens: float
    hours: float
    hardware: str
    devices: int
    cost: RunCost
    loss: dict[str, float]
    loss_unit: str


def solve_scaling(
    *,
    cost: float | None = None,
    hours: float | None = None,
    compute: float | None = None,
    parameters: float | None = None,
    tokens: float | None = None,
    hardware: str = "h100",
    devices: int = 1,
    relative_speed: float = 1.0,
    tokens_per_parameter: float = 20.0,
    unique_tokens: float | None = None,
    prices: PriceTable | None = None,
    price_per_hour: float | None = None,
    laws: tuple[LossLaw, ...] = PUBLISHED_LAWS,
) -> ScalingPlan:
    """All quantities of a training run from one of them, at `tokens_per_parameter`; from both sizes, at their own ratio.

    Without any, DEFAULT_HOURS of the hardware. Time is 6 N D at the device's utilization: `derive` counts the operations of
    a shape, and plans the layout.
    Raises UserError if more than one is given, parameters and tokens together excepted.

    >>> plan = solve_scaling(parameters=7e9, hardware="a100", devices=64)
    >>> f"{plan.tokens:.3g} tokens, {plan.compute:.3g} operations, {plan.hours:.0f} h"
    '1.4e+11 tokens, 5.88e+21 operations, 149 h'
    """
    given = {"cost": cost, "hours": hours, "compute": compute, "parameters": parameters, "tokens": tokens}
    names = [name for name, value in given.items() if value is not None]
    for name in names:
        if not 0 < (given[name] or 0) < math.inf:
            raise UserError(f"{name} = {given[name]}, expected a finite number above 0")
    if len(names) > 1 and set(names) != {"parameters", "tokens"}:
        raise UserError(
            f"{' and '.join(names)} are given: one determines the others", hint="leave out all but one of them"
        )
    device = device_spec(hardware)
    speed = device.peak_flops * device.utilization * devices * relative_speed
    prices = prices or load_prices()
    if cost is not None:
        per_hour = run_cost(1.0, hardware, devices, prices, price_per_hour).total
        if per_hour == 0:
            raise UserError(f"{hardware} costs nothing: money does not limit it", hint="give hours")
        hours = cost / per_hour
    if not names:
        hours = DEFAULT_HOURS
    if hours is not None:
        compute = hours * SECONDS_PER_HOUR * speed
    if parameters is None and tokens is not None:
        parameters = tokens / tokens_per_parameter
    elif parameters is None:
        assert compute is not None
        parameters, tokens = compute_optimal_size(compute, tokens_per_parameter)
    tokens = tokens_per_parameter * parameters if tokens is None else tokens
    compute = 6 * parameters * tokens
    hours = compute / speed / SECONDS_PER_HOUR
    return ScalingPlan(
        compute, parameters, tokens, hours, hardware, devices,
        run_cost(hours, hardware, devices, prices, price_per_hour),
        predict_published_loss(parameters, tokens, unique_tokens, laws), laws[0].unit,
    )  # fmt: skip


@dataclass(frozen=True)
class IsoFlopCurve:
    """Loss against model size at one compute: sizes and losses of a curve, its minimum, and the chosen point.

    `minimum` and `chosen`: (parameters, tokens, loss). `penalty`: compute that the chosen point wastes, as a factor above 1:
    the compute of the chosen point over that with which the optimum reaches the same loss.
    """

    compute: float
    parameters: list[float]
    losses: list[float]
    minimum: tuple[float, float, float]
    chosen: tuple[float, float, float]
    penalty: float
    unit: str


def isoflop_curve(parameters: float, tokens: float, law: LossLaw = REPLICATION, points: int = 41) -> IsoFlopCurve:
    """The curve of the compute of a plan, from a thirtieth to thirty times its size.

    >>> curve = isoflop_curve(7e9, 140e9)
    >>> round(curve.penalty, 2), curve.minimum[2] <= min(curve.losses)
    (1.0, True)
    """
    compute = 6 * parameters * tokens
    sizes = [parameters * 30 ** (2 * index / (points - 1) - 1) for index in range(points)]
    losses = [law.loss(size, compute / (6 * size)) for size in sizes]
    size, data = law.optimum(compute)
    loss = law.loss(parameters, tokens)

    def distance(other: float) -> float:
        return abs(law.loss(*law.optimum(other)) - loss)

    needed = minimize_unimodal(distance, compute / 1e4, compute * 1.01)
    minimum = (size, data, law.loss(size, data))
    return IsoFlopCurve(
        compute, sizes, losses, minimum, (parameters, tokens, loss), max(1.0, compute / needed), law.unit
    )


@dataclass(frozen=True)
class BudgetStep:
    """A budget `factor` times that of a plan: its size, tokens and loss, and the change of the loss."""

    factor: float
    parameters: float
    tokens: float
    loss: float
    change: float


def other_budgets(
    parameters: float, tokens: float, law: LossLaw = REPLICATION, factors: tuple[float, ...] = (0.5, 2.0, 4.0, 10.0)
) -> list[BudgetStep]:
    """What half, double and more of the compute would buy, at the plan's own ratio of tokens to parameters.

    >>> [round(step.change, 3) for step in other_budgets(7e9, 140e9)]
    [0.047, -0.041, -0.078, -0.12]
    """
    loss = law.loss(parameters, tokens)
    steps = []
    for factor in factors:
        size, data = parameters * math.sqrt(factor), tokens * math.sqrt(factor)
        steps.append(BudgetStep(factor, size, data, law.loss(size, data), law.loss(size, data) - loss))
    return steps
