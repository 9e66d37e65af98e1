"""The price of bits as lines of text: one quantized model, or a table of several."""

from typing import Any

COLUMNS = (
    ("model", 12), ("size", 9), ("KL (nats)", 16), ("top-1", 7), ("perplexity", 10), ("task", 17), ("memory", 9), ("tokens/s", 9),
)  # fmt: skip
"""Names and widths."""


def price_heading() -> str:
    return "  ".join(name.ljust(width) if at == 0 else name.rjust(width) for at, (name, width) in enumerate(COLUMNS))


def format_row(row: dict[str, Any]) -> str:
    """One line of the table, under `price_heading`."""
    cells = (
        row["name"], _megabytes(row["bytes"]), quality(row), _percent(row.get("top1_agreement")),
        f"{row['perplexity']:.3f}" if "perplexity" in row else "-", _task(row), _megabytes(row.get("resident_bytes")),
        f"{row['tokens_per_second']:.1f}" if "tokens_per_second" in row else "-",
    )  # fmt: skip
    widths = [width for _, width in COLUMNS]
    padded = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *padded])


def quality(row: dict[str, Any]) -> str:
    """KL divergence with half the width of its interval; the distance of the embeddings where nothing is predicted."""
    if row["name"] == "float":
        return "-"
    if "kl_divergence" not in row:
        return f"1 - cos {1 - row['cosine']:.2g}"
    bounds = row.get("kl_interval")
    return f"{row['kl_divergence']:.4f}" + (f" ±{(bounds[1] - bounds[0]) / 2:.4f}" if bounds else "")


def worse_than_rounding(method: str, row: dict[str, Any], nearest: dict[str, Any]) -> str | None:
    """A line about a method whose scores are worse than those of plain rounding to as many bits; None: they are not."""
    found, plain = (scores.get("kl_divergence") for scores in (row, nearest))
    if method == "rtn" or found is None or plain is None or found <= plain:
        return None
    return (
        f"{method} comes out worse than plain rounding, KL {found:.4f} against {plain:.4f}: other or more calibration text, or "
        "another method"
    )


def format_price(summary: dict[str, Any]) -> str:
    """The summary of one quantized model."""
    before, after = (summary["bytes"][when] / 1e6 for when in ("before", "after"))
    weights = summary["weights"]
    bits = "bits by layer" if summary["bits_by_layer"] else f"{summary['bits']} bits"
    rows = {
        "method": f"{summary['method']}, {bits}, {_groups(summary['group_size'])}",
        "bits per weight": f"{summary['bits_per_weight']:.2f}",
        "size": f"{before:.2f} MB before, {after:.2f} MB after",
        "weights": f"{weights['quantized']:,} quantized, {weights['others']:,} others",
    }
    if "mean_error" in summary:
        rows["mean layer error"] = f"{summary['mean_error']:.2%}, with rounding alone {summary['mean_rtn_error']:.2%}"
    found, reference = (summary.get("held_out", {}).get(name, {}) for name in (summary["method"], "float"))
    if "kl_divergence" in found:
        rows["KL to the float"] = (
            f"{quality(found | {'name': ''})} nats a token on {summary['eval_tokens']:,} other tokens"
        )
        if summary["method"] != "rtn" and "rtn" in summary["held_out"]:
            rows["rounding alone"] = f"{quality(summary['held_out']['rtn'] | {'name': ''})} nats a token"
        rows["same first token"] = _percent(found["top1_agreement"])
        rows["perplexity"] = f"{reference['perplexity']:.3f} before, {found['perplexity']:.3f} after"
    if "cosine" in found:
        rows["embeddings"] = f"cosine {found['cosine']:.4f} to those of the float model"
    return "\n".join(f"{key:<18} {value}" for key, value in rows.items())


def _groups(size: int) -> str:
    return "a scale for each row" if size < 0 else f"groups of {size}"


def _task(row: dict[str, Any]) -> str:
    """Accuracy and interval of the first task."""
    for score in row.get("tasks", {}).values():
        bounds = score["interval"]
        return f"{score['accuracy']:.0%}" + (f" ({bounds[0]:.0%} to {bounds[1]:.0%})" if bounds else "")
    return "-"


def _megabytes(count: float | None) -> str:
    return "-" if count is None else f"{count / 1e6:,.1f} MB"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.1%}"
