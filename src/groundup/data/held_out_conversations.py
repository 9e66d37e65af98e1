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
    """The first user turn of a list of messages, with others right behind it; None without one.

    Fine-tuning may merge these, so that both stages must take them as one.
    """
    texts: list[str] = []
    for turn in messages if isinstance(messages, list) else []:
        content = turn.get("content") if isinstance(turn, dict) and turn.get("role") == "user" else None
        if isinstance(content, str):
            texts.append(content)
        elif texts:
            break
    return "\n\n".join(texts) if texts else None


def _normalize(text: str) -> str:
    """Without case and punctuation: "Hello!" and "hello" are equal."""
    return " ".join("".join(letter.lower() if letter.isalnum() else " " for letter in text).split())
