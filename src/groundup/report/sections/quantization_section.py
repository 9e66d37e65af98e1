"""Report section: the quantized model and its loss against the float model."""

from typing import Any

from groundup.report import formatting, training_plots
from groundup.report.elements import Cell, Element, figure, paragraph, section, table
from groundup.report.run_data import stage_metrics

METHODS = {"float": "float", "rtn": "round to nearest", "gptq": "GPTQ", "awq": "AWQ"}

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
        f"{metrics['bits']}-bit quantization", [_introduction(metrics), _compared(metrics), _layers(metrics)]
    )


def _introduction(metrics: dict[str, Any]) -> Element:
    method, before, after = (METHODS[metrics["method"]], metrics["bytes"]["before"], metrics["bytes"]["after"])
    model = "the base model" if metrics.get("from", "base") == "base" else "the chat model"
    weights = metrics.get("weights", {})
    total = weights.get("quantized", 0) + weights.get("others", 0)
    percent = f", {formatting.percent(weights['quantized'], total)} of the parameters," if total else ""
    calibration = metrics.get("calibration_tokens")
    text = sum(calibration.values()) if isinstance(calibration, dict) else calibration
    return paragraph(
        f"The matrices of the transformer blocks of {model}{percent} were quantized to {metrics['bits']} bits by {method}, "
        f"with one scale for {metrics['group_size']} weights: {metrics['bits_per_weight']:.2f} bits per weight with scales. "
        f"The file size fell from {formatting.byte_size(before)} to {formatting.byte_size(after)}."
        + (f" {method} used {text:,} calibration tokens." if text and metrics["method"] != "rtn" else "")
    )


def _compared(metrics: dict[str, Any]) -> Element | None:
    held_out = metrics.get("held_out", {})
    if "float" not in held_out:
        return None
    text = TEXT_ORIGINS[metrics.get("text_origin", "corpus")]
    note = (
        " A chat model has a higher loss on ordinary text than its base model."
        if metrics.get("from", "base") != "base"
        else ""
    )
    rows: list[list[Cell]] = [
        [
            METHODS[name],
            f"{row['bits_per_byte']:.3f}",
            "–" if name == "float" else f"{row['bits_per_byte'] - held_out['float']['bits_per_byte']:+.3f}",
            "–" if name == "float" else f"{row['kl_divergence']:.4f}",
            "–" if name == "float" else f"{100 * row['top1_agreement']:.1f}%",
        ]
        for name, row in held_out.items()
    ]
    return table(
        ("weights", "bits per byte", "increase", "KL divergence (nats)", "top-1 agreement"),
        rows,
        f"Float and quantized models on {text}. KL divergence: from the float model's next-token "
        "distribution. Top-1 agreement: fraction of tokens for which both models rank the same token first." + note,
    )


def _layers(metrics: dict[str, Any]) -> Element | None:
    layers = metrics.get("layers", [])
    if len(layers) < 2 or metrics["method"] == "rtn" or min(min(r["error"], r["rtn_error"]) for r in layers) <= 0:
        return None
    better = sum(row["error"] < row["rtn_error"] for row in layers)
    method = METHODS[metrics["method"]]
    return figure(
        "layers",
        training_plots.plot_layer_errors(
            [row["layer"] for row in layers],
            [row["error"] for row in layers],
            [row["rtn_error"] for row in layers],
            method,
        ),
        f"Relative output error of each layer on calibration text. {method} has a smaller error than rounding to "
        f"nearest in {better} of {len(layers)} layers.",
        f"Two points for each of {len(layers)} layers.",
    )
