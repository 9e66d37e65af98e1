"""Derivation of a complete recipe: model size, tokens, batch, steps, layout and cost."""

import math
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.checks.engine_support import check_engine_machine
from groundup.plan.checks.feasibility import check_devices, check_hours, check_passes
from groundup.plan.cost.run_cost import budget_cost
from groundup.plan.defaults.training_knobs import derive_stopping, derive_training, require_derived, training_seconds_of
from groundup.plan.hardware import device_spec
from groundup.plan.layout.communication import StepSpec
from groundup.plan.layout.layout_search import LayoutCandidate, LayoutSearch, other_precision, search_layouts
from groundup.plan.layout.parallel_layout import check_layout, complete_layout, planned_devices
from groundup.plan.layout.tuning_layout import describe_tuning_devices
from groundup.plan.memory.deployment_estimate import inference_memory
from groundup.plan.memory.memory_estimate import ActivationCheckpointing, MemoryEstimate, device_kind
from groundup.plan.memory.memory_fit import fit_device_memory
from groundup.plan.scaling.compute_optimal import compute_optimal_size
from groundup.plan.shape.model_shape import largest_model_within, mixture_for_parameters, shape_for_parameters
from groundup.plan.shape.parameter_count import ParameterCounts, count_parameters, training_flops_per_token
from groundup.plan.time.run_time import RunTime, estimate_run_time
from groundup.plan.time.step_time import estimate_step_time
from groundup.plan.time.training_speed import TrainingSpeed, is_cpu
from groundup.recipe import ModelConfig, Recipe, build_model_config
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.recipe import BudgetConfig, PartialModelConfig
from groundup.recipe.train_config import TrainConfig

SECONDS_PER_HOUR = 3600
MONEY_SHARE = 0.99
"""Of the money that a plan aims at: a plan meets its time within 1%, and its cost is not to exceed the money."""
VOCAB_MULTIPLE = 64
"""The vocabulary is padded to a multiple of this, for fast matrix products."""
MAX_EPOCHS = 4
"""Passes over the training text, at most, unless the recipe sets train.tokens or train.steps: up to 4, repeated text is
almost worth new text (Muennighoff et al. 2023, Scaling Data-Constrained Language Models, section 6)."""
DATA_LIMITED_FRACTION = 0.9
"""A plan that uses less of the compute than this is limited by the text."""
MAX_ROUNDS = 4
"""Of deriving size and tokens again for the time that their layout takes."""


