"""Derivation of a complete recipe: model size, tokens, batch, steps, layout and cost."""

import math
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.compute_optimal import optimal_batch_tokens, optimal_learning_rate
from groundup.plan.engine_support import check_engine_machine
from groundup.plan.hardware import device_spec
from groundup.plan.memory_estimate import (
    ActivationCheckpointing,
    DeviceKind,
    MemoryEstimate,
    device_kind,
    estimate_training_memory,
)
from groundup.plan.model_shape import largest_model_within
from groundup.plan.parallel_layout import check_layout, complete_layout, planned_devices
from groundup.plan.parameter_count import ParameterCounts, count_parameters, training_flops_per_token
from groundup.plan.size_warmup import SizeWarmup
from groundup.plan.training_speed import TrainingSpeed
from groundup.plan.tuning_layout import describe_tuning_devices
from groundup.recipe import ModelConfig, Recipe, build_model_config
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.machine_config import MachineConfig
from groundup.recipe.recipe import PartialModelConfig
from groundup.recipe.train_config import TrainConfig

SECONDS_PER_HOUR = 3600
VOCAB_MULTIPLE = 64
"""The vocabulary is padded to a multiple of this, for fast matrix products."""
MAX_EPOCHS = 4
"""Passes over the training text, at most, unless the recipe sets train.tokens or train.steps: up to 4, repeated text is
almost worth new text (Muennighoff et al. 2023, Scaling Data-Constrained Language Models, section 6)."""
DATA_LIMITED_FRACTION = 0.9
"""A plan that uses less of the compute than this is limited by the text."""
EARLY_STOPPING_PATIENCE = 5
"""Evaluations without a better one, a quarter of those of a training."""
MEMORY_FRACTION = 0.9
"""Fraction of the memory of a device that a plan may use."""


