"""FineWeb's additions. Source: Penedo et al. 2024, arXiv:2406.17557, section 3.4 and appendix C."""

from collections.abc import Callable

from groundup.data.clean.repetition import count_repeated
from groundup.recipe.data_config import FineWebConfig

ENDS = (
    ".",
    "!",
    "?",
    "。",
    "！",
    "？",
    "…",
    "．",
    "؟",
    "۔",
    "।",
    "॥",
    "։",
    "።",
    "។",
    "။",
    "‼",
    "⁇",
    "⁈",
    "⁉",
)


def fineweb_filter(settings: FineWebConfig) -> Callable[[str], str | None]:
    """A judge with the thresholds of `settings`."""

    def drop_reason(text: str) -> str | None:
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            return "empty"
        if sum(line.endswith(ENDS) for line in lines) / len(lines) < settings.min_punctuated_lines_ratio:
            return "few_ended_lines"
        if (
            sum(len(line) <= settings.short_line_length for line in lines) / len(lines)
            > settings.max_short_lines_ratio
        ):
            return "short_lines"
        if count_repeated(lines)[1] / len(text.replace("\n", "")) > settings.max_duplicate_characters_ratio:
            return "repeated_lines"
        if text.count("\n") / len(text.split()) > settings.max_newlines_per_word:
            return "list"
        return None

    return drop_reason
