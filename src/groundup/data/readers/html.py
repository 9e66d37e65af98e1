"""The main text of an HTML page."""

import logging


def main_text(data: bytes, charset: str | None = None) -> str:
    """The text that a visitor came for, without navigation and boilerplate; empty when there is none."""
    from trafilatura import extract

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    page: bytes | str = data
    if charset is not None:
        try:
            page = data.decode(charset)
        except (LookupError, UnicodeDecodeError):
            page = data
    try:
        return extract(page, fast=True, include_comments=False, include_tables=False, deduplicate=False) or ""
    except Exception:  # a parser that meets the whole web fails in ways that nobody can list
        return ""
