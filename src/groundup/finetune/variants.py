"""What people also type: no capitals, no question mark. A small model must have seen it to know it."""

from groundup.finetune.dialogues import Conversation

Turns = tuple[tuple[str, str], ...]


def variants(conversation: Conversation) -> list[Turns]:
    """The conversation, and with the user's turns in lower case, without their last mark, and both; each
    once.
    """
    changes = (str, str.lower, without_last_mark, lambda text: without_last_mark(text.lower()))
    return list(dict.fromkeys(_changed(conversation.turns, change) for change in changes))


def without_last_mark(text: str) -> str:
    """ "How are you?" -> "How are you"; a text of marks alone stays."""
    return text.rstrip(".?! ") or text


def _changed(turns: Turns, change) -> Turns:  # type: ignore[no-untyped-def]
    return tuple((role, change(text) if role == "user" else text) for role, text in turns)