@dataclass(frozen=True)
class Plan:
    """A recipe with all knobs derived, and its cost. Without [train] there is no cost; without [base], only the recipe.

    Attributes:
        data_tokens: tokens of training text; None: not known.
        data_limited: whether the budget allows more training than the text does.
        data_estimated: whether `data_tokens` is an estimate from file sizes.
        run_time: `seconds` by what they are spent on.
        free_seconds: of the steps, on devices that wait for nothing.
    """

    recipe: Recipe
    parameters: ParameterCounts | None = None
    memory: MemoryEstimate | None = None
    total_flops: float = 0.0
    seconds: float = 0.0
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    micro_batch: int = 1
    data_tokens: int | None = None
    data_limited: bool = False
    data_estimated: bool = False
    activation_checkpointing: ActivationCheckpointing = "none"
    run_time: RunTime = field(default_factory=lambda: RunTime(0.0))
    free_seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The plan as JSON values: for `plan --json`, plan.json and the report."""
        summary: dict[str, Any] = {"name": self.recipe.name, "seed": self.recipe.seed}
        summary["budget"] = self.recipe.budget.model_dump(mode="json")
        if self.parameters is None:
            return summary
        summary["model"] = resolved_model_config(self.recipe).model_dump(mode="json", exclude_none=True)
        summary["parameters"] = asdict(self.parameters)
        summary["inference"] = inference_memory(resolved_model_config(self.recipe), self.parameters)
        if devices := dict(describe_tuning_devices(self.recipe)):
            summary["tuning_devices"] = devices
        if self.recipe.base is not None:
            summary["base"] = self.recipe.base.model_dump(mode="json")
        if self.memory is None or self.recipe.train is None:
            return summary
        train = self.recipe.train
        summary["train"] = train.model_dump(mode="json")
        summary["tokens_per_parameter"] = require_derived(train.tokens, "train.tokens") / self.parameters.active
        summary["memory"] = asdict(self.memory) | {
            "total": self.memory.total,
            "activations_by_layer": list(self.memory.activations_by_layer),
        }
        summary["layout"] = {
            "devices": planned_devices(self.recipe), "shards": (self.layout.shard or 1) * self.layout.context,
            "tensor": self.layout.tensor, "pipeline": self.layout.pipeline, "replicate": self.layout.replicate,
            "context": self.layout.context, "expert": self.layout.expert,
            "micro_batch": self.micro_batch, "activation_checkpointing": self.activation_checkpointing,
        }  # fmt: skip
        if self.data_tokens is not None:
            epochs = summary["train"]["tokens"] / self.data_tokens
            summary["data"] = {"tokens": self.data_tokens, "epochs": epochs, "limited": self.data_limited}
            summary["data"]["estimated"] = self.data_estimated
        summary["total_flops"] = self.total_flops
        summary["hours"] = self.seconds / SECONDS_PER_HOUR
        summary["run_time"] = asdict(self.run_time)
        cost = budget_cost(summary["hours"], self.recipe.budget)
        summary["cost"], summary["run_cost"] = cost.total, asdict(cost)
        return summary


def derive(
    recipe: Recipe, data_tokens: int | None = None, base_config: ModelConfig | None = None, *, with_hints: bool = True
) -> Plan:
    """Derive every knob that `recipe` leaves open; what is set stays. The knobs of [finetune] follow from its data: its stage.

    With `data_tokens`, the tokens of one pass over the training text, a derived training reads it MAX_EPOCHS times at
    most, and the model is not larger than that is worth. `base_config`: of the model of [base], if the recipe has one.
    `with_hints`: whether a training that does not fit names a layout that would, which can take a second to find.

    >>> from groundup.recipe import parse_recipe
    >>> plan = derive(parse_recipe({"name": "x", "budget": {"hours": 1}, "model": {"vocab_size": 4096}, "train": {}}))
    >>> plan.recipe.train.batch_tokens, plan.parameters.total
    (16384, 836448)

    Raises UserError if the recipe contradicts itself or does not fit the hardware.
    """
    if recipe.base is not None and base_config is None:
        raise ValueError("a recipe with [base] needs the configuration of its model: stage_runs.derive_recipe reads it")
    recipe = _leave_out_held_out(recipe)
    if recipe.train is None:
        return Plan(recipe) if base_config is None else _plan_base(recipe, base_config)
    budget, device = recipe.budget, device_spec(recipe.budget.hardware)
    speed = TrainingSpeed(device, budget.devices, budget.relative_speed)
    limit = budget_seconds(budget)
    plan = _derive_at(recipe, speed, limit, data_tokens, base_config, with_hints=with_hints)
    for _ in range(MAX_ROUNDS):
        # Before a layout is known, size and tokens are derived for devices that wait for nothing.
        ratio = plan.seconds / plan.free_seconds
        if (
            limit is None
            or abs(plan.seconds / limit - 1) < 0.01
            or abs(ratio * speed.relative / budget.relative_speed - 1) < 0.005
        ):
            break
        speed = replace(speed, relative=budget.relative_speed / ratio)
        plan = _derive_at(recipe, speed, limit, data_tokens, base_config, with_hints=with_hints)
    train = plan.recipe.train
    assert train is not None
    assert plan.parameters is not None
    is_derived = recipe.train.tokens is None and recipe.train.steps is None
    check_passes(require_derived(train.tokens, "train.tokens"), data_tokens)
    check_hours(recipe, train, plan.parameters.total, plan.seconds, limit, is_derived)
    return plan


def _derive_at(
    recipe: Recipe, speed: TrainingSpeed, seconds: float | None, data_tokens: int | None, base_config: ModelConfig | None,
    *, with_hints: bool,
) -> Plan:  # fmt: skip
    """The plan of a recipe whose size and tokens, where they follow from `seconds`, are derived at `speed`."""
    budget, device = recipe.budget, speed.device
    assert recipe.train is not None
    is_derived = recipe.train.tokens is None and recipe.train.steps is None
    max_tokens = MAX_EPOCHS * data_tokens if data_tokens and is_derived else None
    config = base_config or _derive_model(recipe, speed, seconds, max_tokens)
    parameters = count_parameters(config)
    train = derive_training(recipe.train, budget, config, speed, seconds, parameters, max_tokens)
    train = derive_stopping(train, data_tokens)
    sequence_length = require_derived(train.sequence_length, "train.sequence_length")
    compute = require_derived(train.tokens, "train.tokens") * training_flops_per_token(config, sequence_length)
    check_engine_machine(recipe.machine, train)
    sequences = require_derived(train.batch_tokens, "train.batch_tokens") // sequence_length
    check_devices(recipe, sequences, sequence_length)
    layout = complete_layout(recipe.machine.layout, planned_devices(recipe))
    check_layout(layout, config, train)
    memory, micro_batch, checkpointing = fit_device_memory(
        config, train, layout, recipe.machine, device, device_kind(budget.hardware), with_hints=with_hints
    )
    model = PartialModelConfig(**config.model_dump())
    resolved = recipe.model_copy(update={"train": train, "model": model})
    run_time = _run_time(resolved, config, layout, micro_batch, checkpointing, parameters.total)
    tokens = require_derived(train.tokens, "train.tokens")
    if seconds is None:
        optimal = int(budget.tokens_per_parameter * parameters.active)
        is_limited = max_tokens is not None and compute < DATA_LIMITED_FRACTION * 6 * parameters.active * optimal
    else:
        is_limited = max_tokens is not None and run_time.total < DATA_LIMITED_FRACTION * seconds
    return Plan(
        resolved, parameters, memory, compute, run_time.total, layout, micro_batch, data_tokens, is_limited,
        activation_checkpointing=checkpointing, run_time=run_time,
        free_seconds=training_seconds_of(train, config, tokens, replace(speed, relative=budget.relative_speed)),
    )  # fmt: skip


def _run_time(
    recipe: Recipe, config: ModelConfig, layout: LayoutConfig, micro_batch: int, checkpointing: ActivationCheckpointing,
    parameters: int,
) -> RunTime:  # fmt: skip
    """Time of training: on CPUs of its steps, on accelerators with communication, checkpoints and restarts."""
    train, budget = recipe.train, recipe.budget
    assert train is not None
    length, batch = require_derived(train.sequence_length, ""), require_derived(train.batch_tokens, "")
    tokens, steps = require_derived(train.tokens, ""), require_derived(train.steps, "")
    device = device_spec(budget.hardware)
    if is_cpu(device):
        speed = TrainingSpeed(device, budget.devices, budget.relative_speed)
        return RunTime(speed.training_seconds(config, length, tokens, batch))
    data_ranks = layout.replicate * (layout.shard or 1)
    sequences = max(1, batch // length // data_ranks)
    compute_bytes = 4 if train.precision == "float32" else 2
    spec = StepSpec(sequences, length, max(1, sequences // micro_batch), compute_bytes, checkpointing)
    step = estimate_step_time(config, layout, spec, device, train.precision).total / budget.relative_speed
    return estimate_run_time(
        step * tokens / (batch * steps), steps, batch, layout.num_devices, parameters,
        evaluate_every=require_derived(train.evaluate_every, ""),
        checkpoint_seconds=60 * recipe.machine.checkpoint_every_minutes,
        data_ranks=data_ranks, machines=-(-layout.num_devices // device.devices_per_machine),
    )  # fmt: skip


def budget_seconds(budget: BudgetConfig) -> float | None:
    """Seconds that the hours and the money of a budget allow, the smaller of both; None: neither is set."""
    limits = [] if budget.hours is None else [budget.hours * SECONDS_PER_HOUR]
    if budget.cost is not None:
        per_hour = budget_cost(1.0, budget).total
        if per_hour == 0:
            raise UserError("budget.cost with a price of 0: money does not limit the training", hint="set budget.hours")
        limits.append(MONEY_SHARE * budget.cost / per_hour * SECONDS_PER_HOUR)
    return min(limits, default=None)


def _leave_out_held_out(recipe: Recipe) -> Recipe:
    """`recipe`, whose text leaves out the conversations that fine-tuning holds out."""
    data, finetune = recipe.data, recipe.finetune
    if data is None or data.held_out_conversations is not None or finetune is None or not finetune.conversations:
        return recipe
    if all(source.kind != "gettext" and source.text_column == "text" for source in data.sources):
        return recipe
    update = {"held_out_conversations": finetune.validation_fraction}
    return recipe.model_copy(update={"data": data.model_copy(update=update)})


def _plan_base(recipe: Recipe, config: ModelConfig) -> Plan:
    """The plan of a recipe with [base] and without [train]."""
    model = PartialModelConfig(**config.model_dump())
    return Plan(recipe.model_copy(update={"model": model}), count_parameters(config))


def _derive_model(recipe: Recipe, speed: TrainingSpeed, seconds: float | None, max_tokens: int | None) -> ModelConfig:
    """The model: of the size that the recipe sets, or the largest that its budget can train."""
    fixed = recipe.model.model_dump(exclude_none=True)
    vocab_size = fixed.get("vocab_size") or _vocab_size(recipe)
    train, budget = recipe.train or TrainConfig(), recipe.budget
    if fixed.get("hidden_size"):
        for name in ("parameters", "total_parameters"):
            if (value := getattr(budget, name)) is not None:
                raise UserError(
                    f"budget.{name} = {value:g} and model.hidden_size = {fixed['hidden_size']}: both set the size of the model",
                    hint="leave one of them out",
                )
    elif (size := _wanted_parameters(budget, train)) is not None:
        if budget.total_parameters is not None and budget.total_parameters > size:
            return mixture_for_parameters(size, budget.total_parameters, vocab_size, fixed)
        return shape_for_parameters(size, vocab_size, fixed)
    elif seconds is None:
        raise UserError(
            "model size is not set",
            hint="set budget.hours, cost, compute or parameters, or train.tokens, or model.hidden_size and model.num_layers",
        )
    return largest_model_within(
        math.inf if seconds is None else seconds, partial(training_seconds_of, train, speed=speed),
        budget.tokens_per_parameter, vocab_size, fixed, train.tokens, max_tokens,
    )  # fmt: skip


def _wanted_parameters(budget: BudgetConfig, train: TrainConfig) -> float | None:
    """Parameters that the recipe asks for, or those for its compute or its tokens; None: time or money sets them."""
    if budget.parameters is not None:
        return budget.parameters
    if budget.compute is not None:
        return compute_optimal_size(budget.compute, budget.tokens_per_parameter)[0]
    if budget.hours is None and budget.cost is None and train.tokens is not None:
        return train.tokens / budget.tokens_per_parameter
    return None


def resolved_model_config(recipe: Recipe) -> ModelConfig:
    """The model of a derived recipe."""
    return build_model_config(recipe.model.model_dump(exclude_none=True))


def _vocab_size(recipe: Recipe) -> int:
    if recipe.tokenizer is None:
        raise UserError("vocabulary size is not set", hint="set model.vocab_size, or add [tokenizer]")
    return -(-recipe.tokenizer.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def search_recipe_layouts(recipe: Recipe) -> tuple[LayoutSearch, LayoutCandidate | None]:
    """The layouts of a recipe's devices for its training, and the best one in 8-bit floats; layout and memory need not fit.

    Model and batch are derived as for one device, so that the question does not depend on the layout of the recipe.
    """
    if recipe.train is None or recipe.base is not None:
        raise UserError("--layouts is for pretraining, and the recipe has no [train] table", hint="add a [train] table")
    device, budget = device_spec(recipe.budget.hardware), recipe.budget
    speed = TrainingSpeed(device, budget.devices, budget.relative_speed)
    seconds = budget_seconds(budget)
    config = _derive_model(recipe, speed, seconds, None)
    train = derive_training(recipe.train, budget, config, speed, seconds, count_parameters(config), None)
    search = search_layouts(
        config, train, device, planned_devices(recipe), micro_batch_size=recipe.machine.micro_batch_size
    )
    return search, other_precision(search.best, config, train, device)
