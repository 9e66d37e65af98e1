"""Which conversations are held out: those whose beginning hashes low, so that no question is on both
sides.
"""

from collections.abc import Sequence

from groundup.data.stable_hash import hash_fraction
from groundup.finetune.conversations import TrainingConversation


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
