"""How similar written texts are to references, from 0 to 100: BLEU and chrF by sacrebleu, ROUGE by rouge-score.

BLEU counts common word n-grams (Papineni et al. 2002), chrF common character n-grams (Popović 2015), which suits languages
with many word forms and short texts; both are of the whole corpus. ROUGE-L is the longest common subsequence of words (Lin
2004), the mean over texts, for summaries; its words are of the letters a to z and digits alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import parse_json, shorten
from groundup.artifacts.progress import Progress
from groundup.evaluate.intervals import ratio_interval
from groundup.generate import beam_search_text
from groundup.tokenizer import Tokenizer

RESAMPLES = 1_000
"""Of the bootstrap by which sacrebleu finds the interval of a corpus score (Koehn 2004)."""
MAX_TOKENS = 256
"""Of a written text."""


def sequence_scores(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """{"bleu", "chrf", "rouge_l"} of texts, one reference each."""
    from sacrebleu.metrics import BLEU, CHRF  # pyright: ignore[reportMissingImports]

    return {
        "bleu": BLEU().corpus_score(list(texts), [list(references)]).score,
        "chrf": CHRF().corpus_score(list(texts), [list(references)]).score,
        "rouge_l": _mean(rouge_l(texts, references)),
    }


def sequence_intervals(texts: Sequence[str], references: Sequence[str]) -> dict[str, list[float] | None]:
    """95% intervals of `sequence_scores`: by the bootstrap over texts, of ROUGE-L by Student's t; None for a single text."""
    from sacrebleu.metrics import BLEU, CHRF  # pyright: ignore[reportMissingImports]

    found: dict[str, list[float] | None] = {"bleu": None, "chrf": None}
    for name, metric in (("bleu", BLEU), ("chrf", CHRF)):
        if len(texts) > 1:
            score = metric(references=[list(references)]).corpus_score(list(texts), None, n_bootstrap=RESAMPLES)
            found[name] = [score._mean - score._ci, score._mean + score._ci]
    found["rouge_l"] = ratio_interval(rouge_l(texts, references), [1.0] * len(texts))
    return {name: bounds and [max(0.0, bounds[0]), min(100.0, bounds[1])] for name, bounds in found.items()}


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L (F measure) of each text."""
    from rouge_score.rouge_scorer import RougeScorer  # pyright: ignore[reportMissingImports]

    scorer = RougeScorer(["rougeL"])
    return [
        100 * scorer.score(reference, text)["rougeL"].fmeasure
        for text, reference in zip(texts, references, strict=True)
    ]


def score_pairs(model: nn.Module, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], progress: Progress) -> Any:
    """Scores and intervals of the texts that a model writes by beam search, beside those of the input copied.

    Args:
        pairs: (input, reference).
    """
    sources, references = zip(*pairs, strict=True)
    texts = []
    with progress.task("writing", total=len(pairs), unit="texts") as task:
        for source in sources:
            texts.append(beam_search_text(model, tokenizer, source, max_tokens=MAX_TOKENS).strip())
            task.advance()
    return {
        "pairs": len(pairs),
        **sequence_scores(texts, references),
        **{f"{name}_interval": bounds for name, bounds in sequence_intervals(texts, references).items()},
        "copying": sequence_scores(sources, references),
    }


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """JSON lines of {"source", "target"}. Raises UserError, naming the line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}", hint="expected a JSON Lines file") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            item = parse_json(line, f"{path}, line {number}")
            pair = [item.get(key) for key in ("source", "target")] if isinstance(item, dict) else []
            if not pair or not all(isinstance(text, str) and text.strip() for text in pair):
                raise UserError(
                    f"{path}, line {number}: {shorten(item)}, expected an object with the texts source, target"
                )
            pairs.append((pair[0], pair[1]))
    if not pairs:
        raise UserError(f"{path}: no pairs", hint="one JSON object per line, with source, target")
    return pairs


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
