"""The model's shape, and how its loss fell."""

from typing import Any

from groundup.report import formatting, training_plots
from groundup.report.elements import Cell, Element, figure, key_values, paragraph, section, table
from groundup.report.run_data import stage_metrics
from groundup.report.sections.cover_page import describe_model

PARAMETER_GROUPS = {
    "embedding": "token embedding",
    "attention": "attention",
    "feed_forward": "feed-forward",
    "norms": "norms",
    "head": "output head",
}
CURVE_BASELINES = ("xz", "bigram")
"""Baselines that the held-out curve is drawn beside."""


def pretraining_section(facts: dict[str, Any]) -> dict[str, Any] | None:
    base = stage_metrics(facts, "base")
    if not base:
        return None
    return section(
        "Learning",
        [_words(facts, base), _parts(base), _knobs(facts), _loss(facts, base), _held_out(facts, base)],
    )


def _words(facts: dict[str, Any], base: dict[str, Any]) -> Element:
    model = facts["plan"].get("model")
    shape = f"The model is a {describe_model(model)}. " if model else ""
    epochs = base.get("epochs")
    seen = f", {formatting.three_digits(epochs)} passes over the text" if epochs else ""
    return paragraph(
        f"{shape}It learned to predict each token from those before it, in {formatting.pluralize(base['steps'], 'step')} over "
        f"{formatting.count(base['tokens'])} tokens{seen}."
    )


def _parts(base: dict[str, Any]) -> Element | None:
    parts = base.get("parameters_by_part")
    if not parts:
        return None
    rows: list[list[Cell]] = [
        [words, f"{parts[part]:,}", formatting.percent(parts[part], base["parameters"])]
        for part, words in PARAMETER_GROUPS.items()
        if parts.get(part)
    ]
    note = "" if parts.get("head") else " The output head is the token embedding, used a second time."
    rows.append(["together", f"{base['parameters']:,}", "100%"])
    return table(("part", "parameters", "share"), rows, f"Where the parameters are.{note}", total=True)


def _knobs(facts: dict[str, Any]) -> Element | None:
    train = facts["stages"]["base"]["sections"].get("train") or facts["plan"].get("train")
    if not train:
        return None
    rate = f"{train['learning_rate']:g} at its peak, after {formatting.pluralize(train['warmup_steps'], 'step')} of warm-up"
    rows: list[tuple[str, Cell]] = [
        ("Optimizer", _optimizer(train)),
        (
            "Learning rate",
            f"{rate}; {train['lr_schedule'].replace('-', ' ')}, to {100 * train['min_lr_ratio']:g}% of it",
        ),
        ("Batch", f"{train['batch_tokens']:,} tokens, in sequences of {train['sequence_length']:,}"),
        ("Precision", f"{train['precision']} products over float32 weights"),
        (
            "Regularisation",
            f"weight decay {train['weight_decay']:g}; gradients clipped at {train['max_grad_norm'] or 'no'} norm",
        ),
    ]
    return key_values(rows)


def _optimizer(train: dict[str, Any]) -> str:
    if train["optimizer"] == "muon":
        return f"Muon for the matrices of the blocks (at {train['muon_learning_rate']:g}), AdamW for the rest"
    return f"AdamW, β {train['beta1']:g} and {train['beta2']:g}"


def _loss(facts: dict[str, Any], base: dict[str, Any]) -> Element | None:
    steps = facts["steps"]
    if len(steps) < 2:
        return None
    return figure(
        "loss",
        training_plots.plot_training(steps),
        "Training loss, each step and smoothed, and the learning rate that led it there.",
        f"Two curves over {len(steps)} steps: the loss falls from {steps[0]['loss']:.2f} to {base['final_loss']:.2f}.",
    )


def _held_out(facts: dict[str, Any], base: dict[str, Any]) -> Element | None:
    probes = [probe for probe in base.get("validation", []) if "bits_per_byte" in probe]
    if len(probes) < 2:
        return None
    baselines = stage_metrics(facts, "scores").get("baselines", {})
    marks = {name: baselines[name] for name in CURVE_BASELINES if name in baselines}
    return figure(
        "held-out",
        training_plots.plot_validation(probes, marks),
        "Bits per byte of held-out text while the model learned: a quick look at some of it, which section "
        "“Scores” repeats with more care.",
        f"A curve that falls from {probes[0]['bits_per_byte']:.2f} to {probes[-1]['bits_per_byte']:.2f}.",
    )
