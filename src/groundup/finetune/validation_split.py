"""Validation split by a hash of the opening, so that no opening is in both sets."""

from collections.abc import Sequence

from groundup.data.stable_hash import hash_fraction
from groundup.finetune.conversations import TrainingConversation


def split_conversations(
    conversations: Sequence[TrainingConversation], fraction: float
) -> tuple[list[TrainingConversation], list[TrainingConversation]]:
    """(training set, validation set with about `fraction` of the openings), in their order."""
    parts: tuple[list[TrainingConversation], list[TrainingConversation]] = ([], [])
    for conversation in conversations:
        parts[hash_fraction(_normalize(conversation.opening)) < fraction].append(conversation)
    return parts


def _normalize(text: str) -> str:
    """Without case and punctuation: "Hello!" and "hello" are equal."""
    return " ".join("".join(letter.lower() if letter.isalnum() else " " for letter in text).split())
