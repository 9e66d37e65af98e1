"""C4 filters: keep lines that are sentences, drop pages with fewer than five of them.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.2, and the code published with it.
"""

import re
from collections.abc import Callable

from groundup.data.clean.language import detect_language
from groundup.data.clean.language_rules import split_words
from groundup.data.clean.step_types import FilterFunction
from groundup.recipe.data_config import C4Config

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
ENDS = (".", "?", "!", '"', "'", "”", "’", *"。！？．؟۔।॥։።」』")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
SENTENCE_END = re.compile(r"""(?<![.?!])[.?!]++["'”’)\]]*+(?=\s|$)|[。！？؟۔।॥։።]++""")


def c4_line_mapper(config: C4Config) -> Callable[[str], str]:
    """Mapper that keeps the lines that are sentences."""

    def keep_sentences(text: str) -> str:
        kept = []
        language = detect_language(text)[0]
        for raw in text.split("\n"):
            line = CITATION.sub("", raw.strip())
            lower = line.lower()
            words = split_words(line, language)
            if not line.endswith(ENDS) or line.endswith("..."):
                continue
            if len(words) < config.min_line_words or max(map(len, words)) > config.max_word_length:
                continue
            if "javascript" in lower or any(phrase in lower for phrase in POLICY):
                continue
            kept.append(line)
        return "\n".join(kept)

    return keep_sentences


def c4_filter(config: C4Config) -> FilterFunction:
    """Filter for texts that went through `c4_line_mapper`."""

    def drop_reason(text: str) -> str | None:
        if "lorem ipsum" in text.lower():
            return "lorem_ipsum"
        if "{" in text:
            return "curly_bracket"
        sentences = sum(max(1, len(SENTENCE_END.findall(line))) for line in text.split("\n") if line)
        return "few_sentences" if sentences < config.min_sentences else None

    return drop_reason
