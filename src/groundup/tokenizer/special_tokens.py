"""Tokens that no text can spell: they are put in by id, and say where documents and turns begin and end."""

from collections.abc import Iterable

from groundup.artifacts.errors import UserError

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PADDING = "<|pad|>"

SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, PADDING)
"""Ids 0 to 3 of every vocabulary that is trained here."""


def mask_token_names(count: int) -> tuple[str, ...]:
    """`number` tokens that stand for hidden text: BERT's mask is the first, T5's sentinels are all of them."""
    return tuple(f"<|mask_{index}|>" for index in range(count))


CHAT_STOP_TOKENS = (
    TURN_END,
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|end_of_turn|>",
)
"""Ends of a turn in the chat formats of known families; where a vocabulary has one, generation stops at it."""


def check_special_tokens(tokens: Iterable[str]) -> tuple[str, ...]:
    """The tokens as they came. Raises UserError on an empty one, a double, or one that is part of another.

    A special token inside another would make the reading of a text depend on which is looked for first.
    """
    tokens = tuple(tokens)
    for index, token in enumerate(tokens):
        if not token.strip():
            raise UserError(f"special token {token!r} is empty", hint="give it a spelling such as <|name|>")
        if token in tokens[:index]:
            raise UserError(f"special token {token!r} is there twice", hint="remove one of them")
        for other in tokens:
            if other != token and token in other:
                raise UserError(
                    f"special tokens collide: {token!r} is a part of {other!r}",
                    hint="choose spellings of which none contains another",
                )
    return tokens
