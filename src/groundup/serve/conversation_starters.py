"""Messages that the chat page offers: those with which conversations of the run's fine-tuning begin."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from groundup.stages import STAGE_FOLDERS

MAX_STARTERS = 4
MAX_CHARACTERS = 60
MIN_CONVERSATIONS = 2
"""A message of one conversation only may be private, and is not shown to others."""
MAX_READ = 20_000
"""Conversations."""


def conversation_starters(path: Path) -> list[str]:
    """The most frequent short first messages in the training conversations of the run that `path` belongs to.

    Args:
        path: a run, or a file or folder of one; the pretrained model of a run has none.

    Empty where there is no such run, or no message that begins several conversations.
    """
    path = path.resolve()
    if path.name == STAGE_FOLDERS["base"]:
        return []
    files = [folder / STAGE_FOLDERS["chat"] / "train.jsonl" for folder in (path, *path.parents[:2])]
    counts = Counter(message for file in files if file.is_file() for message in _first_messages(file))
    common = (text for text, count in counts.most_common() if count >= MIN_CONVERSATIONS)
    return list(islice(common, MAX_STARTERS))


def _first_messages(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        for line in islice(lines, MAX_READ):
            turns = [turn for turn in json.loads(line).get("messages", ()) if turn["role"] == "user"]
            text = turns[0].get("content") if turns else None
            if isinstance(text, str) and 0 < len(text.strip()) <= MAX_CHARACTERS and "\n" not in text.strip():
                yield text.strip()
