"""The language measures of a decoder, on held-out text and its own samples."""

from collections.abc import Sequence
from typing import Any

from groundup.artifacts.progress import Progress, ProgressTask
from groundup.data.clean.language import detect_language
from groundup.evaluate.language_measures.calibration_error import score_calibration
from groundup.evaluate.language_measures.memorization import longest_overlap, score_memorization
from groundup.evaluate.language_measures.needle_in_context import score_needles
from groundup.evaluate.language_measures.sample_diversity import PROMPT_TOKENS, SAMPLE_TOKENS, diversity, write_samples
from groundup.evaluate.likelihood import DocumentScores, ScoredDocument, score_metrics
from groundup.evaluate.trace.suffix_array import SuffixArray
from groundup.model import Decoder
from groundup.tokenizer import Tokenizer, TokenShard

CALIBRATION_TOKENS, DOCUMENT_TOKENS = 16_384, 512
"""Tokens for the calibration, and of each document: many documents make a narrow interval."""
NUM_SAMPLES = 16
TEMPERATURES = {"temperature_1": 1.0, "greedy": 0.0}


def language_scores(texts: Sequence[str], scores: DocumentScores) -> dict[str, dict[str, Any]]:
    """`score_metrics` of the documents of each detected language (ISO 639 code)."""
    return {
        name: score_metrics(part)
        for name, part in scores.by_group([detect_language(text)[0] for text in texts]).items()
    }


def measure_language(
    model: Decoder,
    tokenizer: Tokenizer,
    documents: Sequence[ScoredDocument],
    *,
    seed: int,
    progress: Progress,
    shards: tuple[TokenShard, TokenShard] | None = None,
    index: SuffixArray | None = None,
) -> dict[str, Any]:
    """{"calibration", "samples": {"temperature_1" | "greedy" | "held_out": diversity}, "needle", "memorization"}.

    What the text is too short for is left out.

    Args:
        documents: held-out text.
        shards: training and held-out tokens, for memorization.
        index: of the training tokens: the longest verbatim overlap of samples with them, {"longest_overlap": tokens}.
    """
    texts = [[int(id) for id in document.ids] for document in documents]
    result: dict[str, Any] = {}
    beginnings = _first_tokens(documents)
    total = sum(document.num_scored_tokens for document in beginnings)
    with progress.task("calibration", total=total, unit="tokens") as task:
        result["calibration"] = score_calibration(model, beginnings, task)
    with progress.task("samples", total=2 * NUM_SAMPLES, unit="samples") as task:
        result["samples"] = _measure_samples(model, tokenizer, texts, index, seed, task)
    bodies = [text[document.num_context_tokens :] for text, document in zip(texts, documents, strict=True)]
    result["needle"] = score_needles(model, tokenizer, bodies, seed=seed, progress=progress)
    result["memorization"] = (
        None if shards is None else score_memorization(model, *shards, seed=seed, progress=progress)
    )
    return {name: value for name, value in result.items() if value}


def _first_tokens(documents: Sequence[ScoredDocument]) -> list[ScoredDocument]:
    """The beginnings of the documents, `CALIBRATION_TOKENS` in all."""
    chosen, count = [], 0
    for document in documents:
        if count >= CALIBRATION_TOKENS:
            break
        ids = document.ids[: document.num_context_tokens + DOCUMENT_TOKENS]
        chosen.append(ScoredDocument(ids, 0, document.source, document.num_context_tokens))
        count += chosen[-1].num_scored_tokens
    return chosen


def _measure_samples(
    model: Decoder,
    tokenizer: Tokenizer,
    texts: Sequence[Sequence[int]],
    index: SuffixArray | None,
    seed: int,
    task: ProgressTask,
) -> dict[str, Any]:
    """Of samples after the beginnings of texts, and of the texts' own continuations."""
    length = min(SAMPLE_TOKENS, model.config.cached_context_length - PROMPT_TOKENS)
    texts = [text for text in texts if len(text) >= PROMPT_TOKENS + length][:NUM_SAMPLES]
    if length < 1 or len(texts) < 2:
        return {}
    samples: dict[str, list[list[int]]] = {}
    for name, temperature in TEMPERATURES.items():
        samples[name] = write_samples(model, texts, sorted(tokenizer.stop_ids), temperature=temperature, seed=seed)
        task.advance(NUM_SAMPLES)
    samples["held_out"] = [list(text[PROMPT_TOKENS : PROMPT_TOKENS + length]) for text in texts]
    overlaps = {} if index is None else {name: longest_overlap(index, each) for name, each in samples.items()}
    return {
        name: diversity(each) | ({"longest_overlap": overlaps[name]} if overlaps else {})
        for name, each in samples.items()
    }
