"""What people also type: no capitals, no question mark. A small model must have seen it to know it."""

from groundup.finetune.conversations import TrainingConversation

Turns = tuple[tuple[str, str], ...]


def augmented_turns(conversation: TrainingConversation) -> list[Turns]:
    """The conversation, and with the user's turns in lower case, without their last mark, and both; each
    once.
    """
    changes = (str, str.lower, strip_final_punctuation, lambda text: strip_final_punctuation(text.lower()))
    return list(dict.fromkeys(_apply_to_user(conversation.turns, change) for change in changes))


def strip_final_punctuation(text: str) -> str:
    """ "How are you?" -> "How are you"; a text of marks alone stays."""
    return text.rstrip(".?! ") or text


def _apply_to_user(turns: Turns, change) -> Turns:  # type: ignore[no-untyped-def]
    return tuple((role, change(text) if role == "user" else text) for role, text in turns)
