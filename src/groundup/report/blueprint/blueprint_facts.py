"""Everything that the blueprint says, computed from a plan: plain values beside those of `Plan.summary()`."""

from dataclasses import asdict
from typing import Any

from groundup.plan.deployment_estimate import FORMATS, cache_bytes_per_text, estimate_deployment
from groundup.plan.derive import MAX_EPOCHS, SECONDS_PER_HOUR, Plan, require_derived, resolved_model_config
from groundup.plan.expected_loss import SMALL_LAW, expected_loss, is_published_range
from groundup.plan.hardware import device_spec
from groundup.plan.layout_search import MEMORY_FRACTION
from groundup.plan.loss_law import REPLICATION, effective_tokens, predict_published_loss
from groundup.plan.plan_alternatives import budget_alternatives, hardware_alternatives, unique_tokens_missing
from groundup.plan.restart_estimate import estimate_restarts
from groundup.plan.run_cost import load_prices, run_cost
from groundup.plan.scaling_plan import isoflop_curve, other_budgets
from groundup.plan.stage_time import BYTES_PER_TOKEN, estimate_stage_seconds
from groundup.plan.stage_timeline import accelerator_stage_seconds
from groundup.plan.storage_estimate import estimate_storage
from groundup.recipe import ModelConfig, Recipe

TIME_RANGE = (0.8, 1.4)
"""Measured time of a training over the planned one, within which nearly all lie: below, and above without the restarts."""
MILESTONES = (0.1, 0.25, 0.5, 1.0)
"""Fractions of the training at which the loss is compared with its prediction."""
SERVING_DEVICES = ("rtx-4090", "h100")
"""Beside the device of the plan."""


def blueprint_facts(
    recipe: Recipe,
    plan: Plan,
    sources: list[dict[str, Any]],
    stage_seconds: dict[str, float] | None,
    base_config: ModelConfig | None = None,
    conversation_bytes: float | None = None,
) -> dict[str, Any]:
    """Facts of a plan with [train], for `plan_document`.

    Args:
        recipe: as it was written; `plan`: what was derived from it.
        sources: name, kind, place and bytes of each source of text; bytes are None where it is not on this machine.
        stage_seconds: of stage_time.py, where its rates hold.
    """
    train, budget, config = plan.recipe.train, plan.recipe.budget, resolved_model_config(plan.recipe)
    assert train is not None
    assert plan.parameters is not None
    tokens, size = require_derived(train.tokens, "train.tokens"), plan.parameters.active
    known = [source["bytes"] for source in sources]
    text_bytes = sum(known) if known and None not in known else None
    available = plan.data_tokens
    read_bytes = tokens * BYTES_PER_TOKEN if text_bytes is None else text_bytes
    stages = stage_seconds or _stage_seconds(plan, read_bytes, conversation_bytes)
    restarts = estimate_restarts(plan)
    hours = sum(stages.values()) / SECONDS_PER_HOUR
    prices = load_prices()
    cost = run_cost(hours, budget.hardware, budget.devices, prices, budget.price_per_hour)
    low, high = TIME_RANGE[0], TIME_RANGE[1] * (1 + restarts.overhead)
    effective = effective_tokens(tokens, available) if available else tokens
    law = REPLICATION if is_published_range(size, tokens) else SMALL_LAW
    on_curve = predict_published_loss(size, tokens) if law is REPLICATION else expected_loss(size, tokens)
    return {
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "sources": sources,
        "tokens_missing": unique_tokens_missing(tokens, available, MAX_EPOCHS),
        "effective_tokens": effective,
        "max_epochs": MAX_EPOCHS,
        "storage": (storage := asdict(estimate_storage(plan, text_bytes))) | {"total": sum(storage.values())},
        "loss": expected_loss(size, effective),
        "milestones": [(part, law.loss(size, part * effective)) for part in MILESTONES],
        "law": law.name,
        "is_published_law": law is REPLICATION,
        "isoflop": asdict(isoflop_curve(size, tokens, law)) | {"interval": (on_curve["low"], on_curve["high"])},
        "budgets": [asdict(step) for step in other_budgets(size, tokens, law)],
        "device": asdict(device_spec(budget.hardware)) | {"usable": MEMORY_FRACTION},
        "stages": stages,
        "stages_measured": budget.hardware.startswith("cpu"),
        "restarts": asdict(restarts),
        "hours": hours,
        "cost": asdict(cost) | {"low": cost.total * low, "high": cost.total * high, "date": prices["date"].isoformat()},
        "hours_range": (hours * low, hours * high),
        "alternatives": [asdict(row) for row in budget_alternatives(recipe, plan, available, base_config)],
        "hardware": [asdict(row) for row in hardware_alternatives(plan)],
        "deployments": _deployments(config, plan),
        "cache_bytes": cache_bytes_per_text(config),
    }


def _stage_seconds(plan: Plan, text_bytes: float, conversation_bytes: float | None) -> dict[str, float]:
    """Seconds of the stages for text that is not here yet, without those that learn from missing examples."""
    measured = estimate_stage_seconds(plan, text_bytes, conversation_bytes or 0.0)
    if measured is None:
        return accelerator_stage_seconds(plan, text_bytes, conversation_bytes)
    return {name: seconds for name, seconds in measured.items() if name != "finetune" or conversation_bytes is not None}


def _deployments(config: ModelConfig, plan: Plan) -> list[dict[str, Any]]:
    """Each format on each serving device."""
    assert plan.parameters is not None
    listed = load_prices()["per_hour"]
    rows = []
    for name in dict.fromkeys((plan.recipe.budget.hardware, *SERVING_DEVICES)):
        device = device_spec(name)
        price = listed[name]["price"] if name in listed else None
        for form in FORMATS:
            found = estimate_deployment(config, plan.parameters, form, device, price)
            rows.append({"device": device.label or name} | asdict(found))
    return rows
