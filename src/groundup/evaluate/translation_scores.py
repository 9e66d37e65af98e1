"""BLEU and chrF: how similar translations are to references, from 0 to 100. Judged by sacrebleu in the tests.

BLEU counts common word n-grams (Papineni et al. 2002), chrF common character n-grams (Popović 2015), which suits languages
with many word forms and short texts. Both are of the whole corpus, not means over texts.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

WORD_ORDER = 4
CHARACTER_ORDER = 6
BETA_SQUARED = 4
"""Recall counts twice as much as precision (chrF2)."""

ESCAPES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
TOKEN_RULES = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
"""Tokenization "13a" of the WMT evaluations: punctuation apart from words, numbers whole."""


def translation_scores(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """{"bleu", "chrf"} of translations, one reference each."""
    return {"bleu": bleu(texts, references), "chrf": chrf(texts, references)}


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """BLEU with up to four words, exponential smoothing of orders without a match, and a brevity penalty."""
    counts = _count_ngrams(texts, references, tokenize_words, WORD_ORDER)
    if not any(common for _, _, common in counts):
        return 0.0
    logs, smoothing = [], 1.0
    for found, _, common in counts:
        if found == 0:
            return 0.0
        if common == 0:
            smoothing *= 2
        logs.append(math.log(common / found if common else 1 / (smoothing * found)))
    length, reference_length = counts[0][:2]
    penalty = min(1.0, math.exp(1 - reference_length / length))
    return 100 * penalty * math.exp(sum(logs) / WORD_ORDER)


def chrf(texts: Sequence[str], references: Sequence[str]) -> float:
    """chrF2 with up to six characters; spaces do not count."""
    counts = _count_ngrams(texts, references, lambda text: "".join(text.split()), CHARACTER_ORDER)
    rates = [(common / found, common / wanted) for found, wanted, common in counts if found and wanted]
    if not rates or not any(map(sum, rates)):
        return 0.0
    precision, recall = (sum(column) / len(rates) for column in zip(*rates, strict=True))
    return 100 * (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)


def tokenize_words(text: str) -> list[str]:
    """Words and punctuation marks, as BLEU counts them."""
    text = text.replace("-\n", "").replace("\n", " ")
    for escape, character in ESCAPES.items():
        text = text.replace(escape, character)
    text = f" {text} "
    for pattern, replacement in TOKEN_RULES:
        text = pattern.sub(replacement, text)
    return text.split()


def _count_ngrams(
    texts: Iterable[str], references: Iterable[str], split: Callable[[str], Sequence[str]], max_order: int
) -> list[tuple[int, int, int]]:
    """For each order: n-grams of the texts, of the references, and common ones, summed over the texts."""
    totals = [[0, 0, 0] for _ in range(max_order)]
    for text, reference in zip(texts, references, strict=True):
        left, right = split(text), split(reference)
        for order in range(1, max_order + 1):
            found, wanted = _ngrams(left, order), _ngrams(right, order)
            for index, counter in enumerate((found, wanted, found & wanted)):
                totals[order - 1][index] += counter.total()
    return [(found, wanted, common) for found, wanted, common in totals]


def _ngrams(units: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(units[begin : begin + order]) for begin in range(len(units) - order + 1))
