"""Gopher quality filter. Source: Rae et al. 2021, arXiv:2112.11446, table A1.

Words are separated by spaces; datatrove splits them with a tokenizer. tests/data compares the decisions.
"""

import re

from groundup.data.clean.step_types import FilterFunction
from groundup.recipe.data_config import GopherQualityConfig

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("•", "-", "*", "‣", "◦", "▪", "●")
LETTER = re.compile(r"[^\W\d_]")
PUNCTUATION = ".,;:!?\"'()[]{}…—–-“”‘’«»*/\\|<>`~_#&^%$@+="


def gopher_quality_filter(config: GopherQualityConfig) -> FilterFunction:
    """Filter for prose; the reason is the first rule that a text breaks."""

    def drop_reason(text: str) -> str | None:
        words = [bare for word in text.split() if (bare := word.strip(PUNCTUATION))]
        if not words or len(words) < config.min_words:
            return "few_words"
        if len(words) > config.max_words:
            return "many_words"
        mean = sum(map(len, words)) / len(words)
        if mean < config.min_mean_word_length:
            return "short_words"
        if mean > config.max_mean_word_length:
            return "long_words"
        if text.count("#") / len(words) > config.max_symbol_ratio:
            return "hashes"
        if (text.count("...") + text.count("…")) / len(words) > config.max_symbol_ratio:
            return "ellipses"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if sum(line.startswith(BULLETS) for line in lines) / len(lines) > config.max_bullet_lines_ratio:
            return "bullets"
        ellipsis_lines = sum(line.endswith(("...", "…")) for line in lines)
        if ellipsis_lines / len(lines) > config.max_ellipsis_lines_ratio:
            return "ellipsis_lines"
        alphabetic = sum(word.isalpha() or LETTER.search(word) is not None for word in words)
        if alphabetic / len(words) < config.min_alphabetic_words_ratio:
            return "no_letters"
        if len(STOP_WORDS.intersection(word.lower() for word in words)) < config.min_stop_words:
            return "no_stop_words"
        return None

    return drop_reason
