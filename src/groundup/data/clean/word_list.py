"""Word list filter: drop texts with too many words of a list supplied by the user (toxic, adult, spam)."""

import re
from pathlib import Path

from groundup.artifacts.errors import UserError
from groundup.data.clean.step_types import FilterFunction
from groundup.recipe.data_config import WordListConfig

WORD = re.compile(r"\w+(?:['’-]\w+)*")


def word_list_filter(config: WordListConfig) -> FilterFunction:
    """Filter whose reason is the list's name. Entries may be phrases. Raises UserError for an unreadable file."""
    try:
        lines = Path(config.path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"word list {config.name}: {config.path} cannot be read: {error}",
            hint="data.word_lists[].path names a text file with one word or phrase per line",
        ) from None
    entries = {line.strip().lower() for line in lines if line.strip() and not line.startswith("#")}
    words = frozenset(entry for entry in entries if " " not in entry)
    phrases = tuple(sorted(entry for entry in entries if " " in entry))

    def drop_reason(text: str) -> str | None:
        lower = text.lower()
        found = WORD.findall(lower)
        hits = sum(word in words for word in found) + sum(lower.count(phrase) for phrase in phrases)
        too_many = hits > config.max_hits and hits / max(len(found), 1) > config.max_words_ratio
        return config.name if too_many else None

    return drop_reason
