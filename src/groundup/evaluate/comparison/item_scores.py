"""Scores of single items, which comparisons pair: documents of held-out text, questions of tasks."""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from groundup.artifacts.contamination_flags import HELD_OUT_TEXT
from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import read_jsonl, write_jsonl
from groundup.evaluate.likelihood import DocumentScores

BITS_PER_BYTE = "bits_per_byte"
LOWER_IS_BETTER = frozenset([BITS_PER_BYTE, "perplexity", "loss"])
"""Metrics; of all others, more is better."""


@dataclass(frozen=True)
class ItemScore:
    """One item under one metric.

    Attributes:
        task: name of the task or text.
        metric: whose value over items is sum(score) / sum(size).
        item: hash of its content, equal in all runs.
        score: 1 or 0 for right or wrong; of text, its bits.
        size: 1; of text, its bytes.
        cluster: equal for items that are not independent.
    """

    task: str
    metric: str
    item: str
    score: float
    size: float = 1.0
    cluster: str = ""


def item_key(*content: object) -> str:
    """Hash of the content of an item.

    >>> item_key("Is water wet?", ["yes", "no"]) == item_key("Is water wet?", ["yes", "no"])
    True
    """
    return hashlib.sha256(json.dumps(content, ensure_ascii=True, default=str).encode()).hexdigest()[:16]


def write_item_scores(scores: Iterable[ItemScore], path: Path) -> None:
    """JSON lines, one score a line."""
    write_jsonl(path, map(asdict, scores))


def read_item_scores(path: Path) -> list[ItemScore]:
    """What `write_item_scores` wrote. Raises UserError for another file."""
    try:
        return [ItemScore(**row) for row in read_jsonl(path)]
    except TypeError:
        raise UserError(
            f"{path}: no scores of items", hint="groundup run RECIPE --from scores writes it anew"
        ) from None


def document_scores(texts: Iterable[str], result: DocumentScores, task: str = HELD_OUT_TEXT) -> list[ItemScore]:
    """Bits of each document, whose `texts` are in the same order."""
    rows = zip(texts, result.document_nats, result.document_bytes, strict=True)
    return [ItemScore(task, BITS_PER_BYTE, item_key(text), nats / math.log(2), size) for text, nats, size in rows]
