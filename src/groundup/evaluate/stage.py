"""05-scores: scores of the base model on held-out text and tasks, beside baselines."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.artifacts.contamination_flags import CONTINUATION_TASK
from groundup.artifacts.machine import Machine
from groundup.evaluate.baselines import compression_baselines, ngram_baselines
from groundup.evaluate.comparison.item_scores import document_scores, write_item_scores
from groundup.evaluate.harness_scores import harness_scores
from groundup.evaluate.language_measures import language_scores, measure_language
from groundup.evaluate.likelihood import DocumentScores, score_documents, score_metrics
from groundup.evaluate.masked_lm import make_mask_function, score_masked
from groundup.evaluate.retrieval import score_retrieval
from groundup.evaluate.tasks import TaskResult, choice_result, continuation_items, score_choices, score_task
from groundup.evaluate.text_documents import text_file_documents
from groundup.evaluate.text_samples import sample_continuations
from groundup.evaluate.validation_documents import sample_validation_documents
from groundup.interop import open_model
from groundup.model import Decoder, load_config
from groundup.plan.checks.stage_support import check_tasks
from groundup.recipe import RecipeView
from groundup.stages import ITEM_SCORES_FILE
from groundup.tokenizer import Tokenizer, TokenShard

ITEM_SEED = 0
"""Of the choice of held-out text: the same for all seeds of a recipe, so that their scores pair by item."""


def run(
    recipe: RecipeView,
    inputs: dict[str, Path],
    out: Path,
    machine: Machine,
    open_model: Callable[..., tuple[nn.Module, Tokenizer]] = open_model,
) -> dict[str, Any]:
    """Score the base model: bits per byte, tasks and samples of a decoder; masked-token accuracy of other
    architectures, and retrieval by an encoder.

    `open_model`: for another function than that of floating-point models.
    Writes documents.jsonl: source, tokens, bytes and nats of each document; items.jsonl: scores to pair with those of other
    runs. Does not resume: it restarts.
    """
    settings, seed = recipe.evaluate, recipe.seed
    torch.set_num_threads(machine.threads)
    model, tokenizer = open_model(inputs["base"], device=machine.device, verify=False)
    if not isinstance(model, Decoder):
        config = load_config(inputs["base"])
        check_tasks(config.architecture, settings)
        shard = TokenShard(inputs["tokens"] / "validation")
        mask_function = make_mask_function(config, tokenizer)
        length = min(config.context_length, shard.num_tokens)
        scores = score_masked(model, mask_function, shard, length, max_tokens=settings.max_tokens, seed=seed)
        retrieval = score_retrieval(model, tokenizer, shard) if config.architecture == "encoder" else None
        return {"masked_lm": scores} | ({"retrieval": retrieval} if retrieval else {})
    limits = {"max_tokens": settings.max_tokens, "seed": ITEM_SEED}
    shard = None
    if settings.text is not None:
        documents = text_file_documents(settings.text, tokenizer, **limits)
        held_out = {"text": settings.text}
    else:
        shard = TokenShard(inputs["tokens"] / "validation")
        documents = sample_validation_documents(shard, tokenizer, **limits)
        held_out = {"documents": shard.num_documents, "tokens": shard.num_tokens}
    start = time.monotonic()
    with machine.progress.task(
        "scoring", total=sum(document.num_scored_tokens for document in documents), unit="tokens"
    ) as task:
        result = score_documents(model, documents, progress=task)
    speed = {"tokens_per_second": result.tokens / (time.monotonic() - start)}
    texts = [tokenizer.decode(document.ids[document.num_context_tokens :]) for document in documents]
    text = "".join(texts).encode()
    baselines = compression_baselines(text)
    if "tokens" in inputs:
        baselines |= ngram_baselines(TokenShard(inputs["tokens"] / "train"), documents)
    rows = document_scores(texts, result)
    found: dict[str, TaskResult] = {}
    if items := continuation_items(documents, tokenizer, settings.num_continuations, ITEM_SEED):
        contents = [tuple(tokenizer.decode(choice.ids) for choice in item.choices) for item in items]
        found[CONTINUATION_TASK] = choice_result(CONTINUATION_TASK, items, score_choices(model, items), contents)
    found |= {custom.name: score_task(custom, model, tokenizer) for custom in settings.tasks}
    for task_result in found.values():
        rows += task_result.items
    harness = harness_scores(settings.harness, model, tokenizer, machine, seed, rows) if settings.harness else {}
    samples = sample_continuations(
        model,
        tokenizer,
        settings.prompts,
        max_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=seed,
    )
    measures: dict[str, Any] = {}
    if settings.language_measures:
        shards = (TokenShard(inputs["tokens"] / "train"), shard) if shard is not None and "tokens" in inputs else None
        measures = {"languages": language_scores(texts, result)} | measure_language(
            model, tokenizer, documents, seed=ITEM_SEED, progress=machine.progress, shards=shards
        )
    _write_documents(result, out / "documents.jsonl")
    write_item_scores(rows, out / ITEM_SCORES_FILE)
    return {
        **score_metrics(result),
        "held_out": held_out,
        "sources": {name: score_metrics(part) for name, part in result.by_source().items()},
        **(compare_with_mix(result, TokenShard(inputs["tokens"] / "train")) if "tokens" in inputs else {}),
        "baselines": baselines,
        "tasks": {name: task_result.summary for name, task_result in found.items()},
        **({"harness": harness} if harness else {}),
        **({"language_measures": measures} if measures else {}),
        "samples": samples,
        "speed": speed,
    }


def compare_with_mix(result: DocumentScores, train: TokenShard) -> dict[str, Any]:
    """The sources of the training text beside those that were scored.

    {"mix": share of each source in the bytes of one pass over the training text, "mix_bits_per_byte": the mean over sources
    with these weights, among those scored, "not_scored": sources without held-out text}.
    """
    total = sum(counts["bytes"] for counts in train.sources.values())
    mix = {name: counts["bytes"] / total for name, counts in train.sources.items()}
    scored = {name: part.bits_per_byte for name, part in result.by_source().items() if name in mix}
    weight = sum(mix[name] for name in scored)
    mean = sum(mix[name] * bits for name, bits in scored.items()) / weight if weight else None
    return {"mix": mix, "mix_bits_per_byte": mean, "not_scored": sorted(mix.keys() - scored.keys())}


def _write_documents(result: DocumentScores, path: Path) -> None:
    rows = zip(result.sources, result.document_tokens, result.document_bytes, result.document_nats, strict=True)
    lines = [json.dumps(dict(zip(("source", "tokens", "bytes", "nats"), row, strict=True))) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
