"""Scores of quantized models beside their float model: `compare_with_float`, and a multiple-choice task from the same text."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from groundup.artifacts.contamination_flags import CONTINUATION_TASK
from groundup.artifacts.progress import Progress
from groundup.evaluate.likelihood import ScoredDocument
from groundup.evaluate.tasks import continuation_items, run_task, score_choices, summarize_choices
from groundup.model import Decoder
from groundup.quantize.calibration_text import CalibrationText
from groundup.quantize.comparison_inputs import comparison_inputs
from groundup.quantize.float_comparison import FloatComparison, compare_with_float
from groundup.recipe.evaluate_config import TaskConfig
from groundup.tokenizer import Tokenizer

CONTINUATIONS = 50
"""A passage with four endings, of which the true one should be the likeliest; items at most."""


def score_against_float(
    float_model: nn.Module,
    models: dict[str, nn.Module],
    tokenizer: Tokenizer,
    material: CalibrationText,
    seed: int,
    progress: Progress,
    tasks: tuple[TaskConfig, ...] = (),
) -> dict[str, dict[str, Any]]:
    """The scores of "float" and of each of `models` on `material.compared`.

    Of each: the fields of `FloatComparison` that its architecture has, perplexity, bits_per_byte, and tasks: of a decoder, by
    name, `summarize_choices` of the true continuation and of `tasks`.
    """
    inputs_of = comparison_inputs(float_model.config, tokenizer, seed)  # type: ignore[arg-type]
    windows = material.compared
    with progress.task("comparing", total=windows.numel(), unit="tokens") as task:
        compared = compare_with_float(float_model, models, windows, task, inputs_of)
    models = {"float": float_model, **models}
    scores = {name: _present_fields(each, material.bytes_per_token) for name, each in compared.items()}
    with progress.task("scoring tasks", total=len(models), unit="models") as task:
        for name, model in models.items():
            if isinstance(model, Decoder):
                scores[name]["tasks"] = _task_scores(model, tokenizer, material, seed, tasks)
            task.advance()
    return scores


def _task_scores(
    model: Decoder, tokenizer: Tokenizer, material: CalibrationText, seed: int, tasks: tuple[TaskConfig, ...]
) -> dict[str, dict[str, Any]]:
    documents = [
        ScoredDocument(window.tolist(), material.bytes_per_token * (len(window) - 1)) for window in material.compared
    ]
    scores: dict[str, dict[str, Any]] = {}
    if items := continuation_items(documents, tokenizer, CONTINUATIONS, seed):
        scores[CONTINUATION_TASK] = summarize_choices(items, score_choices(model, items))
    for custom in tasks:
        if Path(custom.path).is_file():
            scores[custom.name] = run_task(custom, model, tokenizer)
    return scores


def _present_fields(compared: FloatComparison, bytes_per_token: float) -> dict[str, Any]:
    values = asdict(compared) | {
        "perplexity": compared.perplexity,
        "bits_per_byte": compared.bits_per_byte(bytes_per_token),
    }
    return {name: value for name, value in values.items() if value is not None}
