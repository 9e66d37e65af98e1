"""What fewer bits a weight cost."""

from typing import Any

from groundup.report import formatting, training_plots
from groundup.report.elements import Cell, Element, figure, paragraph, section, table
from groundup.report.run_data import stage_metrics

METHODS = {"float": "as trained", "rtn": "round to nearest", "gptq": "GPTQ", "awq": "AWQ"}


def quantization_section(facts: dict[str, Any]) -> dict[str, Any] | None:
    found = stage_metrics(facts, "quantized")
    if not found:
        return None
    return section(f"What {found['bits']} bits cost", [_words(found), _compared(found), _layers(found)])


def _words(found: dict[str, Any]) -> Element:
    method, before, after = _name(found["method"]), found["bytes"]["before"], found["bytes"]["after"]
    which = "The chat model's weights" if found.get("from") == "chat" else "The weights"
    weights = found.get("weights", {})
    whole = weights.get("quantized", 0) + weights.get("others", 0)
    part = f"{formatting.percent(weights['quantized'], whole)} of them, the" if whole else "the"
    looked = found.get("calibration_tokens")
    text = sum(looked.values()) if isinstance(looked, dict) else looked
    return paragraph(
        f"{which} were rounded to {found['bits']} bits by {method}: {part} matrices of the blocks, in groups of "
        f"{found['group_size']} that share a scale, {found['bits_per_weight']:.2f} bits a weight with the scales. "
        f"The file went from {formatting.byte_size(before)} to {formatting.byte_size(after)}."
        + (
            f" {method} looked at {text:,} tokens of calibration text."
            if text and found["method"] != "rtn"
            else ""
        )
    )


def _name(method: str) -> str:
    return METHODS.get(method) or method


def _compared(found: dict[str, Any]) -> Element | None:
    held_out = found.get("held_out", {})
    if "float" not in held_out:
        return None
    rows: list[list[Cell]] = [
        [
            _name(name),
            f"{row['bits_per_byte']:.3f}",
            "–" if name == "float" else f"{row['bits_per_byte'] - held_out['float']['bits_per_byte']:+.3f}",
            "–" if name == "float" else f"{row['kl_divergence']:.4f}",
            "–" if name == "float" else f"{100 * row['top1_agreement']:.1f}%",
        ]
        for name, row in held_out.items()
    ]
    return table(
        ("weights", "bits per byte", "more", "divergence (nats)", "same choice"),
        rows,
        "Before and after, on the same held-out text. Divergence: of the next-token probabilities from those of the "
        "model as trained. Same choice: how often both hold the same token for the likeliest."
        + (
            " What counts is the difference: learning to converse costs the chat model some foresight of ordinary text."
            if found.get("from") == "chat"
            else ""
        ),
    )


def _layers(found: dict[str, Any]) -> Element | None:
    layers = found.get("layers", [])
    if (
        len(layers) < 2
        or found["method"] == "rtn"
        or min(min(r["error"], r["rtn_error"]) for r in layers) <= 0
    ):
        return None
    better = sum(row["error"] < row["rtn_error"] for row in layers)
    method = _name(found["method"])
    return figure(
        "layers",
        training_plots.plot_layer_errors(
            [row["layer"] for row in layers],
            [row["error"] for row in layers],
            [row["rtn_error"] for row in layers],
            method,
        ),
        f"The error that rounding leaves in the output of each layer, on calibration text. {method} does better than "
        f"rounding to nearest in {better} of {len(layers)}.",
        f"Two dots for each of {len(layers)} layers.",
    )
