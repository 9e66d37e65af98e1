"""Report section: the quantized model and its loss against the float model."""

from collections.abc import Callable
from typing import Any, NamedTuple

from groundup.report import formatting, quantization_plots, training_plots
from groundup.report.elements import Cell, Element, figure, paragraph, section, table
from groundup.report.run_data import stage_metrics

METHODS = {
    "float": "float", "rtn": "round to nearest", "gptq": "GPTQ", "awq": "AWQ", "autoround": "AutoRound", "nf4": "NF4",
    "float8": "float8", "smoothquant": "SmoothQuant",
}  # fmt: skip

TEXT_ORIGINS = {
    "corpus": "the same held-out text",
    "conversations": "conversations that were not used for calibration",
    "samples": "text that the float model wrote itself, since the recipe names none",
}


def quantization_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    metrics = stage_metrics(run_data, "quantized")
    if not metrics:
        return None
    return section(
        f"{metrics['bits']}-bit quantization",
        [_introduction(metrics), _compared(metrics), _price(metrics), _layers(metrics)],
    )


def _introduction(metrics: dict[str, Any]) -> Element:
    method, before, after = (_method_name(metrics["method"]), metrics["bytes"]["before"], metrics["bytes"]["after"])
    model = "the base model" if metrics.get("from", "base") == "base" else "the chat model"
    weights = metrics.get("weights", {})
    total = weights.get("quantized", 0) + weights.get("others", 0)
    percent = f", {formatting.percent(weights['quantized'], total)} of the parameters," if total else ""
    group = "each row" if metrics["group_size"] < 0 else f"{metrics['group_size']} weights"
    calibration = metrics.get("calibration_tokens")
    text = sum(calibration.values()) if isinstance(calibration, dict) else calibration
    return paragraph(
        f"The matrices of the transformer blocks of {model}{percent} were quantized to {metrics['bits']} bits by {method}, "
        f"with one scale for {group}: {metrics['bits_per_weight']:.2f} bits per weight with scales. "
        f"The file size fell from {formatting.byte_size(before)} to {formatting.byte_size(after)}."
        + (f" {method} used {text:,} calibration tokens." if text and metrics["method"] != "rtn" else "")
    )


def _method_name(name: str) -> str:
    return METHODS.get(name, name)


def _compared(metrics: dict[str, Any]) -> Element | None:
    held_out = _rows(metrics)
    if "float" not in held_out:
        return None
    columns = [column for column in COLUMNS if any(column.value(row, held_out["float"]) for row in held_out.values())]
    rows: list[list[Cell]] = [
        [_method_name(name), *(column.value(row, held_out["float"]) or "–" for column in columns)]
        for name, row in held_out.items()
    ]
    text = TEXT_ORIGINS[metrics.get("text_origin", "corpus")]
    note = (
        "A chat model has a higher loss on ordinary text than its base model."
        if metrics.get("from", "base") != "base"
        else ""
    )
    explained = [column.meaning for column in columns if column.meaning]
    return table(
        ("weights", *(column.name for column in columns)), rows,
        " ".join(filter(None, (f"Float and quantized models on {text}.", *explained, note))),
    )  # fmt: skip


def _rows(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Scores, memory and speed of each model."""
    processes = metrics.get("processes", {})
    return {name: {**row, **processes.get(name, {})} for name, row in metrics.get("held_out", {}).items()}


class _Column(NamedTuple):
    """A column of the table; `value` of a row and the row of the float model is None where there is none."""

    name: str
    value: Callable[[dict[str, Any], dict[str, Any]], str | None]
    meaning: str = ""


def _format(key: str, form: Callable[[Any], str]) -> Callable[[dict[str, Any], dict[str, Any]], str | None]:
    return lambda row, reference: form(row[key]) if row.get(key) is not None else None


def _compare(key: str, form: Callable[[Any], str]) -> Callable[[dict[str, Any], dict[str, Any]], str | None]:
    """Nothing in the row of the float model."""
    return lambda row, reference: form(row[key]) if row is not reference and row.get(key) is not None else None


def _divergence(row: dict[str, Any], reference: dict[str, Any]) -> str | None:
    if row is reference or row.get("kl_divergence") is None:
        return None
    bounds = row.get("kl_interval")
    return f"{row['kl_divergence']:.4f}" + (f" ± {(bounds[1] - bounds[0]) / 2:.4f}" if bounds else "")


def _loss_difference(row: dict[str, Any], reference: dict[str, Any]) -> str | None:
    """In bits per byte."""
    if row is reference or row.get("loss_difference") is None or not row.get("loss"):
        return None
    scale, bounds = row["bits_per_byte"] / row["loss"], row.get("loss_difference_interval")
    half = f" ± {scale * (bounds[1] - bounds[0]) / 2:.4f}" if bounds else ""
    return f"{scale * row['loss_difference']:+.4f}{half}"


def _first_task(row: dict[str, Any], reference: dict[str, Any]) -> str | None:
    for score in row.get("tasks", {}).values():
        bounds = score["interval"]
        return f"{100 * score['accuracy']:.0f}%" + (f" ({100 * bounds[0]:.0f}–{100 * bounds[1]:.0f})" if bounds else "")
    return None


COLUMNS = (
    _Column("size", _format("bytes", formatting.byte_size)),
    _Column("bits per byte", _format("bits_per_byte", "{:.3f}".format)),
    _Column(
        "difference", _loss_difference,
        "Difference: of the bits per byte from the float model's, with half of its 95% interval, paired by passage.",
    ),
    _Column("perplexity", _format("perplexity", "{:,.2f}".format)),
    _Column(
        "KL (nats)", _divergence,
        "KL divergence: from the float model's distribution of each token, with half of its 95% interval.",
    ),
    _Column(
        "top-1", _compare("top1_agreement", lambda value: f"{100 * value:.1f}%"),
        "Top-1: fraction of tokens for which both models rank the same token first.",
    ),
    _Column("cosine", _compare("cosine", "{:.4f}".format), "Cosine: of the embeddings by both models."),
    _Column("task", _first_task, "Task: the true continuation of a passage is likeliest among four, with the 95% interval."),
    _Column(
        "memory", _format("resident_bytes", formatting.byte_size),
        "Memory: resident, of a process that opened the model and wrote text, beyond the interpreter and PyTorch.",
    ),
    _Column("tokens/s", _format("tokens_per_second", "{:,.0f}".format)),
)  # fmt: skip


def _price(metrics: dict[str, Any]) -> Element | None:
    rows = [{"name": name, **row} for name, row in _rows(metrics).items() if "bytes" in row]
    picture = quantization_plots.plot_quality_against_size(rows) if rows else None
    if picture is None:
        return None
    return figure(
        "price-of-bits", picture, "Distance to the float model against the size of the weights: low and left is better.",
        f"{len(rows) - 1} quantized models and the size of the float model.",
    )  # fmt: skip


def _layers(metrics: dict[str, Any]) -> Element | None:
    layers = metrics.get("layers", [])
    if len(layers) < 2 or metrics["method"] == "rtn" or min(min(r["error"], r["rtn_error"]) for r in layers) <= 0:
        return None
    better = sum(row["error"] < row["rtn_error"] for row in layers)
    method = _method_name(metrics["method"])
    return figure(
        "layers",
        training_plots.plot_layer_errors(
            [row["layer"] for row in layers],
            [row["error"] for row in layers],
            [row["rtn_error"] for row in layers],
            method,
        ),
        f"Relative output error of each matrix on calibration text. {method} has a smaller error than rounding to "
        f"nearest in {better} of {len(layers)} matrices.",
        f"Two points for each of {len(layers)} matrices.",
    )
