"""Special tokens: ends of documents and turns, padding, masks. Text never encodes to them."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from groundup.artifacts.errors import UserError

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PADDING = "<|pad|>"

SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, PADDING)
"""Ids 0 to 3 of every trained vocabulary."""


SURROGATES = re.compile("[\ud800-\udfff]")


def mask_token_names(count: int) -> tuple[str, ...]:
    """`count` mask tokens: the first is BERT's mask, all of them are T5's sentinels."""
    return tuple(f"<|mask_{index}|>" for index in range(count))


MESSAGE_END, CHANNEL = "<|end|>", "<|channel|>"

CHAT_STOP_TOKENS = (TURN_END, "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<turn|>", MESSAGE_END, "<|end_of_turn|>")
"""End-of-turn tokens of known model families; generation stops at those in the vocabulary."""


def check_special_tokens(tokens: Iterable[str]) -> tuple[str, ...]:
    """The tokens, unchanged. Raises UserError when one is no text, empty, a duplicate, or a substring of another.

    With substrings, decoding a text into special tokens would depend on the order of the search.
    """
    if isinstance(tokens, str):
        raise UserError(f"special_tokens = {tokens!r}, expected a list", hint=f"put it in a list: [{tokens!r}]")
    tokens = tuple(tokens)
    for index, token in enumerate(tokens):
        if not isinstance(token, str):
            raise UserError(f"special token {token!r} is a {type(token).__name__}, expected a text")
        if SURROGATES.search(token):
            raise UserError(
                f"special token {token!r} has a lone surrogate, which UTF-8 cannot express", hint="rename it"
            )
        if not token.strip():
            raise UserError(f"special token {token!r} is empty", hint="name it, such as <|name|>")
        if token in tokens[:index]:
            raise UserError(f"special token {token!r} is a duplicate", hint="remove one of them")
        for other in tokens:
            if other != token and token in other:
                raise UserError(f"special token {token!r} is a substring of {other!r}", hint="rename one of them")
    return tokens


def named_roles(special_tokens: Sequence[str], eos: str | None, pad: str | None) -> dict[str, Any]:
    """The tokens that end and pad texts: those given, or by default <|endoftext|> and <|pad|> if they are special tokens.

    Raises UserError for a role whose token is not one of them.
    """
    for role, token in (("eos", eos), ("pad", pad)):
        if token is not None and token not in special_tokens:
            raise UserError(
                f"{role} = {token!r}, expected one of the special tokens: {', '.join(special_tokens) or 'there are none'}"
            )
    return {
        "eos": eos or (END_OF_TEXT if END_OF_TEXT in special_tokens else None),
        "pad": pad or (PADDING if PADDING in special_tokens else None),
    }
