"""Plan of a recipe as a PDF document, the blueprint: cover page and sections."""

from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.plan.plan_table import describe_loss, format_flops
from groundup.report import formatting
from groundup.report.elements import Cell
from groundup.report.sections.cover_page import describe_model


def write_plan_pdf(plan: dict[str, Any], pdf: Path) -> None:
    """Write `Plan.summary()` with its `blueprint_facts` as a PDF.

    Raises UserError for a recipe without [train] or an unwritable file.
    """
    if "train" not in plan:
        raise UserError(f"{plan['name']}: the recipe has no [train] section to plan", hint="add [train]")
    from groundup.report.pdf_report import render_pdf

    try:
        pdf.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(pdf, render_pdf(plan_document(plan)))
    except OSError as error:
        raise UserError(f"{pdf}: cannot be written: {error.strerror}", hint="choose another path with --pdf") from None


def plan_document(plan: dict[str, Any]) -> dict[str, Any]:
    """The report document of a plan with the key `blueprint`."""
    from groundup.report.blueprint import decision_sections, design_sections, resource_sections

    sections = [
        design_sections.goal_section(plan),
        design_sections.model_section(plan),
        design_sections.data_section(plan),
        design_sections.tokenizer_section(plan),
        design_sections.scaling_section(plan),
        design_sections.training_section(plan),
        resource_sections.memory_section(plan),
        resource_sections.time_section(plan),
        resource_sections.cost_section(plan),
        resource_sections.risk_section(plan),
        decision_sections.alternatives_section(plan),
        decision_sections.evaluation_section(plan),
        decision_sections.deployment_section(plan),
        *decision_sections.recipe_and_commands(plan),
    ]
    return {"cover": _cover(plan), "sections": [each for each in sections if each is not None]}


def _cover(plan: dict[str, Any]) -> dict[str, Any]:
    from groundup.report.blueprint.design_sections import goal_phrase

    model, train, budget, facts = plan["model"], plan["train"], plan["budget"], plan["blueprint"]
    cost = facts["cost"]
    description = describe_model(model)
    numbers = [
        (formatting.short_count(plan["parameters"]["total"]), "parameters"),
        (formatting.short_count(train["tokens"]), "training tokens"),
        (formatting.duration(3600 * facts["hours"]), "all stages"),
        (formatting.money(cost["total"]), f"{cost['currency']}, expected"),
    ]
    missing = facts["tokens_missing"]
    card: list[tuple[str, Cell]] = [
        ("Model", f"{description[0].upper()}{description[1:]}; context of {model['context_length']:,} tokens"),
        (
            "Hardware",
            f"{budget['devices']:,} × {facts['device']['label'] or budget['hardware']}; "
            f"{formatting.byte_size(plan['memory']['total'])} of {formatting.byte_size(facts['device']['memory_bytes'])} each",
        ),
        ("Compute", f"{format_flops(plan['total_flops'])}"),
        (
            "Time",
            f"{formatting.duration(3600 * facts['hours_range'][0])} to {formatting.duration(3600 * facts['hours_range'][1])}",
        ),
        (
            "Cost",
            f"{formatting.money(cost['low'])} to {formatting.money(cost['high'])} "
            f"{cost['currency']}; {formatting.three_digits(cost['energy_kwh'])} kWh, "
            f"{formatting.three_digits(cost['co2_kg'])} kg of CO₂",
        ),
        *([("Loss", loss)] if (loss := describe_loss(plan)) else []),
        ("Text", f"{formatting.count(missing)} tokens are missing" if missing else "enough"),
    ]
    return {
        "kind": "groundup · blueprint",
        "title": plan["name"],
        "subtitle": f"Plan of {goal_phrase(plan)}",
        "author": None,
        "numbers": [{"value": value, "label": label} for value, label in numbers],
        "card": [[name, [value]] for name, value in card],
        "sample": None,
        "colophon": "Computed from the recipe, before a step was trained. Estimates have the ranges that are stated with them; "
        "after the run, its report sets this plan beside the outcome.",
    }
