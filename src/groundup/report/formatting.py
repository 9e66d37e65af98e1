"""Formatting of numbers and excerpts for reports. Numbers and units are joined by no-break spaces."""

from collections.abc import Mapping
from typing import Any

from groundup.artifacts.sanitize import sanitize_text

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


def count(value: float) -> str:
    """5212416 -> "5.21 million"; 12500 -> "12,500"."""
    return _scaled(value, {1e12: "trillion", 1e9: "billion", 1e6: "million"}) or f"{value:,.0f}"


def short_count(value: float) -> str:
    """5212416 -> "5.21 M"."""
    return _scaled(value, {1e12: "T", 1e9: "B", 1e6: "M", 1e3: "k"}) or f"{value:,.0f}"


def byte_size(value: float) -> str:
    """Bytes as B, kB, MB, GB or TB."""
    return _scaled(value, {1e12: "TB", 1e9: "GB", 1e6: "MB", 1e3: "kB"}) or f"{value:.0f}{NO_BREAK_SPACE}B"


def _scaled(value: float, units: dict[float, str]) -> str:
    """The value in its largest unit, with three digits; empty below all units."""
    for size, unit in units.items():
        if abs(value) >= size:
            return f"{three_digits(value / size)}{NO_BREAK_SPACE}{unit}"
    return ""


def money(value: float) -> str:
    """11227.4 -> "11,227"; 12.5 -> "12.50"; 0.00052 -> "0.00052"."""
    if 0 < value < 1:
        return f"{float(f'{value:.2g}'):f}".rstrip("0") if value >= 1e-6 else "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """75 -> "1 min 15 s"; days from three days up."""
    if seconds < 60:
        return f"{seconds:.1f}{NO_BREAK_SPACE}s" if seconds < 9.95 else f"{seconds:.0f}{NO_BREAK_SPACE}s"
    if seconds < 3600:
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes}{NO_BREAK_SPACE}min" + (f" {seconds}{NO_BREAK_SPACE}s" if seconds else "")
    if 10 * 3600 <= seconds < 72 * 3600:
        return f"{seconds / 3600:.0f}{NO_BREAK_SPACE}h"
    if seconds < 72 * 3600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours}{NO_BREAK_SPACE}h" + (f" {minutes}{NO_BREAK_SPACE}min" if minutes else "")
    return f"{seconds / 86400:.1f}{NO_BREAK_SPACE}days"


def three_digits(value: float) -> str:
    """Three significant digits without exponents: 5.21, 52.1, 521."""
    magnitude = abs(value)
    return f"{value:.2f}" if magnitude < 9.995 else f"{value:.1f}" if magnitude < 99.95 else f"{value:,.0f}"


def percent(part: float, total: float) -> str:
    """Percentage, with one decimal below ten; a dash for a total of 0."""
    if not total:
        return "–"
    percent = 100 * part / total
    if 0 < percent < 0.05:
        return "<0.1%"
    return f"{percent:.0f}%" if percent >= 9.95 or percent == 0 else f"{percent:.1f}%"


def interval(bounds: list[float] | None, digits: int = 3, separator: str = " to ") -> str:
    """[1.377, 1.449] -> "1.377 to 1.449"; a dash for None."""
    return f"{bounds[0]:.{digits}f}{separator}{bounds[1]:.{digits}f}" if bounds else "–"


def bits_before_after(scores: dict[str, Any]) -> str:
    """{"before": 2.0, "after": 2.5, "difference_interval": [0.4, 0.6]} -> "2.000 before, 2.500 after (+0.400 to +0.600)"."""
    bounds = scores.get("difference_interval")
    difference = f" ({bounds[0]:+.3f} to {bounds[1]:+.3f})" if bounds else ""
    return f"{scores['before']:.3f} before, {scores['after']:.3f} after{difference}"


def pluralize(count: int, singular: str, plural: str | None = None) -> str:
    """2, "step" -> "2 steps"."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def join_words(words: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def excerpt(text: str, max_characters: int, max_lines: int = 12) -> str:
    """The beginning of a text, with an ellipsis if truncated, at a word boundary if one is near."""
    text = sanitize_text(text).strip("\n")
    excerpt_text = "\n".join(text.split("\n")[:max_lines])
    if len(excerpt_text) > max_characters:
        excerpt_text = excerpt_text[:max_characters]
        space = excerpt_text.rfind(" ")
        excerpt_text = excerpt_text[:space] if space > 0.8 * max_characters else excerpt_text
    return excerpt_text if excerpt_text == text else excerpt_text.rstrip() + " …"


def kept_weights(metrics: Mapping[str, Any]) -> str:
    """Which weights a training kept and where it stopped; empty: those of the last planned step.

    >>> kept_weights({"steps": 700, "kept_step": 420, "stopped_early": True})
    'weights of step 420, the best on held-out text; stopped early, after step 700'
    """
    kept, steps = metrics.get("kept_step"), metrics.get("steps", 0)
    words = f"weights of step {kept:,}, the best on held-out text" if kept not in (None, steps) else ""
    stop = f"stopped early, after step {steps:,}" if metrics.get("stopped_early") else f"the last was step {steps:,}"
    return f"{words}; {stop}" if words else stop if metrics.get("stopped_early") else ""
