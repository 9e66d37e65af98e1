"""Contradictions of a recipe, found before anything is built: what contradicts what, and the nearest plan that is possible."""

import math

from groundup.artifacts.errors import UserError
from groundup.plan.hardware import DeviceSpec
from groundup.plan.layout.layout_search import first_layout
from groundup.plan.layout.parallel_layout import planned_devices
from groundup.plan.plan_table import format_count, format_hours
from groundup.plan.scaling.scaling_plan import solve_scaling
from groundup.plan.time.size_warmup import SizeWarmup
from groundup.recipe import ModelConfig, Recipe
from groundup.recipe.recipe import BudgetConfig
from groundup.recipe.train_config import TrainConfig

MAX_HOURS = 24 * 366
"""Hours beyond which a plan is refused: no published training took a year."""
MAX_PASSES = 1_000
"""Passes over the training text beyond which a plan is refused; beyond 40, more passes teach nothing (Muennighoff et al. 2023,
section 6), and MAX_EPOCHS of derive.py are taken by default."""
HOURS_TOLERANCE = 1.1
"""Of the hours of the budget: sizes are discrete, and so are steps."""
MAX_DEVICES = 131_072
"""Devices up to which a possible layout is looked for."""


def check_steps(train: TrainConfig) -> None:
    """Raises UserError for knobs of [train] that contradict one another, once all are derived."""
    assert train.steps is not None
    assert train.tokens is not None
    assert train.batch_tokens is not None
    assert train.warmup_steps is not None
    if train.warmup_steps > train.steps:
        raise UserError(
            f"train.warmup_steps = {train.warmup_steps:,}, but training has {train.steps:,} steps: it would end before its "
            "peak learning rate",
            hint=f"set train.warmup_steps={max(1, train.steps // 50)}, or leave it out for 2% of the steps",
        )
    warmup = train.batch_warmup_steps or 0
    if train.batch_warmup_steps is not None and warmup > train.steps:
        raise UserError(
            f"train.batch_warmup_steps = {warmup:,}, but training has {train.steps:,} steps",
            hint=f"set train.batch_warmup_steps={max(1, train.steps // 10)}, or leave it out for 10% of the steps",
        )


def check_tokens_of_steps(train: TrainConfig, batch: SizeWarmup) -> None:
    """Raises UserError if train.tokens and train.steps of the recipe, with their batch, are not the same training."""
    if train.tokens is None or train.steps is None:
        return
    read = batch.total_before(train.steps)
    if not read <= train.tokens < read + batch.final:
        raise UserError(
            f"train.tokens = {train.tokens:,}, but train.steps = {train.steps:,} with batches of {batch.final:,} tokens read "
            f"{read:,}",
            hint=f"leave one of them out, or set train.steps={max(1, train.tokens // batch.final)}",
        )


def check_passes(tokens: int, data_tokens: int | None) -> None:
    """Raises UserError for training that reads its text absurdly often; `data_tokens`: of one pass."""
    if not data_tokens or tokens <= MAX_PASSES * data_tokens:
        return
    raise UserError(
        f"training reads {format_count(tokens)} tokens, but the text has about {format_count(data_tokens)}: "
        f"{tokens / data_tokens:,.0f} passes over it, expected at most {MAX_PASSES:,}",
        hint=f"set train.tokens={4 * data_tokens} for 4 passes, after which a model learns little more; or add text",
    )


