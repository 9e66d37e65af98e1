"""Sections of the blueprint on what is built: goal, model, data, storage, tokenizer, scaling, training."""

from typing import Any

from groundup.plan.scaling.expected_loss import SMALL_LAW_MARGIN, is_published_range
from groundup.plan.scaling.loss_law import INTERVAL_MARGIN
from groundup.recipe import build_model_config
from groundup.report import formatting
from groundup.report.blueprint.blueprint_plots import plot_isoflop
from groundup.report.blueprint.model_drawing import draw_model
from groundup.report.elements import Cell, Element, code, figure, key_values, paragraph, section, strong, table
from groundup.report.sections.cover_page import describe_model
from groundup.report.sections.pretraining_section import parameter_table

RESULTS = {
    "data": ("cleaned, deduplicated text", "what was dropped is counted under its reason"),
    "tokenizer": ("tokenizer, and the text as tokens", "fixed before training"),
    "base": ("the given model, checked", "start of the stages below"),
    "train": ("base model", "continues texts"),
    "evaluate": ("scores of the base model", "held-out text, tasks, samples"),
    "finetune": ("tuned model", "learns its task from examples"),
    "preference": ("tuned model", "prefers the better of two answers"),
    "reinforcement": ("tuned model", "learns from rewards"),
    "quantize": ("quantized model", "compared with the float model"),
    "export": ("files for other programs", "round trip checked"),
    "report": ("report of the run", "PDF and HTML, with this plan beside the outcome"),
}
"""What the stages of each table of a recipe make, and what it is for."""
OPTIMAL_RATIO = 20
DASH = "–"


def goal_phrase(plan: dict[str, Any]) -> str:
    """What the recipe makes, as a phrase."""
    recipe, architecture = plan["blueprint"]["recipe"], plan["model"]["architecture"]
    tuning = recipe.get("finetune") or {}
    if tuning.get("task") in ("embedding", "classification"):
        kind = "a model for search" if tuning["task"] == "embedding" else "a classifier of texts"
    elif architecture == "encoder":
        kind = "an encoder of texts"
    elif architecture == "encoder_decoder":
        kind = "a model that turns texts into other texts"
    else:
        kind = "a chat model" if tuning else "a language model"
    return f"{kind} of {formatting.count(plan['parameters']['total'])} parameters"


def goal_section(plan: dict[str, Any]) -> dict[str, Any]:
    facts, train, budget = plan["blueprint"], plan["train"], plan["budget"]
    rows = [(f"[{name}]", *RESULTS[name]) for name in RESULTS if facts["recipe"].get(name) is not None]
    low, high = facts["cost"]["low"], facts["cost"]["high"]
    currency = facts["cost"]["currency"]
    asked: list[tuple[str, Cell]] = [
        ("Hardware", f"{budget['devices']:,} × {facts['device']['label'] or budget['hardware']}"),
        (
            "Time",
            f"{_hours(facts['hours'])}; from {_hours(facts['hours_range'][0])} to {_hours(facts['hours_range'][1])}",
        ),
        (
            "Money",
            f"{formatting.money(facts['cost']['total'])} {currency}; from {formatting.money(low)} to {formatting.money(high)}",
        ),
        ("Text", _text_asked(plan)),
    ]
    return section(
        "Goal",
        [
            paragraph(
                "The run makes ",
                strong(goal_phrase(plan)),
                f", trained on {formatting.count(train['tokens'])} tokens of text. "
                "Every stage ends in a folder with a manifest of its files and their hashes, so that each can be checked, "
                "repeated and continued on its own.",
            ),
            table(("table of the recipe", "result", "for"), rows, "Stages and their results.", align="lll"),
            paragraph("What it takes, with the ranges that section “Cost” explains:"),
            key_values(asked),
        ],
    )


def _text_asked(plan: dict[str, Any]) -> str:
    missing = plan["blueprint"]["tokens_missing"]
    known = (plan.get("data") or {}).get("tokens")
    if known is None:
        need = formatting.count(missing)
        return f"{need} tokens at least, read up to {plan['blueprint']['max_epochs']} times; none was found on this machine"
    if missing:
        return f"{formatting.count(known)} tokens are here; {formatting.count(missing)} more are needed"
    return f"{formatting.count(known)} tokens are here: enough"


def _hours(hours: float) -> str:
    return formatting.duration(3600 * hours)


