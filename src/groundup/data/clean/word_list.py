"""Word lists: pages that use too many of the words in a list that the user brings (toxic, adult, spam)."""

import re
from collections.abc import Callable
from pathlib import Path

from groundup.artifacts.errors import UserError
from groundup.recipe.data_config import WordListConfig

WORD = re.compile(r"\w+(?:['’-]\w+)*")


def word_list_filter(settings: WordListConfig) -> Callable[[str], str | None]:
    """A judge: the reason is the list's name. Entries may be phrases. Raises UserError when the file cannot
    be read.
    """
    try:
        lines = Path(settings.path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"word list {settings.name}: {settings.path} cannot be read: {error}",
            hint="one word or phrase a line",
        ) from None
    entries = {line.strip().lower() for line in lines if line.strip() and not line.startswith("#")}
    words = frozenset(entry for entry in entries if " " not in entry)
    phrases = tuple(sorted(entry for entry in entries if " " in entry))

    def drop_reason(text: str) -> str | None:
        lower = text.lower()
        found = WORD.findall(lower)
        hits = sum(word in words for word in found) + sum(lower.count(phrase) for phrase in phrases)
        return (
            settings.name
            if hits > settings.max_hits and hits / max(len(found), 1) > settings.max_words_ratio
            else None
        )

    return drop_reason
