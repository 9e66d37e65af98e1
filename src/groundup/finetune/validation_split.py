"""Which conversations are held out: those whose beginning hashes low, so that no question is on both
sides.
"""

import hashlib
from collections.abc import Sequence

from groundup.finetune.conversations import TrainingConversation

HASH_RANGE = 1 << 32


def hash_fraction(text: str, seed: int = 0) -> float:
    """A number from 0 to 1 that follows from `text` and `seed` alone, evenly spread."""
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / HASH_RANGE


def split_conversations(
    conversations: Sequence[TrainingConversation], fraction: float
) -> tuple[list[TrainingConversation], list[TrainingConversation]]:
    """(to learn from, held out): about `fraction` of the openings; both in their order."""
    held_out = [hash_fraction(_normalize(conversation.opening)) < fraction for conversation in conversations]
    return (
        [conversation for conversation, out in zip(conversations, held_out, strict=True) if not out],
        [conversation for conversation, out in zip(conversations, held_out, strict=True) if out],
    )


def _normalize(text: str) -> str:
    """Without case and punctuation: "Hello!" and "hello" are one question."""
    return " ".join("".join(letter.lower() if letter.isalnum() else " " for letter in text).split())
