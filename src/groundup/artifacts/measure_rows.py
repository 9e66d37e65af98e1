"""Language measures as rows of a table, for the terminal and the report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MeasureRow = tuple[str, str, str, str]
"""Measure, value, 95% interval, and what to compare it with."""

MEASURE_COLUMNS = ("measure", "value", "95% interval", "beside it")
KINDS = {"temperature_1": "temperature 1", "greedy": "greedy"}


def measure_rows(measures: Mapping[str, Any]) -> Iterator[MeasureRow]:
    """A row for each measure that there is."""
    for language, row in measures.get("languages", {}).items():
        bounds = _bounds(row["bits_per_byte_interval"], "{:.3f}")
        count = f"{row['documents']:,} document{'' if row['documents'] == 1 else 's'}"
        yield f"bits per byte, language {language}", f"{row['bits_per_byte']:.3f}", bounds, count
    if calibration := measures.get("calibration"):
        beside = f"mean probability less accuracy: {calibration['overconfidence']:+.3f}"
        yield "calibration error", f"{calibration['error']:.3f}", _bounds(calibration["interval"], "{:.3f}"), beside
    samples = measures.get("samples", {})
    for key, name in KINDS.items() if samples else ():
        row, text = samples[key], samples["held_out"]
        for label, value, interval, other in (
            ("repeated 4-grams", _percent(row["repeated_4grams"]), _bounds(row["repeated_4grams_interval"], "{:.1%}"),
             _percent(text["repeated_4grams"])),
            ("distinct 1-, 2-, 3-grams", _distinct(row), "", _distinct(text)),
            ("longest loop", f"{row['longest_loop']} tokens", "", f"{text['longest_loop']} tokens"),
            ("longest overlap with training", f"{row.get('longest_overlap')} tokens", "",
             f"{text.get('longest_overlap')} tokens"),
        ):  # fmt: skip
            if "overlap" not in label or "longest_overlap" in row:
                yield f"{label}, {name}", value, interval, f"held-out text: {other}"
    if memorization := measures.get("memorization"):
        row, text = memorization["train"], memorization["held_out"]
        beside = f"held-out text: {_percent(text['share'])} ({_bounds(text['interval'], '{:.1%}')})"
        yield "memorized passages", _percent(row["share"]), _bounds(row["interval"], "{:.1%}"), beside
    if needle := measures.get("needle"):
        beside = f"chance: {needle['chance']:.1%}"
        yield "needle in context", _percent(needle["accuracy"]), _bounds(needle["interval"], "{:.1%}"), beside
        for length in dict.fromkeys(cell["length"] for cell in needle["cells"]):
            cells = [cell for cell in needle["cells"] if cell["length"] == length]
            mean = sum(cell["accuracy"] for cell in cells) / len(cells)
            nats = " ".join(f"{cell['advantage']:+.1f}" for cell in cells)
            yield f"needle, {length:,} tokens", _percent(mean), "", f"nats by depth: {nats}"


def _bounds(interval: Sequence[float] | None, form: str) -> str:
    return " to ".join(form.format(bound) for bound in interval) if interval else "–"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _distinct(row: Mapping[str, Any]) -> str:
    values = (row[f"distinct_{n}"] for n in (1, 2, 3))
    return ", ".join("–" if value is None else f"{value:.2f}" for value in values)
