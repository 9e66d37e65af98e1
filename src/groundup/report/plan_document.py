"""Plan of a recipe as a PDF document: model, training, memory, time and cost."""

from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.plan.plan_table import format_flops
from groundup.report import formatting
from groundup.report.elements import Cell, figure, key_values, paragraph, section, strong
from groundup.report.sections.cover_page import describe_model
from groundup.report.sections.pretraining_section import parameter_table

MEMORY_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "unsharded": "unsharded weight copies",
    "activations": "activations",
    "logits": "logits",
}


def write_plan_pdf(plan: dict[str, Any], pdf: Path) -> None:
    """Write `Plan.summary()` as a PDF. Raises UserError for a recipe without [train] or an unwritable file."""
    if "train" not in plan:
        raise UserError(f"{plan['name']}: the recipe has no [train] section to plan", hint="add [train]")
    from groundup.report.pdf_report import render_pdf

    try:
        pdf.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(pdf, render_pdf(plan_document(plan)))
    except OSError as error:
        raise UserError(f"{pdf}: cannot be written: {error.strerror}", hint="choose another path with --pdf") from None


def plan_document(plan: dict[str, Any]) -> dict[str, Any]:
    """The report document of a plan."""
    model, train, budget = plan["model"], plan["train"], plan["budget"]
    description = describe_model(model)
    numbers = [
        (formatting.short_count(plan["parameters"]["total"]), "parameters"),
        (formatting.short_count(train["tokens"]), "training tokens"),
        (formatting.duration(3600 * plan["hours"]), "pretraining time"),
    ]
    if plan["cost"] is not None:
        numbers.append((f"{plan['cost']:,.0f}", f"cost at {budget['price_per_hour']:g} per device hour"))
    else:
        numbers.append((formatting.byte_size(plan["memory"]["total"]), "memory per device"))
    card: list[tuple[str, Cell]] = [
        ("Model", description[0].upper() + description[1:]),
        ("Context", f"{model['context_length']:,} tokens; vocabulary of {model['vocab_size']:,}"),
        ("Training", f"{formatting.count(train['tokens'])} tokens in {formatting.pluralize(train['steps'], 'step')}"),
        ("Hardware", f"{budget['devices']:,} × {budget['hardware']}"),
        ("Compute", f"{format_flops(plan['total_flops'])}, {_time(plan)}"),
    ]
    if plan["cost"] is not None:
        price = f"{plan['cost']:,.0f} at {budget['price_per_hour']:g} per device hour"
        card.append(("Cost", price))
    return {
        "cover": {
            "kind": "groundup · plan",
            "title": plan["name"],
            "subtitle": "Estimates before training",
            "author": None,
            "numbers": [{"value": value, "label": label} for value, label in numbers],
            "card": [[name, [value]] for name, value in card],
            "sample": None,
            "colophon": "Computed from the recipe alone. The time covers pretraining at a typical model FLOPs "
            "utilization (MFU), without other stages.",
        },
        "sections": [_model(plan), _training(plan), _memory(plan)],
    }


def _time(plan: dict[str, Any]) -> str:
    devices = plan["budget"]["devices"]
    device_time = formatting.duration(3600 * plan["hours"] * devices)
    return formatting.duration(3600 * plan["hours"]) + (f" ({device_time} of device time)" if devices > 1 else "")


def _model(plan: dict[str, Any]) -> dict[str, Any]:
    model, parameters = plan["model"], plan["parameters"]
    knobs: list[tuple[str, Cell]] = [
        ("Feed-forward", f"{model['feed_forward']}, intermediate size {model['intermediate_size']:,}"),
        ("Attention", f"head dimension {model['head_dim']}, {model['position_embedding']} position embedding"),
        ("Norm", f"{model['norm']}{', also on queries and keys' if model.get('qk_norm') else ''}"),
        ("Output head", "tied to the token embedding" if model.get("tie_embeddings") else "separate weights"),
    ]
    return section(
        "Model",
        [
            paragraph("A ", strong(describe_model(model)), f", with a context of {model['context_length']:,} tokens."),
            parameter_table(parameters, parameters["total"], "Parameters by part."),
            key_values(knobs),
        ],
    )


def _training(plan: dict[str, Any]) -> dict[str, Any]:
    train = plan["train"]
    ratio = plan["tokens_per_parameter"]
    comparison = (
        "fewer than the compute-optimal 20" if ratio < 15
        else "about the compute-optimal 20" if ratio < 30
        else "more than the compute-optimal 20, for a smaller model with cheaper inference"
    )  # fmt: skip
    rows: list[tuple[str, Cell]] = [
        ("Steps", f"{train['steps']:,}, each of {train['batch_tokens']:,} tokens"),
        ("Sequences", f"{train['sequence_length']:,} tokens"),
        ("Optimizer", train["optimizer"]),
        (
            "Learning rate",
            f"{train['learning_rate']:g} after {formatting.pluralize(train['warmup_steps'], 'step')} of warm-up",
        ),
        ("Schedule", f"{train['lr_schedule'].replace('-', ' ')}, to {100 * train['min_lr_ratio']:g}%"),
        ("Precision", train["precision"]),
    ]
    return section(
        "Training",
        [
            paragraph(
                f"Training uses {formatting.count(train['tokens'])} tokens, {formatting.three_digits(ratio)} per parameter: "
                f"{comparison} (Hoffmann et al. 2022)."
            ),
            key_values(rows),
        ],
    )


def _memory(plan: dict[str, Any]) -> dict[str, Any]:
    from groundup.report import training_plots

    memory, layout, budget = plan["memory"], plan["layout"], plan["budget"]
    bars = [(label, memory[part] / 1e9, None) for part, label in MEMORY_PARTS.items()]
    return section(
        "Memory and parallel layout",
        [
            paragraph(
                f"Each of {formatting.pluralize(layout['devices'], 'device')} ({budget['hardware']}) needs "
                f"{formatting.byte_size(memory['total'])}, with the weights "
                + (f"sharded over {layout['shards']} devices" if layout["shards"] > 1 else "replicated on each device")
                + f", a micro-batch of {formatting.pluralize(layout['micro_batch'], 'sequence')}, and activations "
                + ("recomputed in" if layout["activation_checkpointing"] != "none" else "stored for")
                + " the backward pass."
            ),
            figure(
                "memory",
                training_plots.plot_bars(bars, "GB per device"),
                "Peak memory of a device in a training step.",
                "Bars: " + ", ".join(f"{label} {formatting.byte_size(value * 1e9)}" for label, value, _ in bars),
            ),
        ],
    )