def model_section(plan: dict[str, Any]) -> dict[str, Any]:
    model, parameters = plan["model"], plan["parameters"]
    svg, alt = draw_model(build_model_config(model))
    sparse = parameters["active"] < parameters["total"]
    knobs: list[tuple[str, Cell]] = [
        ("Context", f"{model['context_length']:,} tokens"),
        (
            "Attention",
            f"{model['num_heads']} heads of {model['head_dim']}, {model['num_kv_heads']} of keys and values; "
            f"{model['position_embedding'].replace('rope', 'rotary').replace('_', ' ')} position embedding",
        ),
        ("Feed-forward", f"{model['feed_forward']}, intermediate size {model['intermediate_size']:,}"),
        (
            "Norm",
            f"{model['norm'].replace('_', ' ')}, placed {model['norm_placement'].replace('_', ' ')}"
            f"{', also on queries and keys' if model.get('qk_norm') else ''}",
        ),
        ("Output head", "tied to the token embedding" if model.get("tie_embeddings") else "weights of its own"),
    ]
    return section(
        "Model",
        [
            paragraph(
                "A ",
                strong(describe_model(model)),
                f": {formatting.count(parameters['total'])} parameters"
                + (f", of which a token uses {formatting.count(parameters['active'])}." if sparse else "."),
            ),
            figure(
                "model",
                svg,
                "The model: the whole at the left, one block at the right. Black: shapes, from inputs to outputs "
                "of each matrix; blue: parameters; T: tokens of a text.",
                alt,
            ),
            parameter_table(parameters, parameters["total"], "Parameters by part."),
            key_values(knobs),
        ],
    )


def data_section(plan: dict[str, Any]) -> dict[str, Any]:
    facts, train, data = plan["blueprint"], plan["train"], plan.get("data") or {}
    rows = [
        (
            source["name"],
            source["kind"],
            source["place"],
            "not here" if source["bytes"] is None else formatting.byte_size(source["bytes"]),
        )
        for source in facts["sources"]
    ]
    needed, missing = train["tokens"], facts["tokens_missing"]
    available = data.get("tokens")
    balance: list[tuple[str, Cell]] = [
        ("Training reads", f"{formatting.count(needed)} tokens"),
        (
            "On this machine",
            DASH
            if available is None
            else f"{formatting.count(available)} tokens"
            + (", estimated from the size of the files" if data.get("estimated") else ""),
        ),
        (
            "Passes",
            DASH
            if available is None
            else f"{needed / available:.3g} over the text; up to {facts['max_epochs']} passes "
            "are almost worth new text (Muennighoff et al. 2023)",
        ),
        (
            "Missing",
            [
                strong(f"{formatting.count(missing)} tokens" if missing else "nothing"),
                f": about {formatting.byte_size(4 * missing)} of text" if missing else "",
            ],
        ),
    ]
    if available is not None and facts["effective_tokens"] < 0.9 * needed:
        effective = formatting.count(facts["effective_tokens"])
        balance.append(("Effective", f"read so often, the text counts as {effective} tokens that are read once"))
    storage = facts["storage"]
    disk = [
        ("text as it is read", formatting.byte_size(storage["text"]), "source files, uncompressed"),
        ("cleaned text", formatting.byte_size(storage["corpus"]), "01-data, at most"),
        ("tokens", formatting.byte_size(storage["tokens"]), "03-tokens, one pass"),
        (
            "checkpoints",
            formatting.byte_size(storage["checkpoints"]),
            "while training runs: weights and optimizer state",
        ),
        ("models", formatting.byte_size(storage["models"]), "the trained model, and one for each later stage"),
        ("total", formatting.byte_size(storage["total"]), ""),
    ]
    return section(
        "Data and storage",
        [
            table(("source", "kind", "place", "text"), rows, "Sources of text.", align="lllr") if rows else None,
            key_values(balance),
            table(("on disk", "size", "what"), disk, "Storage.", align="lrl", total=True),
        ],
    )


def tokenizer_section(plan: dict[str, Any]) -> dict[str, Any] | None:
    config = plan["blueprint"]["recipe"].get("tokenizer")
    if config is None:
        return None
    parameters, vocabulary = plan["parameters"], plan["model"]["vocab_size"]
    embedded = parameters["embedding"] + parameters["head"]
    rows: list[tuple[str, Cell]] = [
        (
            "Method",
            "given: " + str(config["pretrained"])
            if config.get("pretrained")
            else "byte-level byte-pair encoding, trained on the text",
        ),
        ("Vocabulary", f"{vocabulary:,} entries, of which the model stores {vocabulary:,} rows"),
        ("Cost", f"embedding and head are {formatting.percent(embedded, parameters['total'])} of the parameters"),
        (
            "Expected",
            "about 4 bytes of English text per token; other languages and code fewer: 02-tokenizer measures it",
        ),
    ]
    return section("Tokenizer", [key_values(rows)])


