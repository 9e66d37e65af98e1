"""Special tokens: ends of documents and turns, padding, masks. Text never encodes to them."""

from collections.abc import Iterable

from groundup.artifacts.errors import UserError

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PADDING = "<|pad|>"

SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, PADDING)
"""Ids 0 to 3 of every trained vocabulary."""


def mask_token_names(count: int) -> tuple[str, ...]:
    """`count` mask tokens: the first is BERT's mask, all of them are T5's sentinels."""
    return tuple(f"<|mask_{index}|>" for index in range(count))


CHAT_STOP_TOKENS = (TURN_END, "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|end_of_turn|>")
"""End-of-turn tokens of known model families; generation stops at those in the vocabulary."""


def check_special_tokens(tokens: Iterable[str]) -> tuple[str, ...]:
    """The tokens, unchanged. Raises UserError when one is empty, a duplicate, or a substring of another.

    With substrings, decoding a text into special tokens would depend on the order of the search.
    """
    tokens = tuple(tokens)
    for index, token in enumerate(tokens):
        if not token.strip():
            raise UserError(f"special token {token!r} is empty", hint="name it, such as <|name|>")
        if token in tokens[:index]:
            raise UserError(f"special token {token!r} is a duplicate", hint="remove one of them")
        for other in tokens:
            if other != token and token in other:
                raise UserError(f"special token {token!r} is a substring of {other!r}", hint="rename one of them")
    return tokens
