"""The plan as a document, before anything is built: what it will be, what it needs and what it costs."""

from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.plan.plan_table import format_flops
from groundup.report import formatting
from groundup.report.elements import Cell, figure, key_values, paragraph, section, strong, table
from groundup.report.sections.cover_page import describe_model

PARAMETER_GROUPS = {
    "embedding": "token embedding",
    "attention": "attention",
    "feed_forward": "feed-forward",
    "norms": "norms",
    "head": "output head",
}
MEMORY_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer's state",
    "unsharded": "unsharded weight copies",
    "activations": "activations",
    "logits": "logits",
}


def write_plan_pdf(facts: dict[str, Any], pdf: Path) -> None:
    """Write `Plan.facts()` as a PDF. Raises UserError when the recipe trains no model, or the file cannot be written."""
    if "model" not in facts:
        raise UserError(
            f"{facts['name']}: the recipe has no [train], so there is no plan to draw", hint="add [train]"
        )
    from groundup.report.pdf_report import render_pdf as typeset

    try:
        pdf.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(pdf, typeset(plan_document(facts)))
    except OSError as error:
        raise UserError(
            f"{pdf}: cannot be written: {error.strerror}", hint="choose another place with --pdf"
        ) from None


def plan_document(facts: dict[str, Any]) -> dict[str, Any]:
    """The story of a plan."""
    model, train, budget = facts["model"], facts["train"], facts["budget"]
    words = describe_model(model)
    numbers = [
        (formatting.short_count(facts["parameters"]["total"]), "parameters"),
        (formatting.short_count(train["tokens"]), "training tokens"),
        (formatting.duration(3600 * facts["hours"]), "of pretraining"),
    ]
    if facts["cost"] is not None:
        numbers.append((f"{facts['cost']:,.0f}", f"at {budget['price_per_hour']:g} an hour"))
    else:
        numbers.append((formatting.byte_size(facts["memory"]["total"]), "on each device"))
    card: list[tuple[str, Cell]] = [
        ("What it will be", words[0].upper() + words[1:]),
        (
            "It will read",
            f"{model['context_length']:,} tokens at once, of a vocabulary of {model['vocab_size']:,}",
        ),
        (
            "It will see",
            f"{formatting.count(train['tokens'])} tokens in {formatting.pluralize(train['steps'], 'step')}",
        ),
        ("On", f"{budget['devices']:,} × {budget['hardware']}"),
        ("It takes", f"{format_flops(facts['total_flops'])} of arithmetic, {_time(facts)}"),
    ]
    if facts["cost"] is not None:
        price = f"{facts['cost']:,.0f} at {budget['price_per_hour']:g} for an hour of one device"
        card.append(("It costs", price))
    return {
        "cover": {
            "kind": "groundup · blueprint",
            "title": facts["name"],
            "subtitle": "What the recipe asks for, before anything is spent",
            "author": None,
            "numbers": [{"value": value, "label": label} for value, label in numbers],
            "card": [[name, [value]] for name, value in card],
            "voice": None,
            "colophon": "Computed from the recipe alone. The time is that of pretraining, at the share of the device's "
            "peak that comparable training reaches; other stages come on top.",
        },
        "sections": [_model(facts), _training(facts), _memory(facts)],
    }


def _time(facts: dict[str, Any]) -> str:
    devices = facts["budget"]["devices"]
    whole = formatting.duration(3600 * facts["hours"] * devices)
    return formatting.duration(3600 * facts["hours"]) + (f" ({whole} of device time)" if devices > 1 else "")


def _model(facts: dict[str, Any]) -> dict[str, Any]:
    model, parameters = facts["model"], facts["parameters"]
    rows: list[list[Cell]] = [
        [words, f"{parameters[part]:,}", formatting.percent(parameters[part], parameters["total"])]
        for part, words in PARAMETER_GROUPS.items()
        if parameters.get(part)
    ]
    rows.append(["together", f"{parameters['total']:,}", "100%"])
    knobs: list[tuple[str, Cell]] = [
        ("Feed-forward", f"{model['feed_forward']}, {model['intermediate_size']:,} wide"),
        ("Attention", f"heads of {model['head_dim']}, {model['position_embedding']} positions"),
        ("Norm", f"{model['norm']}{', also of queries and keys' if model.get('qk_norm') else ''}"),
        ("Output head", "the token embedding again" if model.get("tie_embeddings") else "its own"),
    ]
    return section(
        "The model",
        [
            paragraph(
                "A ",
                strong(describe_model(model)),
                f", for up to {model['context_length']:,} tokens at once.",
            ),
            table(("part", "parameters", "share"), rows, "Where the parameters will be.", total=True),
            key_values(knobs),
        ],
    )


def _training(facts: dict[str, Any]) -> dict[str, Any]:
    train = facts["train"]
    ratio = facts["tokens_per_parameter"]
    beside = (
        "less than the 20 that spend compute best" if ratio < 15
        else "about the 20 that spend compute best" if ratio < 30
        else "more than the 20 that spend compute best, for a smaller model that costs less to use"
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
        "The training",
        [
            paragraph(
                f"It will see {formatting.count(train['tokens'])} tokens, {formatting.three_digits(ratio)} for each parameter: "
                f"{beside} (Hoffmann et al. 2022)."
            ),
            key_values(rows),
        ],
    )


def _memory(facts: dict[str, Any]) -> dict[str, Any]:
    from groundup.report import training_plots

    memory, layout, budget = facts["memory"], facts["layout"], facts["budget"]
    parts = [(words, memory[part] / 1e9, None) for part, words in MEMORY_PARTS.items()]
    return section(
        "The memory, and the layout",
        [
            paragraph(
                f"Each of {formatting.pluralize(layout['devices'], 'device')} ({budget['hardware']}) will hold "
                f"{formatting.byte_size(memory['total'])}, with the weights "
                + (
                    f"spread over {layout['shards']} devices"
                    if layout["shards"] > 1
                    else "whole on each device"
                )
                + f", {formatting.pluralize(layout['micro_batch'], 'sequence')} at a time, and activations "
                + ("made again in" if layout["activation_checkpointing"] != "none" else "kept for")
                + " the backward pass."
            ),
            figure(
                "memory",
                training_plots.plot_bars(parts, "GB on each device"),
                "What fills the memory of a device during a training step.",
                "Bars: "
                + ", ".join(f"{words} {formatting.byte_size(value * 1e9)}" for words, value, _ in parts),
            ),
        ],
    )