@dataclass(frozen=True)
class Plan:
    """A recipe with all knobs derived, and its cost. Without [train] there is no cost; without [base], only the recipe.

    Attributes:
        data_tokens: tokens of training text; None: not known.
        data_limited: whether the budget allows more training than the text does.
        data_estimated: whether `data_tokens` is an estimate from file sizes.
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

    def summary(self) -> dict[str, Any]:
        """The plan as JSON values: for `plan --json`, plan.json and the report."""
        summary: dict[str, Any] = {"name": self.recipe.name, "seed": self.recipe.seed}
        summary["budget"] = self.recipe.budget.model_dump(mode="json")
        if self.parameters is None:
            return summary
        summary["model"] = resolved_model_config(self.recipe).model_dump(mode="json", exclude_none=True)
        summary["parameters"] = asdict(self.parameters)
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
        price = self.recipe.budget.price_per_hour
        summary["cost"] = (
            None if price is None else price * self.recipe.budget.devices * self.seconds / SECONDS_PER_HOUR
        )
        return summary


def derive(recipe: Recipe, data_tokens: int | None = None, base_config: ModelConfig | None = None) -> Plan:
    """Derive every knob that `recipe` leaves open; what is set stays. The knobs of [finetune] follow from its data: its stage.

    With `data_tokens`, the tokens of one pass over the training text, a derived training reads it MAX_EPOCHS times at
    most, and the model is not larger than that is worth. `base_config`: of the model of [base], if the recipe has one.

    >>> from groundup.recipe import parse_recipe
    >>> plan = derive(parse_recipe({"name": "x", "budget": {"hours": 1}, "model": {"vocab_size": 4096}, "train": {}}))
    >>> plan.recipe.train.batch_tokens, plan.parameters.total
    (16384, 1590656)

    Raises UserError if the recipe contradicts itself or does not fit the hardware.
    """
    if recipe.base is not None and base_config is None:
        raise ValueError("a recipe with [base] needs the configuration of its model: stage_runs.derive_recipe reads it")
    recipe = _leave_out_held_out(recipe)
    if recipe.train is None:
        return Plan(recipe) if base_config is None else _plan_base(recipe, base_config)
    budget, device = recipe.budget, device_spec(recipe.budget.hardware)
    speed = TrainingSpeed(device, budget.devices, budget.relative_speed)
    seconds = None if budget.hours is None else budget.hours * SECONDS_PER_HOUR
    is_derived = recipe.train.tokens is None and recipe.train.steps is None
    max_tokens = MAX_EPOCHS * data_tokens if data_tokens and is_derived else None
    config = base_config or _derive_model(recipe, speed, seconds, max_tokens)
    parameters = count_parameters(config)
    optimal_tokens = int(budget.tokens_per_parameter * parameters.active)
    train = _derive_training(recipe.train, config, speed, seconds, optimal_tokens, max_tokens)
    train = _derive_stopping(train, data_tokens)
    sequence_length = require_derived(train.sequence_length, "train.sequence_length")
    compute = require_derived(train.tokens, "train.tokens") * training_flops_per_token(config, sequence_length)
    check_engine_machine(recipe.machine, train)
    layout = complete_layout(recipe.machine.layout, planned_devices(recipe))
    check_layout(layout, config, train)
    memory, micro_batch, checkpointing = _fit_device_memory(
        config, train, layout, recipe.machine, device.memory_bytes, device_kind(recipe.budget.hardware)
    )
    model = PartialModelConfig(**config.model_dump())
    resolved = recipe.model_copy(update={"train": train, "model": model})
    planned_seconds = _training_seconds(train, config, require_derived(train.tokens, "train.tokens"), speed)
    if seconds is None:
        is_limited = max_tokens is not None and compute < DATA_LIMITED_FRACTION * 6 * parameters.active * optimal_tokens
    else:
        is_limited = max_tokens is not None and planned_seconds < DATA_LIMITED_FRACTION * seconds
    return Plan(
        resolved, parameters, memory, compute, planned_seconds, layout, micro_batch, data_tokens, is_limited,
        activation_checkpointing=checkpointing,
    )  # fmt: skip


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
    fixed = recipe.model.model_dump(exclude_none=True)
    vocab_size = fixed.get("vocab_size") or _vocab_size(recipe)
    train = recipe.train or TrainConfig()
    if seconds is None and not fixed.get("hidden_size"):
        raise UserError("model size is not set", hint="set budget.hours, or model.hidden_size and model.num_layers")
    return largest_model_within(
        math.inf if seconds is None else seconds, partial(_training_seconds, train, speed=speed),
        recipe.budget.tokens_per_parameter, vocab_size, fixed, train.tokens, max_tokens,
    )  # fmt: skip


def _training_seconds(train: TrainConfig, config: ModelConfig, tokens: float, speed: TrainingSpeed) -> float:
    """Seconds of training on `tokens`, in the batches of `train` or in the derived ones."""
    length = min(train.sequence_length or config.context_length, config.context_length)
    batch_tokens = train.batch_tokens or _optimal_batch(config, length, tokens)
    return speed.training_seconds(config, length, tokens, batch_tokens)


LARGE_BATCH = 2**22
"""Tokens of a batch in whose time overhead is nothing."""


def _tokens_within(train: TrainConfig, config: ModelConfig, seconds: float, speed: TrainingSpeed) -> int:
    """Tokens that training reads in `seconds`: larger budgets have larger batches, and less overhead for a token.

    Several budgets can be their own result: from above, the search ends at the largest, which has the largest batch.
    """
    length = min(train.sequence_length or config.context_length, config.context_length)
    tokens = seconds / speed.training_seconds(config, length, 1.0, LARGE_BATCH)
    for _ in range(20):
        tokens *= seconds / _training_seconds(train, config, tokens, speed)
    return int(tokens)


def _derive_training(
    train: TrainConfig, config: ModelConfig, speed: TrainingSpeed, seconds: float | None, optimal_tokens: int,
    max_tokens: int | None,
) -> TrainConfig:  # fmt: skip
    """`train` with tokens, steps, batch, sequence length, learning rate, warmup and evaluation derived."""
    sequence_length = train.sequence_length or config.context_length
    if sequence_length > config.context_length:
        raise UserError(
            f"train.sequence_length = {sequence_length}, expected at most model.context_length = {config.context_length}",
            hint=f"set model.context_length={sequence_length}",
        )
    flops_per_token = training_flops_per_token(config, sequence_length)
    tokens = train.tokens
    if tokens is None and train.steps is not None and train.batch_tokens is not None:
        tokens = train.steps * train.batch_tokens
    if tokens is None and seconds is not None:
        tokens = _tokens_within(train, config, seconds, speed)  # sizes are discrete: tokens use up the rest
    tokens = tokens or optimal_tokens
    if max_tokens is not None:
        tokens = min(tokens, max_tokens)
    batch_tokens = train.batch_tokens or _optimal_batch(config, sequence_length, tokens)
    if batch_tokens % sequence_length:
        raise UserError(
            f"train.batch_tokens = {batch_tokens} is not divisible by train.sequence_length = {sequence_length}",
            hint=f"set train.batch_tokens={max(1, round(batch_tokens / sequence_length)) * sequence_length}",
        )
    steps = train.steps or max(1, tokens // batch_tokens)
    warmup = train.batch_warmup_steps or max(1, steps // 10)
    batch = SizeWarmup(batch_tokens, train.initial_batch_tokens, warmup, "train.initial_batch_tokens")
    if train.steps is None and batch.num_doublings:
        steps = warmup + max(0, (tokens - batch.total_before(warmup)) // batch_tokens)
    has_warmup = train.initial_batch_tokens or train.initial_sequence_length
    tokens = batch.total_before(steps)
    derived = {
        "tokens": tokens,
        "steps": steps,
        "batch_warmup_steps": warmup if has_warmup else None,
        "batch_tokens": batch_tokens,
        "sequence_length": sequence_length,
        "learning_rate": train.learning_rate or float(f"{optimal_learning_rate(tokens * flops_per_token):.2g}"),
        "warmup_steps": max(1, steps // 50) if train.warmup_steps is None else train.warmup_steps,
        "evaluate_every": train.evaluate_every or max(min(steps, 25), steps // 20),
    }
    return train.model_copy(update=derived)


def _derive_stopping(train: TrainConfig, data_tokens: int | None) -> TrainConfig:
    """Repeated text is memorized sooner or later: the best weights are kept, and training stops when it does not help."""
    keep = train.keep_best_weights
    if keep is None:
        keep = data_tokens is not None and require_derived(train.tokens, "train.tokens") > data_tokens
    patience = train.early_stopping_patience or (EARLY_STOPPING_PATIENCE if keep else None)
    return train.model_copy(update={"keep_best_weights": keep, "early_stopping_patience": patience})


def resolved_model_config(recipe: Recipe) -> ModelConfig:
    """The model of a derived recipe."""
    return build_model_config(recipe.model.model_dump(exclude_none=True))


def require_derived(value: Any, name: str) -> Any:
    """`value`. Raises UserError if it is None, because the recipe was not derived."""
    if value is None:
        raise UserError(f"{name} is not set", hint="derive the recipe first: groundup.plan.derive(recipe).recipe")
    return value


def _vocab_size(recipe: Recipe) -> int:
    if recipe.tokenizer is None:
        raise UserError("vocabulary size is not set", hint="set model.vocab_size, or add [tokenizer]")
    return -(-recipe.tokenizer.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def _optimal_batch(config: ModelConfig, sequence_length: int, tokens: float) -> int:
    """Optimal tokens of a batch, rounded to a power of two of sequences, and low enough for 200 steps."""
    batch_tokens = optimal_batch_tokens(tokens * training_flops_per_token(config, sequence_length))
    batch_tokens = min(batch_tokens, tokens / 200)
    sequences = max(1, 2 ** round(math.log2(max(1.0, batch_tokens / sequence_length))))
    return sequences * sequence_length


def _fit_device_memory(
    config: ModelConfig,
    train: TrainConfig,
    layout: LayoutConfig,
    machine: MachineConfig,
    memory: float,
    kind: DeviceKind,
) -> tuple[MemoryEstimate, int, ActivationCheckpointing]:
    """Memory, micro-batch and checkpointing: no checkpointing if possible, then the largest micro-batch that fits."""
    length = require_derived(train.sequence_length, "train.sequence_length")
    batch_tokens = require_derived(train.batch_tokens, "train.batch_tokens")
    sequences = batch_tokens // length // (layout.replicate * (layout.shard or 1))
    available = MEMORY_FRACTION * memory
    choices: tuple[ActivationCheckpointing, ...] = ("none", "full")
    if machine.activation_checkpointing != "none":
        choices = (machine.activation_checkpointing,)
    for checkpointing in choices:
        micro_batch = machine.micro_batch_size or max(1, sequences)
        while micro_batch >= 1:
            need = estimate_training_memory(config, length, micro_batch, layout, checkpointing, train, kind=kind)
            if need.total <= available:
                return need, micro_batch, checkpointing
            micro_batch = 0 if machine.micro_batch_size else micro_batch // 2
    least = estimate_training_memory(
        config, length, machine.micro_batch_size or 1, layout, choices[-1], train, kind=kind
    )
    state = least.weights + least.gradients + least.optimizer
    devices = layout.num_devices
    needed = math.ceil(state * devices / max(available - least.total + state, 1e9))
    raise UserError(
        f"training needs {least.total / 1e9:.0f} GB on each of {devices} devices, expected at most {available / 1e9:.0f} GB",
        hint=f"set budget.devices={max(needed, devices + 1)}, or a smaller model.hidden_size",
    )
