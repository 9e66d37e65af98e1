"""From what the recipe says to everything that follows from it."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan import hardware, scaling
from groundup.plan.count import Parameters, count, training_flops_per_token
from groundup.plan.engines import check_machine
from groundup.plan.growth import Growth
from groundup.plan.layout import check, complete, planned_devices
from groundup.plan.memory import Memory, Recompute, training_memory
from groundup.plan.shape import largest_within
from groundup.recipe import ModelConfig, Recipe, complete_model
from groundup.recipe.layout import Layout
from groundup.recipe.machine import MachineSection
from groundup.recipe.recipe import ModelSection
from groundup.recipe.train import TrainSection

SECONDS_PER_HOUR = 3600
VOCABULARY_STEP = 64
"""The embedding's rows are rounded up to a multiple of this: matrix products like even sizes."""


@dataclass(frozen=True)
class Plan:
    """A recipe with nothing left open, and what it will cost."""

    recipe: Recipe
    parameters: Parameters | None = None
    memory: Memory | None = None
    compute: float = 0.0
    seconds: float = 0.0
    layout: Layout = field(default_factory=Layout)
    micro_batch: int = 1
    recompute: Recompute = "none"

    def facts(self) -> dict[str, Any]:
        """The plan as plain JSON values: for `plan --json`, for plan.json and for the report."""
        facts: dict[str, Any] = {"name": self.recipe.name, "seed": self.recipe.seed}
        facts["budget"] = self.recipe.budget.model_dump(mode="json")
        if self.parameters is None or self.memory is None or self.recipe.train is None:
            return facts
        train = self.recipe.train
        facts["model"] = model_config(self.recipe).model_dump(mode="json", exclude_none=True)
        facts["parameters"] = asdict(self.parameters)
        facts["train"] = train.model_dump(mode="json")
        facts["tokens_per_parameter"] = required(train.tokens, "train.tokens") / self.parameters.active
        facts["memory"] = asdict(self.memory) | {"total": self.memory.total}
        facts["layout"] = {
            "devices": planned_devices(self.recipe), "shards": (self.layout.shard or 1) * self.layout.context,
            "tensor": self.layout.tensor, "pipeline": self.layout.pipeline, "replicate": self.layout.replicate,
            "micro_batch": self.micro_batch, "activation_checkpointing": self.recompute,
        }  # fmt: skip
        facts["compute"] = self.compute
        facts["hours"] = self.seconds / SECONDS_PER_HOUR
        price = self.recipe.budget.price_per_hour
        facts["money"] = (
            None if price is None else price * self.recipe.budget.devices * self.seconds / SECONDS_PER_HOUR
        )
        return facts


