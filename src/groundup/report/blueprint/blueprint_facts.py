"""Everything that the blueprint says, computed from a plan: plain values beside those of `Plan.summary()`."""

from dataclasses import asdict
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.cost.plan_alternatives import budget_alternatives, hardware_alternatives, unique_tokens_missing
from groundup.plan.cost.run_cost import budget_cost, load_prices
from groundup.plan.derive import MAX_EPOCHS, SECONDS_PER_HOUR, Plan, require_derived, resolved_model_config
from groundup.plan.hardware import DeviceSpec, device_spec
from groundup.plan.layout.layout_search import MEMORY_FRACTION, search_layouts
from groundup.plan.memory.deployment_estimate import FORMATS, cache_bytes_per_text, estimate_deployment
from groundup.plan.memory.storage_estimate import estimate_storage
from groundup.plan.scaling.loss_law import effective_tokens
from groundup.plan.time.restart_estimate import estimate_restarts
from groundup.plan.time.run_time import time_range
from groundup.plan.time.stage_time import BYTES_PER_TOKEN, estimate_stage_seconds
from groundup.plan.time.stage_timeline import accelerator_stage_seconds
from groundup.plan.time.training_speed import is_cpu
from groundup.recipe import ModelConfig, Recipe

MAX_LAYOUTS = 4
"""Other layouts that are shown beside that of the plan."""
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
    device, tokens = device_spec(budget.hardware), require_derived(train.tokens, "train.tokens")
    known = [source["bytes"] for source in sources]
    text_bytes = sum(known) if known and None not in known else None
    available = plan.data_tokens
    read_bytes = tokens * BYTES_PER_TOKEN if text_bytes is None else text_bytes
    stages = stage_seconds or _stage_seconds(plan, read_bytes, conversation_bytes)
    restarts = estimate_restarts(plan)
    hours = sum(stages.values()) / SECONDS_PER_HOUR
    cost, prices_date = budget_cost(hours, budget), load_prices(budget.prices)["date"].isoformat()
    low, high, range_source = time_range(device)
    return {
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "sources": sources,
        "tokens_missing": unique_tokens_missing(tokens, available, MAX_EPOCHS),
        "effective_tokens": effective_tokens(tokens, available) if available else tokens,
        "max_epochs": MAX_EPOCHS,
        "storage": (storage := asdict(estimate_storage(plan, text_bytes))) | {"total": sum(storage.values())},
        "device": asdict(device) | {"usable": MEMORY_FRACTION},
        "layouts": _layouts(plan, config, device),
        "stages": stages,
        "stages_measured": is_cpu(device),
        "restarts": asdict(restarts),
        "hours": hours,
        "cost": asdict(cost) | {"low": cost.total * low, "high": cost.total * high, "date": prices_date},
        "hours_range": (hours * low, hours * high),
        "time_range": (low, high),
        "time_range_source": range_source,
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


def _layouts(plan: Plan, config: ModelConfig, device: DeviceSpec) -> dict[str, Any] | None:
    """The fastest layouts of the plan's devices beside its own; None for one device, or if the search finds none."""
    train = plan.recipe.train
    assert train is not None
    assert plan.memory is not None
    if plan.layout.num_devices == 1:
        return None
    try:
        search = search_layouts(config, train, device, plan.layout.num_devices)
    except UserError:
        return None
    best = search.best.seconds
    own = plan.run_time.steps / require_derived(train.steps, "train.steps") * plan.recipe.budget.relative_speed
    return {
        "fitting": len(search.candidates),
        "tried": search.tried,
        "own_seconds": own,
        "own_ratio": own / best,
        "knobs": search.best.knobs(),
        "rows": [
            {
                "layout": each.describe(),
                "micro_batch": each.micro_batch,
                "checkpointing": each.activation_checkpointing,
                "seconds": each.seconds,
                "memory_bytes": each.memory.total,
                "lost": each.lost or "the fastest",
            }
            for each in search.candidates[:MAX_LAYOUTS]
        ],
    }


def _deployments(config: ModelConfig, plan: Plan) -> list[dict[str, Any]]:
    """Each format on each serving device."""
    assert plan.parameters is not None
    listed = load_prices(plan.recipe.budget.prices)["per_hour"]
    rows = []
    for name in dict.fromkeys((plan.recipe.budget.hardware, *SERVING_DEVICES)):
        device = device_spec(name)
        price = listed[name]["price"] if name in listed else None
        for form in FORMATS:
            found = estimate_deployment(config, plan.parameters, form, device, price)
            rows.append({"device": device.label or name} | asdict(found))
    return rows
