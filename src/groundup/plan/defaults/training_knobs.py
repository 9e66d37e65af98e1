"""Knobs of [train] that a recipe leaves open: tokens, steps, batch, learning rate, warmup and evaluation."""

import math
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.checks.feasibility import check_steps, check_tokens_of_steps
from groundup.plan.scaling.compute_optimal import optimal_batch_tokens, optimal_learning_rate
from groundup.plan.shape.parameter_count import ParameterCounts, training_flops_per_token
from groundup.plan.time.size_warmup import SizeWarmup
from groundup.plan.time.training_speed import TrainingSpeed
from groundup.recipe import ModelConfig
from groundup.recipe.recipe import BudgetConfig
from groundup.recipe.train_config import TrainConfig

EARLY_STOPPING_PATIENCE = 5
"""Evaluations without a better one, a quarter of those of a training."""
LARGE_BATCH = 2**22
"""Tokens of a batch in whose time overhead is nothing."""


def derive_training(
    train: TrainConfig, budget: BudgetConfig, config: ModelConfig, speed: TrainingSpeed, seconds: float | None,
    parameters: ParameterCounts, max_tokens: int | None,
) -> TrainConfig:  # fmt: skip
    """[train] with tokens, steps, batch, sequence length, learning rate, warmup and evaluation derived."""
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
    if tokens is None and budget.compute is not None:
        tokens = int(budget.compute / flops_per_token)
    if tokens is None and seconds is not None and budget.parameters is None:
        tokens = _tokens_within(train, config, seconds, speed)  # sizes are discrete: tokens use up the rest
    tokens = tokens or int(budget.tokens_per_parameter * parameters.active)
    if max_tokens is not None:
        tokens = min(tokens, max_tokens)
    batch_tokens = train.batch_tokens
    if batch_tokens is None and train.tokens is not None and train.steps is not None:
        batch_tokens = max(1, train.tokens // train.steps // sequence_length) * sequence_length
    batch_tokens = batch_tokens or _optimal_batch(config, sequence_length, tokens)
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
    if train.batch_tokens is not None:
        check_tokens_of_steps(train, batch)
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
    complete = train.model_copy(update=derived)
    check_steps(complete)
    return complete


def derive_stopping(train: TrainConfig, data_tokens: int | None) -> TrainConfig:
    """Repeated text is memorized sooner or later: the best weights are kept, and training stops when it does not help."""
    keep = train.keep_best_weights
    if keep is None:
        keep = data_tokens is not None and require_derived(train.tokens, "train.tokens") > data_tokens
    patience = train.early_stopping_patience or (EARLY_STOPPING_PATIENCE if keep else None)
    return train.model_copy(update={"keep_best_weights": keep, "early_stopping_patience": patience})


def training_seconds_of(train: TrainConfig, config: ModelConfig, tokens: float, speed: TrainingSpeed) -> float:
    """Seconds of training on `tokens`, in the batches of `train` or in the derived ones."""
    length = min(train.sequence_length or config.context_length, config.context_length)
    batch_tokens = train.batch_tokens or _optimal_batch(config, length, tokens)
    return speed.training_seconds(config, length, tokens, batch_tokens)


def _tokens_within(train: TrainConfig, config: ModelConfig, seconds: float, speed: TrainingSpeed) -> int:
    """Tokens that training reads in `seconds`: larger budgets have larger batches, and less overhead for a token.

    Several budgets can be their own result: from above, the search ends at the largest, which has the largest batch.
    """
    length = min(train.sequence_length or config.context_length, config.context_length)
    tokens = seconds / speed.training_seconds(config, length, 1.0, LARGE_BATCH)
    for _ in range(20):
        tokens *= seconds / training_seconds_of(train, config, tokens, speed)
    return int(tokens)


def _optimal_batch(config: ModelConfig, sequence_length: int, tokens: float) -> int:
    """Optimal tokens of a batch, rounded to a power of two of sequences, and low enough for 200 steps."""
    batch_tokens = optimal_batch_tokens(tokens * training_flops_per_token(config, sequence_length))
    batch_tokens = min(batch_tokens, tokens / 200)
    sequences = max(1, 2 ** round(math.log2(max(1.0, batch_tokens / sequence_length))))
    return sequences * sequence_length


def require_derived(value: Any, name: str) -> Any:
    """`value`. Raises UserError if it is None, because the recipe was not derived."""
    if value is None:
        raise UserError(f"{name} is not set", hint="derive the recipe first: groundup.plan.derive(recipe).recipe")
    return value
