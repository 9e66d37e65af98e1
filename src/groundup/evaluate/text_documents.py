"""Documents to score from text files that a recipe names: spans of whole paragraphs, in an order drawn by a seed."""

import re
from pathlib import Path

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.data.inputs import require_local_files
from groundup.evaluate.likelihood import ScoredDocument, text_document
from groundup.tokenizer import Tokenizer

SPAN_CHARACTERS = 8_000
"""A span ends with the paragraph that reaches this length: long enough for context, many enough for an interval."""


def text_file_documents(pattern: str, tokenizer: Tokenizer, *, max_tokens: int, seed: int) -> list[ScoredDocument]:
    """Spans of the text in the files that `pattern` names (a file, a folder or a glob), with about `max_tokens` tokens.

    The source of a span is the name of its file. Raises UserError for a missing file, one that is not UTF-8, and no text.
    """
    spans = [
        (name, span)
        for name, path in require_local_files("evaluate.text", pattern)
        for span in split_spans(_read(path))
    ]
    documents: list[ScoredDocument] = []
    remaining = max_tokens
    for index in np.random.default_rng(seed).permutation(len(spans)):
        if remaining <= 0:
            break
        name, span = spans[int(index)]
        document = text_document(tokenizer, span, name)
        documents.append(document)
        remaining -= document.num_scored_tokens
    if not documents:
        raise UserError(f"evaluate.text = {pattern}: no text in its files", hint="name a UTF-8 text file")
    return documents


def split_spans(text: str) -> list[str]:
    """Consecutive paragraphs of at least SPAN_CHARACTERS together; the last span may be shorter, a long paragraph longer.

    >>> split_spans("a\n\nb\n\n")
    ['a\n\nb']
    """
    spans, current = [], ""
    for paragraph in re.split(r"(?<=\n)\s*\n", text):
        current += ("\n" if current else "") + paragraph
        if len(current) >= SPAN_CHARACTERS:
            spans.append(current.strip())
            current = ""
    if len(current.strip()) > 1 or not spans:
        spans.append(current.strip())
    return [span for span in spans if len(span) > 1]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 text file ({error})", hint="convert it with iconv") from None
