"""Foreign text without control characters, for terminals, web pages and PDFs."""

import re
from typing import TextIO

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
"""Control characters except tab and newline; lone surrogates, which UTF-8 cannot encode."""

BIDI_CONTROLS = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Bidirectional controls: in a terminal they can disguise a line as another."""


def sanitize_text(text: str) -> str:
    """Replace control characters with U+FFFD and all line endings with newlines."""
    return CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n").replace("\r", "\n"))


def sanitize_for_stream(text: str, stream: TextIO) -> str:
    """A terminal gets no control characters of a model, which could write anything on it; a file or a pipe the text as it is."""
    return sanitize_text(text) if stream.isatty() else text


def sanitize_for_terminal(text: str) -> str:
    """As `sanitize_text`, also without bidirectional controls, and with tabs as spaces."""
    return BIDI_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", sanitize_text(text)).expandtabs(4)
