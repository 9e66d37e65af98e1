"""Augmentation of user turns: lower case and missing final punctuation, as people type."""

from groundup.finetune.conversations import TrainingConversation

Turns = tuple[tuple[str, str], ...]


def augmented_turns(conversation: TrainingConversation) -> list[Turns]:
    """The conversation, with user turns in lower case, without final punctuation, and both; without duplicates."""
    changes = (str, str.lower, strip_final_punctuation, lambda text: strip_final_punctuation(text.lower()))
    return list(dict.fromkeys(_apply_to_user(conversation.turns, change) for change in changes))


def strip_final_punctuation(text: str) -> str:
    """ "How are you?" -> "How are you"; a text of marks alone stays."""
    return text.rstrip(".?! ") or text


def _apply_to_user(turns: Turns, change) -> Turns:  # type: ignore[no-untyped-def]
    return tuple((role, change(text) if role == "user" else text) for role, text in turns)
