"""Stage 06-chat: fine-tuning of the base model on conversations."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.machine import Machine
from groundup.finetune.adapter import save_adapter
from groundup.finetune.conversations import DROP_REASONS, TrainingConversation, read_conversations, split_conversations
from groundup.finetune.finetune_task import task_for_model
from groundup.finetune.lora import merge_lora
from groundup.finetune.sft import finetune
from groundup.finetune.trainable_tokens import merge_trainable_tokens
from groundup.model import load_model, save_model
from groundup.recipe import RecipeView
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.tokenizer import Tokenizer
from groundup.train.checkpoints import discard_checkpoints
from groundup.train.device import setup_device


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Fine-tune the base model on conversations, resuming from a checkpoint in `out`.

    Writes the model folder (merged weights, tokenizer), `adapter/` with LoRA, the conversations as used (train.jsonl,
    validation.jsonl, dropped.jsonl) and steps.jsonl. Returns the metrics: method, conversations (read, kept, dropped,
    train, validation, turns, topics), tokens, epochs, steps, parameters (all, trained), loss (train and validation, at
    the start and the end), validation over time, greedy answers to recipe.finetune.prompts, speed.
    """
    config: FinetuneConfig = recipe.finetune
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    conversations, stats = read_conversations(config.conversations, machine)
    model = load_model(inputs["base"], setup_device(machine))
    task = task_for_model(model, config.method)
    parameters = sum(weight.numel() for weight in model.parameters())
    train, validation = split_conversations(conversations, config.validation_fraction)
    fields = (
        "method", "lora_rank", "lora_alpha", "epochs", "batch_tokens", "learning_rate", "precision",
        "augment_user_turns",
    )  # fmt: skip
    settings: dict[str, Any] = {name: getattr(config, name) for name in fields}
    result = finetune(
        model, tokenizer, train, validation, merge=False, folder=out, machine=machine, seed=recipe.seed, **settings
    )
    stats.kept -= len(result.too_long)
    for conversation in result.too_long:
        stats.drop("too_long", conversation.messages, conversation.source)
    train, validation = ([conversation for conversation, _ in part] for part in (result.train, result.validation))

    if config.method == "lora":
        save_adapter(model, out / "adapter")
        merge_trainable_tokens(merge_lora(model))
    save_model(model, out)
    tokenizer.save(out)
    for name, part in (("train", train), ("validation", validation)):
        lines = ({"messages": c.messages, "source": c.source, "topic": c.topic} for c in part)
        _write_lines(out / f"{name}.jsonl", lines)
    _write_lines(out / "dropped.jsonl", stats.samples)
    discard_checkpoints(out, machine.keep_checkpoint_every)
    records, evaluations = result.training.records, result.training.evaluations
    window = max(1, len(records) // 20)
    return {
        "method": config.method,
        "conversations": stats.summary() | _counts(train, validation),
        "tokens": result.config.tokens,
        "answer_tokens": sum(sum(encoded.variants[0][1]) for _, encoded in result.train),
        "epochs": config.epochs,
        "steps": result.config.steps,
        "parameters": {"all": parameters, "trained": result.trained_parameters},
        "loss": {
            "train_start": _mean_loss(records[:window]),
            "train_end": _mean_loss(records[-window:]),
            "validation_start": result.validation_start,
            "validation_end": evaluations[-1]["loss"] if evaluations else None,
        },
        "validation": evaluations,
        "answers": [{"prompt": prompt, "answer": task.answer(model, tokenizer, prompt)} for prompt in config.prompts],
        "speed": result.training.speed,
    }


def _counts(train: Sequence[TrainingConversation], validation: Sequence[TrainingConversation]) -> dict[str, Any]:
    conversations = [*train, *validation]
    return {
        "train": len(train),
        "validation": len(validation),
        "turns": sum(len(conversation.turns) for conversation in conversations),
        "topics": dict(Counter(conversation.topic for conversation in conversations)),
        "reasons": DROP_REASONS,
    }


def _mean_loss(records: Sequence[dict[str, Any]]) -> float:
    return math.fsum(record["loss"] for record in records) / max(1, len(records))


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode())
