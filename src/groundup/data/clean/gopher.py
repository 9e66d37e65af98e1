"""Gopher's rules of quality. Source: Rae et al. 2021, arXiv:2112.11446, table A1.

A word is what stands between spaces. Published code (datatrove) splits with a tokenizer first; the verdicts
are compared in tests/data.
"""

import re
from collections.abc import Callable

from groundup.recipe.data_config import GopherQualityConfig

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("•", "-", "*", "‣", "◦", "▪", "●")
LETTER = re.compile(r"[^\W\d_]")
PUNCTUATION = ".,;:!?\"'()[]{}…—–-“”‘’«»*/\\|<>`~_#&^%$@+="


def gopher_quality_filter(settings: GopherQualityConfig) -> Callable[[str], str | None]:
    """A judge with the thresholds of `settings`; its answer names the first rule that a text breaks."""

    def drop_reason(text: str) -> str | None:
        everything = text.split()
        bare = [word.strip(PUNCTUATION) for word in everything]
        words = [word for word in bare if word]
        if len(words) < settings.min_words:
            return "few_words"
        if len(words) > settings.max_words:
            return "many_words"
        mean = sum(map(len, words)) / len(words) if words else 0.0
        if mean < settings.min_mean_word_length:
            return "short_words"
        if mean > settings.max_mean_word_length:
            return "long_words"
        if text.count("#") / len(words) > settings.max_symbol_ratio:
            return "hashes"
        if (text.count("...") + text.count("…")) / len(words) > settings.max_symbol_ratio:
            return "ellipses"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if sum(line.startswith(BULLETS) for line in lines) / len(lines) > settings.max_bullet_lines_ratio:
            return "bullets"
        if (
            sum(line.endswith(("...", "…")) for line in lines) / len(lines)
            > settings.max_ellipsis_lines_ratio
        ):
            return "ellipsis_lines"
        mixed = [word for word in words if not word.isalpha()]
        lettered = len(words) - sum(LETTER.search(word) is None for word in mixed)
        if lettered / len(words) < settings.min_alphabetic_words_ratio:
            return "no_letters"
        if len(STOP_WORDS.intersection(everything)) < settings.min_stop_words:
            return "no_stop_words"
        return None

    return drop_reason
