"""Conversations that fine-tuning holds out for validation: text of pretraining must leave out the same ones.

They are chosen by a hash of the opening, so that both stages choose alike without knowing of each other.
"""

from typing import Any

HELD_OUT = "held_out_conversation"
"""Reason to leave a conversation out of the text of pretraining."""


def is_held_out(opening: str, fraction: float) -> bool:
    """Whether a conversation with this first user turn is among the `fraction` that is held out."""
    if not fraction:
        return False
    from groundup.data.stable_hash import hash_fraction  # numpy, which `plan` needs not

    return hash_fraction(_normalize(opening)) < fraction


def opening_turn(messages: Any) -> str | None:
    """The first user turn of a list of messages; None without one."""
    turns = messages if isinstance(messages, list) else []
    texts = (turn.get("content") for turn in turns if isinstance(turn, dict) and turn.get("role") == "user")
    return next((text for text in texts if isinstance(text, str)), None)


def _normalize(text: str) -> str:
    """Without case and punctuation: "Hello!" and "hello" are equal."""
    return " ".join("".join(letter.lower() if letter.isalnum() else " " for letter in text).split())
