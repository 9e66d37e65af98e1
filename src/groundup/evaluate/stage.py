"""05-scores: what the base model is worth, beside what one gets without it."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from groundup.artifacts.machine import Machine
from groundup.evaluate.baselines import compressors, unigram_and_bigram
from groundup.evaluate.documents import held_out
from groundup.evaluate.hidden import hiding, score_hidden
from groundup.evaluate.intervals import bootstrap
from groundup.evaluate.perplexity import Score, score
from groundup.evaluate.samples import continuations
from groundup.evaluate.tasks import CHOICES, ask, continuation_questions, run_task, summary
from groundup.interop import open_model
from groundup.model import Decoder, load_config
from groundup.tokenizer import TokenShard

CONTINUATIONS = "true continuation"
"""What the task that is made of the held-out text is called."""


def run(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Score the base model on held-out text, ask it questions and let it speak; or, where it does not go from left to
    right, let it guess hidden tokens.

    Writes documents.jsonl: source, tokens, bytes and nats of each. After a kill it begins anew.
    """
    settings, seed = recipe.evaluate, recipe.seed
    torch.set_num_threads(machine.threads)
    model, tokenizer = open_model(inputs["base"], device=machine.device)
    shard = TokenShard(inputs["tokens"] / "validation")
    if not isinstance(model, Decoder):
        config = load_config(inputs["base"])
        length, hide = min(config.context_length, shard.num_tokens), hiding(config, tokenizer)
        return {"hidden": score_hidden(model, hide, shard, length, max_tokens=settings.max_tokens, seed=seed)}
    documents = held_out(shard, tokenizer, max_tokens=settings.max_tokens, seed=seed)
    began = time.monotonic()
    with machine.progress.task(
        "scoring", total=sum(document.tokens for document in documents), unit="tokens"
    ) as task:
        result = score(model, documents, task=task)
    speed = {"tokens_per_second": result.tokens / (time.monotonic() - began)}
    text = "".join(tokenizer.decode(document.ids[1:]) for document in documents).encode()
    baselines = unigram_and_bigram(TokenShard(inputs["tokens"] / "train"), documents) | compressors(text)
    tasks: dict[str, Any] = {}
    if questions := continuation_questions(documents, tokenizer, settings.continuations, seed):
        tasks[CONTINUATIONS] = summary(
            ask(model, questions), [q.document for q in questions], 1 / CHOICES, seed
        )
    for own in settings.tasks:
        tasks[own.name] = run_task(own, model, tokenizer, seed)
    samples = continuations(
        model,
        tokenizer,
        settings.prompts,
        max_tokens=settings.sample_tokens,
        temperature=settings.temperature,
        seed=seed,
    )
    _write_documents(result, out / "documents.jsonl")
    return {
        **facts(result, seed),
        "held_out": {"documents": shard.num_documents, "tokens": shard.num_tokens},
        "sources": {name: facts(part, seed) for name, part in result.by_source().items()},
        "baselines": baselines,
        "tasks": tasks,
        "samples": samples,
        "speed": speed,
    }


def facts(result: Score, seed: int) -> dict[str, Any]:
    """A score as JSON values, with the 95% interval of its bits per byte (None for a single document)."""
    return {
        "bits_per_byte": result.bits_per_byte,
        "bits_per_byte_interval": bits_per_byte_interval(result, seed),
        "perplexity": result.perplexity,
        "loss": result.loss,
        "documents": len(result.sources),
        "tokens": result.tokens,
        "bytes": result.bytes,
    }


def bits_per_byte_interval(result: Score, seed: int) -> list[float] | None:
    """[low, high] of bits per byte by the bootstrap over documents."""
    bits = [nats / math.log(2) for nats in result.nats_each]
    return bootstrap(bits, result.bytes_each, seed)


def _write_documents(result: Score, path: Path) -> None:
    rows = zip(result.sources, result.tokens_each, result.bytes_each, result.nats_each, strict=True)
    lines = [json.dumps(dict(zip(("source", "tokens", "bytes", "nats"), row, strict=True))) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
