"""Scores of an encoder-decoder on held-out pairs: its translations, or summaries, beside the input copied."""

from collections.abc import Sequence
from typing import Any

from groundup.artifacts.progress import Progress
from groundup.evaluate.sequence_scores import sequence_scores
from groundup.finetune.training_data.conversations import TrainingConversation
from groundup.generate import beam_search_text
from groundup.model import EncoderDecoder
from groundup.plan.defaults.finetune_defaults import MAX_TRANSLATION_TOKENS, MAX_TRANSLATIONS
from groundup.tokenizer import Tokenizer

MAX_SAMPLES = 20
"""Translations that are kept in the metrics, for checks and the report."""


def score_translations(
    model: EncoderDecoder, tokenizer: Tokenizer, validation: Sequence[TrainingConversation], progress: Progress
) -> dict[str, Any] | None:
    """Scores of held-out pairs translated by beam search, those of copying the input, and samples; None without pairs."""
    chosen = validation[:: max(1, -(-len(validation) // MAX_TRANSLATIONS))]
    pairs = [(each.opening, each.answer) for each in chosen]
    if not pairs:
        return None
    sources, references = (list(column) for column in zip(*pairs, strict=True))
    answers = []
    with progress.task("translating", total=len(sources), unit="texts") as task:
        for source in sources:
            answers.append(beam_search_text(model, tokenizer, source, max_tokens=MAX_TRANSLATION_TOKENS).strip())
            task.advance()
    rows = list(zip(sources, references, answers, strict=True))[:: -(-len(pairs) // MAX_SAMPLES)]
    return {
        **sequence_scores(answers, references),
        "pairs": len(pairs),
        "copying": sequence_scores(sources, references),
        "samples": [{"source": source, "reference": reference, "text": text} for source, reference, text in rows],
    }
