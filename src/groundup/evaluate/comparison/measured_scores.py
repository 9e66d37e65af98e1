"""Item scores of any model, measured now: on a text, on a task file, on tasks of lm-evaluation-harness."""

from collections.abc import Sequence
from pathlib import Path

from groundup.artifacts.progress import Progress
from groundup.evaluate.comparison.item_scores import ItemScore, document_scores
from groundup.evaluate.likelihood import score_documents, text_document
from groundup.evaluate.tasks import score_task
from groundup.evaluate.text_documents import split_spans
from groundup.model import Decoder
from groundup.recipe.evaluate_config import TaskConfig
from groundup.tokenizer import Tokenizer


def measure_text(model: Decoder, tokenizer: Tokenizer, text: str, name: str) -> list[ItemScore]:
    """Bits per byte of the spans of a text (text_documents.py), each scored by itself."""
    spans = split_spans(text)
    documents = [text_document(tokenizer, span, name) for span in spans]
    return document_scores(spans, score_documents(model, documents), name)


def measure_task(model: Decoder, tokenizer: Tokenizer, task: TaskConfig) -> list[ItemScore]:
    """Scores of the items of a task file."""
    return score_task(task, model, tokenizer).items


def measure_harness(
    model: Decoder,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    progress: Progress,
    datasets: Path | None,
    limit: int | None,
) -> list[ItemScore]:
    """Scores of the items of tasks of lm-evaluation-harness; see `run_harness`."""
    from groundup.evaluate.lm_eval_adapter import run_harness

    items: list[ItemScore] = []
    run_harness(model, tokenizer, tasks, progress, datasets_folder=datasets, limit=limit, items=items)
    return items
