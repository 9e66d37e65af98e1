"""Gopher quality filter. Source: Rae et al. 2021, arXiv:2112.11446, table A1.

Words are separated by spaces; datatrove splits them with a tokenizer. tests/data compares the decisions. Stop words,
word lengths and the words of scripts without spaces follow the language (language_rules.py).
"""

import re

from groundup.data.clean.language_rules import count_stop_words, split_words, word_length_limits
from groundup.data.clean.step_types import FilterFunction
from groundup.recipe.data_config import GopherQualityConfig

BULLETS = ("•", "-", "*", "‣", "◦", "▪", "●")
LETTER = re.compile(r"[^\W\d_]")
PUNCTUATION = ".,;:!?\"'()[]{}…—–-“”‘’«»*/\\|<>`~_#&^%$@+=，。、；：？！「」『』《》〈〉【】（）・．।॥۔،؛؟"


def gopher_quality_filter(config: GopherQualityConfig) -> FilterFunction:
    """Filter for prose; the reason is the first rule that a text breaks."""

    def drop_reason(text: str) -> str | None:
        words = [bare for word in split_words(text) if (bare := word.strip(PUNCTUATION))]
        if not words or len(words) < config.min_words:
            return "few_words"
        if len(words) > config.max_words:
            return "many_words"
        mean = sum(map(len, words)) / len(words)
        shortest, longest = word_length_limits(text, config.min_mean_word_length, config.max_mean_word_length)
        if mean < shortest:
            return "short_words"
        if mean > longest:
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
        stop_words = count_stop_words(text, words)
        if stop_words is not None and stop_words < config.min_stop_words:
            return "no_stop_words"
        return None

    return drop_reason