def scaling_section(plan: dict[str, Any]) -> dict[str, Any] | None:
    if (scaling := plan.get("scaling")) is None:
        return None
    curve, loss = scaling["isoflop"], scaling["bits_per_byte"]
    interval = (scaling["loss"]["low"], scaling["loss"]["high"])
    ratio, penalty = plan["tokens_per_parameter"], curve["penalty"]
    side = (
        "smaller and trained longer, which makes it cheaper to use"
        if curve["chosen"][0] < curve["minimum"][0]
        else "larger"
    )
    comparison = (
        "within 2% of the best use of this compute"
        if penalty < 1.02
        else f"{side} than the best model of this compute; it spends {100 * (penalty - 1):.0f}% "
        "more compute than needed for its loss"
    )
    budgets = [
        (
            f"{step['factor']:g} ×",
            formatting.short_count(step["parameters"]),
            formatting.short_count(step["tokens"]),
            f"{step['loss']:.3f}",
            f"{step['change']:+.3f}",
        )
        for step in scaling["other_budgets"]
    ]
    ladder = plan.get("predicted_loss")
    own: list[Element] = []
    if ladder:
        own.append(
            paragraph(
                "The ladder of small models of this recipe, trained on this text, predicts ",
                strong(f"{ladder['loss']:.3f} bits per byte"),
                f" (90% interval {ladder['low']:.3f} to {ladder['high']:.3f}, from "
                f"{ladder['rungs']} models). It replaces the numbers below.",
            )
        )
    return section(
        "Scaling",
        [
            paragraph(
                f"The plan trains on {formatting.three_digits(ratio)} tokens per parameter; "
                f"{OPTIMAL_RATIO} are compute-optimal for "
                f"common text (Hoffmann et al. 2022). The model is {comparison}."
            ),
            *own,
            figure(
                "isoflop",
                plot_isoflop(
                    curve["parameters"], curve["losses"], curve["chosen"], curve["minimum"], curve["unit"], interval
                ),
                f"Models of the same compute ({curve['compute']:.2g} operations) by the law of "
                f"{scaling['law']}." + _interval_words(scaling),
                f"A curve with its lowest loss at {formatting.short_count(curve['minimum'][0])} parameters; the plan is at "
                f"{formatting.short_count(curve['chosen'][0])} with {curve['chosen'][2]:.2f} {curve['unit']}.",
            ),
            paragraph(
                "Expected loss: ",
                strong(f"{loss['loss']:.2f} bits per byte"),
                f" of held-out English text, interval {loss['low']:.2f} to {loss['high']:.2f}. ",
                "The published laws are of web text and models from 44 million parameters up. "
                if is_published_range(scaling["effective_parameters"], plan["train"]["tokens"])
                else "Published laws begin at 44 million parameters; this one was fitted to smaller trainings of this program. ",
                "Compare plans with it; the loss on this text, a ladder of small models tells (",
                code("groundup ladder"),
                ").",
            ),
            table(
                ("budget", "parameters", "tokens", "loss", "change"),
                budgets,
                "What other budgets buy, at the same number of tokens per parameter.",
            ),
        ],
    )


def _interval_words(scaling: dict[str, Any]) -> str:
    """What the bar of the figure shows; nothing for a law without one, that of a ladder."""
    if scaling["loss"]["low"] == scaling["loss"]["high"]:
        return ""
    return (
        f" The bar is the interval of three published laws, and {100 * INTERVAL_MARGIN:.0f}% beyond."
        if scaling["is_published"]
        else f" The bar is the interval: {100 * SMALL_LAW_MARGIN:.0f}% either way."
    )


def training_section(plan: dict[str, Any]) -> dict[str, Any]:
    train, scaling = plan["train"], plan.get("scaling")
    optimizer = (
        f"Muon, learning rate {train['muon_learning_rate']:g}, for the matrices of blocks; AdamW for the rest"
        if train["optimizer"] == "muon"
        else f"AdamW, β {train['beta1']:g} and {train['beta2']:g}, weight decay {train['weight_decay']:g}"
    )
    rows: list[tuple[str, Cell]] = [
        (
            "Steps",
            f"{train['steps']:,}, each of {train['batch_tokens']:,} tokens in sequences of {train['sequence_length']:,}",
        ),
        ("Optimizer", optimizer),
        (
            "Learning rate",
            f"{train['learning_rate']:g} after {formatting.pluralize(train['warmup_steps'], 'step')} of warm-up; "
            f"{train['lr_schedule'].replace('-', ' ')} to {100 * train['min_lr_ratio']:g}%",
        ),
        ("Precision", f"{train['precision']} products, float32 weights"),
        ("Clipping", f"gradient norm at {train['max_grad_norm']:g}" if train["max_grad_norm"] else "none"),
        (
            "Evaluation",
            f"every {formatting.pluralize(train['evaluate_every'], 'step')} on held-out text"
            f"{'; the best weights are kept' if train.get('keep_best_weights') else ''}",
        ),
    ]
    milestones = [
        (
            formatting.percent(part, 1),
            f"{max(1, round(part * train['steps'])):,}",
            formatting.count(part * train["tokens"]),
            f"{loss:.2f}",
        )
        for part, loss in (scaling["milestones"] if scaling else ())
    ]
    return section(
        "Training",
        [
            key_values(rows),
            table(
                ("done", "step", "tokens", "loss"),
                milestones,
                f"Milestones: the loss, in {scaling['unit']}, of a training that ends "
                "there, by the law of section “Scaling”. On the way losses are up "
                "to a tenth higher, until the learning rate has fallen.",
            )
            if scaling
            else None,
        ],
    )
