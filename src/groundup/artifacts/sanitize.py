"""Foreign text made fit to be shown: on a page, in a PDF, and in a terminal that would obey control characters."""

import re

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
"""Control characters but tab and newline; half surrogate pairs, which no UTF-8 file may hold."""

BIDI_CONTROLS = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What turns the direction of writing: in a terminal it could make a line read as another one."""


def sanitize_text(text: str) -> str:
    """What no page can show becomes U+FFFD, and any end of line a newline."""
    return CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n").replace("\r", "\n"))


def sanitize_for_terminal(text: str) -> str:
    """As `printable`, without turns of direction, and with tabs as spaces."""
    return BIDI_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", sanitize_text(text)).expandtabs(4)
