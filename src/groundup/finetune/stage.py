"""06-chat: the base model learns to answer: in conversation, or one text by another."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.machine import Machine
from groundup.finetune.adapter import save_adapter
from groundup.finetune.chat_batches import EncodedConversation
from groundup.finetune.conversations import (
    DROP_REASONS,
    ConversationStats,
    TrainingConversation,
    read_conversations,
)
from groundup.finetune.finetune_task import FinetuneTask, task_for_model
from groundup.finetune.lora import merge_lora
from groundup.finetune.sft import METHODS, finetune, validation_loss
from groundup.finetune.trainable_tokens import merge_trainable_tokens
from groundup.finetune.validation_split import split_conversations
from groundup.model import load_config, load_model, save_model
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.tokenizer import Tokenizer
from groundup.train.checkpoints import prune_checkpoints
from groundup.train.device import setup_device


def run(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Fine-tune the base model on conversations; continues from a checkpoint in `out`.

    Writes the chat model's folder (merged weights, tokenizer), `adapter/` (with lora), the conversations as
    they were used (train.jsonl, validation.jsonl, dropped.jsonl) and steps.jsonl. Returns the metrics:
    method, conversations (read, kept, dropped, train, validation, turns, topics), tokens, epochs, steps,
    parameters (all, trained), loss (of training and of held-out conversations, at the start and the end),
    validation (over time), answers (to recipe.finetune.prompts, each the likeliest), speed.
    """
    section: FinetuneConfig = recipe.finetune
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    conversations, funnel = read_conversations(section.conversations, machine)
    device = setup_device(machine)
    torch.manual_seed(recipe.seed)
    model = load_model(inputs["base"], device)
    form = task_for_model(model, section.method)
    length = load_config(inputs["base"]).context_length
    learned, held_out = (
        _encoded(part, form, tokenizer, length, vary, funnel)
        for part, vary in zip(
            split_conversations(conversations, section.validation_fraction),
            (section.augment_user_turns, False),
            strict=True,
        )
    )
    rows = max(1, section.batch_tokens // length)
    batches = form.batches([e for _, e in learned], length, rows, recipe.seed, tokenizer)
    validation = (
        form.batches([e for _, e in held_out], length, rows, recipe.seed, tokenizer).first_epoch()
        if held_out
        else []
    )

    parameters = sum(weight.numel() for weight in model.parameters())
    METHODS[section.method](model, section, tokenizer)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    before = (
        validation_loss(model.eval(), form.objective, validation, section.precision) if validation else None
    )
    result, settings = finetune(model, form.objective, batches, validation, section, out, machine)

    if section.method == "lora":
        save_adapter(model, out / "adapter")
        merge_trainable_tokens(merge_lora(model))
    save_model(model, out)
    tokenizer.save(out)
    _write_lines(
        out / "train.jsonl",
        ({"messages": c.messages, "source": c.source, "topic": c.topic} for c, _ in learned),
    )
    _write_lines(
        out / "validation.jsonl",
        ({"messages": c.messages, "source": c.source, "topic": c.topic} for c, _ in held_out),
    )
    _write_lines(out / "dropped.jsonl", funnel.samples)
    prune_checkpoints(out / "checkpoints", machine.keep_checkpoint_every)
    ends = max(1, len(result.records) // 20)
    return {
        "method": section.method,
        "conversations": funnel.summary() | _counts(learned, held_out),
        "tokens": settings.tokens,
        "answer_tokens": sum(sum(e.variants[0][1]) for _, e in learned),
        "epochs": section.epochs,
        "steps": settings.steps,
        "parameters": {"all": parameters, "trained": trained},
        "loss": {
            "train_start": _mean(record["loss"] for record in result.records[:ends]),
            "train_end": _mean(record["loss"] for record in result.records[-ends:]),
            "validation_start": before,
            "validation_end": result.evaluations[-1]["loss"] if result.evaluations else None,
        },
        "validation": result.evaluations,
        "answers": [
            {"prompt": prompt, "answer": form.answer(model, tokenizer, prompt)} for prompt in section.prompts
        ],
        "speed": result.speed,
    }


def _encoded(
    conversations: Sequence[TrainingConversation],
    form: FinetuneTask,
    tokenizer: Tokenizer,
    length: int,
    vary: bool,
    funnel: ConversationStats,
) -> list[tuple[TrainingConversation, EncodedConversation]]:
    """Those that fit the context, each with its tokens; the others are counted as dropped."""
    found = []
    for conversation in conversations:
        encoded = form.encode(conversation, tokenizer, length, vary_user=vary)
        if encoded is None:
            funnel.kept -= 1
            funnel.drop("too_long", conversation.messages, conversation.source)
        else:
            found.append((conversation, encoded))
    return found


def _counts(
    learned: list[tuple[TrainingConversation, EncodedConversation]],
    held_out: list[tuple[TrainingConversation, EncodedConversation]],
) -> dict[str, Any]:
    everything = [conversation for conversation, _ in learned + held_out]
    topics: dict[str, int] = {}
    for conversation in everything:
        topics[conversation.topic] = topics.get(conversation.topic, 0) + 1
    return {
        "train": len(learned),
        "validation": len(held_out),
        "turns": sum(len(conversation.turns) for conversation in everything),
        "topics": topics,
        "reasons": DROP_REASONS,
    }


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / max(1, len(values))


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode())