def check_hours(
    recipe: Recipe, train: TrainConfig, parameters: float, seconds: float, limit_seconds: float | None, is_derived: bool
) -> None:
    """Raises UserError for a training longer than its budget, or than MAX_HOURS.

    `is_derived`: whether tokens or size follow from the budget, which then cannot contradict it but by discrete sizes.
    """
    budget, hours = recipe.budget, seconds / 3600
    what = f"{format_count(parameters)} parameters on {format_count(train.tokens or 0)} tokens"
    where = f"{budget.devices:,} x {budget.hardware}"
    if limit_seconds is not None and not is_derived and seconds > HOURS_TOLERANCE * limit_seconds:
        limit = limit_seconds / 3600
        fits = int((train.tokens or 0) * limit_seconds / seconds)
        knob = _limiting_knob(budget, limit)
        raise UserError(
            f"{knob}, but {what} take {format_hours(hours)} on {where}",
            hint=f"{_more_of(budget, hours)}, or train.tokens={fits} ({fits / parameters:.2g} per parameter), or leave model "
            "size and tokens out: they are derived from the budget",
        )
    if hours > MAX_HOURS:
        best = solve_scaling(
            hours=MAX_HOURS, hardware=budget.hardware, devices=budget.devices, relative_speed=budget.relative_speed,
            tokens_per_parameter=budget.tokens_per_parameter,
        )  # fmt: skip
        devices = -(-math.ceil(budget.devices * hours / (MAX_HOURS / 12)) // 8) * 8
        raise UserError(
            f"{what} take {format_hours(hours)} on {where}, expected at most a year",
            hint=f"in a year these train {format_count(best.parameters)} parameters on {format_count(best.tokens)} tokens: set "
            f"budget.parameters={best.parameters:.2g} without model size and train.tokens; a month needs {devices:,} devices",
        )


def _limiting_knob(budget: BudgetConfig, hours: float) -> str:
    if budget.hours is not None and (budget.cost is None or budget.hours <= hours * 1.001):
        return f"budget.hours = {budget.hours:g}"
    return f"budget.cost = {budget.cost:g}, which is {format_hours(hours)}"


def _more_of(budget: BudgetConfig, hours: float) -> str:
    """A budget that would be enough."""
    if budget.hours is not None:
        return (
            f"set budget.hours={math.ceil(hours)}" if hours > 10 else f"set budget.hours={math.ceil(hours * 10) / 10:g}"
        )
    return "set a larger budget.cost"


def check_devices(recipe: Recipe, sequences: int, length: int) -> None:
    """Raises UserError if no layout shares the sequences of a batch among the devices of the recipe evenly.

    Only for recipes that leave the layout open: a layout of their own is checked as it is.
    """
    layout, devices = recipe.machine.layout, planned_devices(recipe)
    inner = layout.context * layout.tensor * layout.pipeline
    if layout.shard is not None or devices % (inner * layout.replicate):
        return
    ranks = devices // inner
    if ranks <= 1 or sequences % ranks == 0:
        return
    below = next(count for count in range(min(ranks, sequences), 0, -1) if sequences % count == 0)
    above = next((count for count in range(ranks, sequences + 1) if sequences % count == 0), None)
    nearest = above if above is not None and above - ranks < ranks - below else below
    why = "more ranks than sequences" if ranks > sequences else "which do not divide evenly"
    raise UserError(
        f"budget.devices = {devices:,} with a batch of {sequences:,} sequences: {ranks:,} data-parallel ranks, {why}",
        hint=f"set budget.devices={nearest * inner}, or train.batch_tokens={-(-sequences // ranks) * ranks * length}, or "
        "machine.layout.tensor, context or pipeline, which share a sequence",
    )


def nearest_layout(config: ModelConfig, train: TrainConfig, device: DeviceSpec, devices: int) -> str:
    """A hint for a training that does not fit: the least devices and the layout with which it does.

    Counts are tried in powers of two from `devices`.
    """
    count = devices
    while count <= MAX_DEVICES:
        layout = first_layout(config, train, device, count)
        if layout is None:
            count = 1 << count.bit_length()
            continue
        sizes = {axis: getattr(layout, axis) for axis in ("shard", "context", "tensor", "pipeline", "expert")}
        knobs = {f"machine.layout.{axis}": size for axis, size in sizes.items() if size != 1 or axis == "shard"}
        knobs |= {"machine.micro_batch_size": 1, "machine.activation_checkpointing": "full"}
        sets = ", ".join(f"{name}={value}" for name, value in knobs.items())
        return f"set {sets}" if count == devices else f"set budget.devices={count}, {sets}"
    return f"no layout of up to {MAX_DEVICES:,} devices fits: a shorter train.sequence_length does"
