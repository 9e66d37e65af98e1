"""FineWeb quality filter. Source: Penedo et al. 2024, arXiv:2406.17557, section 3.4 and appendix C."""

from groundup.data.clean.language import detect_language
from groundup.data.clean.language_rules import CHARACTERS_PER_WORD, split_words
from groundup.data.clean.repetition import count_repeated
from groundup.data.clean.step_types import FilterFunction
from groundup.recipe.data_config import FineWebConfig

ENDS = tuple(".!?。！？…．؟۔।॥։።។။‼⁇⁈⁉")


def fineweb_filter(config: FineWebConfig) -> FilterFunction:
    """Filter for web pages."""

    def drop_reason(text: str) -> str | None:
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            return "empty"
        if sum(line.endswith(ENDS) for line in lines) / len(lines) < config.min_punctuated_lines_ratio:
            return "few_ended_lines"
        short_line = config.short_line_length * CHARACTERS_PER_WORD.get(detect_language(text)[0], 6) / 6
        if sum(len(line) <= short_line for line in lines) / len(lines) > config.max_short_lines_ratio:
            return "short_lines"
        if count_repeated(lines)[1] / len(text.replace("\n", "")) > config.max_duplicate_characters_ratio:
            return "repeated_lines"
        if text.count("\n") / len(split_words(text)) > config.max_newlines_per_word:
            return "list"
        return None

    return drop_reason
