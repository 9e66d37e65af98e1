"""What scaling laws say of a plan: its loss, the optimum of its compute, other budgets, and published rules for its knobs."""

import math
from dataclasses import asdict
from typing import Any

from groundup.plan.defaults.training_knobs import require_derived
from groundup.plan.derive import Plan, resolved_model_config
from groundup.plan.scaling import compute_optimal
from groundup.plan.scaling.expected_loss import SMALL_LAW, WEB_BYTES_PER_TOKEN, expected_loss, is_published_range
from groundup.plan.scaling.loss_law import (
    PUBLISHED_LAWS,
    LossLaw,
    effective_tokens,
    overtrained_size,
    predict_published_loss,
)
from groundup.plan.scaling.scaling_plan import isoflop_curve, other_budgets

RULES = {
    "20 tokens per parameter (Chinchilla)": compute_optimal.compute_optimal_size,
    "training curves (Chinchilla 1)": compute_optimal.chinchilla_training_curves,
    "equal compute (Chinchilla 2)": compute_optimal.chinchilla_isoflop_profiles,
    "formula of the loss (Chinchilla 3)": compute_optimal.chinchilla_parametric_loss,
}
"""Rules for N and D of a compute."""
MILESTONES = (0.1, 0.25, 0.5, 1.0)
"""Fractions of the training at which the loss can be compared with its prediction."""


def is_next_token(plan: Plan) -> bool:
    """Whether the laws hold for the training of a plan: a new decoder."""
    is_new = plan.recipe.train is not None and plan.recipe.base is None
    return is_new and resolved_model_config(plan.recipe).architecture == "decoder"


def summarize_scaling(plan: Plan, ladder: LossLaw | None = None) -> dict[str, Any] | None:
    """Loss, optimum, other budgets and rules for knobs as JSON values; None for a plan without training.

    `ladder`: the law of the recipe's own ladder, which takes the place of the published ones.
    """
    if plan.parameters is None or plan.recipe.train is None:
        return None
    train, config = plan.recipe.train, resolved_model_config(plan.recipe)
    total = float(require_derived(train.tokens, "train.tokens"))
    size = float(plan.parameters.active)
    if config.moe is not None:
        size = compute_optimal.effective_parameters(size, config.moe.num_experts // config.moe.experts_per_token)
    tokens = total if plan.data_tokens is None else effective_tokens(total, plan.data_tokens)
    laws = (ladder,) if ladder else PUBLISHED_LAWS if is_published_range(size, total) else (SMALL_LAW,)
    law = laws[0]
    compute = 6 * plan.parameters.active * total
    outside = plan.parameters.total - plan.parameters.embedding - plan.parameters.head
    expected = expected_loss(size, total, plan.data_tokens)
    loss = expected if law is SMALL_LAW else predict_published_loss(size, tokens, laws=laws)
    nats = expected["loss"] * math.log(2) * WEB_BYTES_PER_TOKEN
    smaller, more = overtrained_size(compute, total, law)
    return {
        "law": law.name,
        "unit": law.unit,
        "is_published": law in PUBLISHED_LAWS,
        "loss": loss,
        "milestones": [(part, law.loss(size, part * tokens)) for part in MILESTONES],
        "bits_per_byte": expected,
        "effective_parameters": size,
        "effective_tokens": tokens,
        "isoflop": asdict(isoflop_curve(size, tokens, law)),
        "other_budgets": [asdict(step) for step in other_budgets(size, tokens, law)],
        "optima": {name: rule(compute) for name, rule in RULES.items()} | {law.name: law.optimum(compute)},
        "inference": {"tokens": total, "parameters": smaller, "training_tokens": more},
        "knobs": {
            "learning_rate": {
                "DeepSeek LLM 2024": compute_optimal.optimal_learning_rate(plan.total_flops),
                "Step Law 2025": compute_optimal.step_law_learning_rate(outside, total),
            },
            "batch_tokens": {
                "DeepSeek LLM 2024": compute_optimal.optimal_batch_tokens(plan.total_flops),
                "Step Law 2025": compute_optimal.step_law_batch_tokens(total),
                "critical, Kaplan et al. 2020": compute_optimal.critical_batch_tokens(nats),
            },
            "vocab_size": {"Tao et al. 2024": compute_optimal.optimal_vocabulary(outside, config.hidden_size)},
        },
    }