def derive(recipe: Recipe) -> Plan:
    """Fill in every knob that the recipe leaves open, by pure functions of the others.

    Raises UserError when what is asked for does not fit the hardware, or contradicts itself.
    """
    if recipe.train is None:
        return Plan(recipe)
    device = hardware.device(recipe.budget.hardware)
    train, budget = recipe.train, recipe.budget
    fixed = recipe.model.model_dump(exclude_none=True)
    vocab_size = fixed.get("vocab_size") or _vocab_size(recipe)
    speed = device.peak * device.utilization * budget.devices
    if budget.hours is not None:
        available = budget.hours * SECONDS_PER_HOUR * speed
        config = largest_within(available, budget.tokens_per_parameter, vocab_size, fixed, train.tokens)
    elif fixed.get("hidden_size"):
        available = None
        config = largest_within(math.inf, budget.tokens_per_parameter, vocab_size, fixed)
    else:
        raise UserError(
            "nothing says how large the model shall be",
            hint="set budget.hours, or model.hidden_size and model.num_layers",
        )
    sequence_length = train.sequence_length or config.context_length
    if sequence_length > config.context_length:
        raise UserError(
            f"train.sequence_length = {sequence_length}: longer than model.context_length = {config.context_length}",
            hint=f"set model.context_length={sequence_length}",
        )
    parameters = count(config)
    per_token = training_flops_per_token(config, sequence_length)
    tokens = train.tokens
    if tokens is None and train.steps is not None and train.batch_tokens is not None:
        tokens = train.steps * train.batch_tokens
    if tokens is None and available is not None:
        tokens = int(available / per_token)  # the shape comes in steps; the tokens take up what is left
    tokens = tokens or int(budget.tokens_per_parameter * parameters.active)
    batch_tokens = train.batch_tokens or _round_batch(
        scaling.batch_tokens(tokens * per_token), sequence_length, tokens
    )
    steps = train.steps or max(1, tokens // batch_tokens)
    growth = train.growth_steps or max(1, steps // 10)
    batch = Growth(batch_tokens, train.first_batch_tokens, growth, "train.first_batch_tokens")
    if train.steps is None and batch.doublings:
        steps = growth + max(0, (tokens - batch.before(growth)) // batch_tokens)
    tokens = batch.before(steps)
    compute = tokens * per_token
    train = train.model_copy(
        update={
            "tokens": tokens,
            "steps": steps,
            "growth_steps": growth if train.first_batch_tokens or train.first_sequence_length else None,
            "batch_tokens": batch_tokens,
            "sequence_length": sequence_length,
            "learning_rate": train.learning_rate or float(f"{scaling.learning_rate(compute):.2g}"),
            "warmup_steps": train.warmup_steps if train.warmup_steps is not None else max(1, steps // 50),
            "evaluate_every": train.evaluate_every or max(min(steps, 25), steps // 20),
        }
    )
    if batch_tokens % sequence_length:
        raise UserError(
            f"train.batch_tokens = {batch_tokens}: not a whole number of sequences of {sequence_length} tokens",
            hint=f"set train.batch_tokens={max(1, round(batch_tokens / sequence_length)) * sequence_length}",
        )
    resolved = recipe.model_copy(update={"train": train, "model": ModelSection(**config.model_dump())})
    check_machine(recipe.machine, train)
    layout = complete(recipe.machine.layout, planned_devices(recipe))
    check(layout, config, train)
    fit = _fit(config, train, layout, recipe.machine, device.memory)
    return Plan(resolved, parameters, fit[0], compute, compute / speed, layout, *fit[1:])


def model_config(recipe: Recipe) -> ModelConfig:
    """The complete model of a derived recipe."""
    return complete_model(recipe.model.model_dump(exclude_none=True))


def required(value: Any, name: str) -> Any:
    """A knob that `derive` fills in. Raises UserError when it was not derived."""
    if value is None:
        raise UserError(
            f"{name} is open", hint="derive the recipe first: groundup.plan.derive(recipe).recipe"
        )
    return value


def _vocab_size(recipe: Recipe) -> int:
    if recipe.tokenizer is None:
        raise UserError(
            "nothing says how large the vocabulary is", hint="set model.vocab_size, or add [tokenizer]"
        )
    return -(-recipe.tokenizer.vocab_size // VOCABULARY_STEP) * VOCABULARY_STEP


def _round_batch(wanted: float, sequence_length: int, tokens: int) -> int:
    """The power of two of sequences that is nearest to the wanted batch; small runs still get a few hundred steps."""
    wanted = min(wanted, tokens / 200)
    sequences = max(1, 2 ** round(math.log2(max(1.0, wanted / sequence_length))))
    return sequences * sequence_length


def _fit(
    config: ModelConfig, train: TrainSection, layout: Layout, machine: MachineSection, memory: float
) -> tuple[Memory, int, Recompute]:
    """The least recomputation, then the largest micro-batch, that fits 90% of a device; what is set by hand stays."""
    assert layout.shard is not None
    length = required(train.sequence_length, "train.sequence_length")
    rows = required(train.batch_tokens, "train.batch_tokens") // length // (layout.replicate * layout.shard)
    product = 4 if train.precision == "float32" else 2
    wanted: tuple[Recompute, ...] = ("none", "full")
    if machine.activation_checkpointing != "none":
        wanted = (machine.activation_checkpointing,)
    for recompute in wanted:
        micro_batch = machine.micro_batch or max(1, rows)
        while micro_batch >= 1:
            need = training_memory(config, length, micro_batch, layout, recompute, product)
            if need.total <= 0.9 * memory:
                return need, micro_batch, recompute
            micro_batch = 0 if machine.micro_batch else micro_batch // 2
    least = training_memory(config, length, machine.micro_batch or 1, layout, wanted[-1], product)
    state = least.weights + least.gradients + least.optimizer
    devices = layout.replicate * layout.shard * layout.context * layout.tensor * layout.pipeline
    needed = math.ceil(state * devices / max(0.9 * memory - least.total + state, 1e9))
    raise UserError(
        f"training needs {least.total / 1e9:.0f} GB on each of {devices} device(s), and one holds {memory / 1e9:.0f} GB",
        hint=f"set budget.devices={max(needed, devices + 1)}, or a smaller model.hidden_size",
    )
