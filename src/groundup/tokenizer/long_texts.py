"""Encoding of one text; other threads go on meanwhile if it is long."""

import tokenizers

LONG_TEXT = 10_000
"""Characters. `encode` of the library holds the interpreter's lock for a second per megabyte; `encode_batch` does not, but costs
more for a short text."""


def encode_text(backend: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool) -> tokenizers.Encoding:
    """The encoding of a text, as `backend.encode` returns it."""
    if len(text) < LONG_TEXT:
        return backend.encode(text, add_special_tokens=add_special_tokens)
    (encoding,) = backend.encode_batch([text], add_special_tokens=add_special_tokens)
    return encoding
