"""Report section: the model, its training settings and losses."""

from typing import Any

from groundup.report import formatting, training_plots
from groundup.report.elements import Cell, Element, code, figure, key_values, paragraph, section, table
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
"""Baselines drawn in the held-out curve."""


def pretraining_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    base = stage_metrics(run_data, "base")
    if not base:
        return None
    if "format" in base:
        return section("Base model", [_loaded(run_data, base), _parts(base)])
    return section(
        "Continued pretraining" if run_data["recipe"].get("base") else "Pretraining",
        [
            _introduction(run_data, base),
            _parts(base),
            _knobs(run_data),
            _loss(run_data, base),
            _held_out(run_data, base),
            _task_scores(base),
        ],
    )


def _introduction(run_data: dict[str, Any], base: dict[str, Any]) -> Element:
    model = run_data["plan"].get("model")
    model_words = f"The model is a {describe_model(model)}. " if model else ""
    epochs = base.get("epochs")
    passes = f" ({formatting.three_digits(epochs)} epochs)" if epochs else ""
    return paragraph(
        f"{model_words}It was trained for {formatting.pluralize(base['steps'], 'step')} on {formatting.count(base['tokens'])} "
        f"tokens{passes}." + (f" Result: {kept}." if (kept := formatting.kept_weights(base)) else "")
    )


def _loaded(run_data: dict[str, Any], base: dict[str, Any]) -> Element:
    """Of a recipe with [base] and without [train]."""
    model = run_data["plan"].get("model")
    what = f", a {describe_model(model)}, with a context of {model['context_length']:,} tokens" if model else ""
    return paragraph(
        "The recipe starts from ", code(base["model"]), f" ({base['format']}){what}. Its weights were stored as "
        f"{base['dtype']}; nothing was pretrained."
    )  # fmt: skip


def _parts(base: dict[str, Any]) -> Element | None:
    parts = base.get("parameters_by_part")
    if not parts:
        return None
    note = "" if parts.get("head") else " The output head is tied to the token embedding."
    return parameter_table(parts, base["parameters"], f"Parameters by part.{note}")


def parameter_table(parts: dict[str, int], total: int, caption: str) -> Element:
    rows: list[list[Cell]] = [
        [label, f"{parts[part]:,}", formatting.percent(parts[part], total)]
        for part, label in PARAMETER_GROUPS.items()
        if parts.get(part)
    ]
    rows.append(["total", f"{total:,}", "100%"])
    return table(("part", "parameters", "percent"), rows, caption, total=True)


def _knobs(run_data: dict[str, Any]) -> Element | None:
    train = run_data["stages"]["base"]["sections"].get("train") or run_data["plan"].get("train")
    if not train:
        return None
    rate = f"{train['learning_rate']:g} at its peak, after {formatting.pluralize(train['warmup_steps'], 'step')} of warm-up"
    rows: list[tuple[str, Cell]] = [
        ("Optimizer", _optimizer(train)),
        (
            "Learning rate",
            f"{rate}; {train['lr_schedule'].replace('-', ' ')} decay to {100 * train['min_lr_ratio']:g}%",
        ),
        ("Batch", f"{train['batch_tokens']:,} tokens, in sequences of {train['sequence_length']:,}"),
        ("Precision", f"{train['precision']} matrix products, float32 weights"),
        (
            "Regularization",
            f"weight decay {train['weight_decay']:g}; "
            + (f"gradient norm clipped at {train['max_grad_norm']:g}" if train["max_grad_norm"] else "no clipping"),
        ),
    ]
    return key_values(rows)


def _optimizer(train: dict[str, Any]) -> str:
    if train["optimizer"] == "muon":
        return f"Muon (learning rate {train['muon_learning_rate']:g}) for block matrices, AdamW for the rest"
    return f"AdamW, β {train['beta1']:g} and {train['beta2']:g}"


def _loss(run_data: dict[str, Any], base: dict[str, Any]) -> Element | None:
    steps = run_data["steps"]
    if len(steps) < 2:
        return None
    return figure(
        "loss",
        training_plots.plot_training(steps),
        "Training loss (each step, and smoothed) and learning rate.",
        f"Two curves over {len(steps)} steps: the loss falls from {steps[0]['loss']:.2f} to {base['final_loss']:.2f}.",
    )


def _task_scores(base: dict[str, Any]) -> Element | None:
    """The tasks of train.harness; metrics that are no shares, such as perplexities, stand in eval.jsonl alone."""
    evaluations = base.get("validation", [])
    metrics = [
        name
        for name, value in (evaluations[0] if evaluations else {}).items()
        if " " in name and all(0 <= row.get(name, -1) <= 1 for row in evaluations)
    ]
    if len(evaluations) < 2 or not metrics:
        return None
    ends = (f"{name} {evaluations[0][name]:.3f} to {evaluations[-1][name]:.3f}" for name in metrics)
    return figure(
        "tasks-during-training",
        training_plots.plot_task_scores(evaluations, metrics),
        "Tasks of lm-evaluation-harness during training, on the first questions of each.",
        "; ".join(ends) + ".",
    )


def _held_out(run_data: dict[str, Any], base: dict[str, Any]) -> Element | None:
    evaluations = [evaluation for evaluation in base.get("validation", []) if "bits_per_byte" in evaluation]
    if len(evaluations) < 2:
        return None
    baselines = stage_metrics(run_data, "scores").get("baselines", {})
    levels = {name: baselines[name] for name in CURVE_BASELINES if name in baselines}
    return figure(
        "held-out",
        training_plots.plot_validation(evaluations, levels),
        "Bits per byte of held-out text during training, on a subset of the text that section “Evaluation” uses.",
        f"A curve from {evaluations[0]['bits_per_byte']:.2f} to {evaluations[-1]['bits_per_byte']:.2f}.",
    )
