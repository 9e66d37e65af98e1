"""Stage 06-chat: fine-tuning of the base model on conversations; example_tasks.py has the other tasks."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from groundup.artifacts.jsonl_file import write_jsonl
from groundup.artifacts.machine import Machine
from groundup.artifacts.rank_environment import is_main
from groundup.evaluate.intervals import paired_difference
from groundup.evaluate.likelihood import DocumentScores, score_documents
from groundup.evaluate.validation_documents import sample_validation_documents
from groundup.finetune.distillation import open_teacher
from groundup.finetune.example_tasks import finetune_on_examples, mean_loss
from groundup.finetune.finetune_plan import with_chat_template
from groundup.finetune.finetune_task import greedy_answers, task_for_model
from groundup.finetune.sft import finetune
from groundup.finetune.template_messages import template_notice
from groundup.finetune.trainable_base import load_base, machine_of_rank, save_tuned
from groundup.finetune.training_data.conversation_store import ConversationStore, TrainingConversation
from groundup.finetune.training_data.conversations import read_conversations, split_conversations
from groundup.finetune.training_data.read_stats import CHANGES, DROP_REASONS
from groundup.finetune.translation import score_translations
from groundup.finetune.tuning_options import TuningOptions
from groundup.interop.adapters.base_fingerprint import has_trained_tokens
from groundup.interop.base_model import read_added_tokens
from groundup.model import Decoder, EncoderDecoder
from groundup.parallel import process_group
from groundup.plan.defaults.finetune_defaults import RECALL_QUESTIONS, finetuning_defaults
from groundup.plan.shape.parameter_count import count_parameters
from groundup.recipe import RecipeView
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.tokenizer import Tokenizer, TokenShard
from groundup.train.checkpoints import discard_checkpoints
from groundup.train.device import setup_device

OPTIONS = ("augment_user_turns", "long_conversations", "teacher_weight", "teacher_temperature")
"""Knobs that are arguments of `finetune`, beside those of TuningOptions."""
RECALL_WORDS = 8
"""An answer is recalled if it begins with this many words of the training answer."""
RECALL_CHARACTERS = 400
"""Length of these questions at most."""
ORDINARY_TOKENS = 20_000
"""Held-out text on which the base model and the fine-tuned model are compared."""

SMALL_CONVERSATIONS = 5_000
"""A set of at most this size is to be known by heart: held-out answers get worse long before that, and do not decide."""


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Fine-tune the base model on conversations, resuming from a checkpoint in `out`; other tasks: `finetune_on_examples`.

    Writes the model folder (merged weights, tokenizer), `adapter/` with LoRA, the conversations as used (train.jsonl,
    validation.jsonl, dropped.jsonl) and steps.jsonl. Returns the metrics: method, conversations (read, kept, dropped,
    train, validation, turns, topics), tokens, epochs, learning_rate, steps, parameters (all, trained), kept_step and
    stopped_early (as in pretraining), loss (train and validation, at the start and at the kept step), validation over time,
    translation (of an encoder-decoder, see `score_translations`), answers to recipe.finetune.prompts, recall (training
    questions asked, and answered as trained before and after; a decoder), ordinary_text (bits per byte of held-out text
    before and after, and the interval of the difference; a decoder), speed.
    """
    config: FinetuneConfig = recipe.finetune
    if config.task != "generation":
        return finetune_on_examples(config, recipe.seed, inputs, out, replace(machine, layout={}))
    machine = machine_of_rank(machine)
    tokenizer = Tokenizer.load(inputs["base"])
    is_taught = has_trained_tokens(inputs["base"], tokenizer)
    tuning = TuningOptions.from_config(config, trained_tokens=is_taught, new_tokens=read_added_tokens(inputs["base"]))
    conversations, stats = read_conversations(config.conversations, machine, config.doubled_roles)
    machine.progress.log(f"conversations: {stats.describe()}")
    model: Any = load_base(inputs["base"], config.method, setup_device(machine))
    task = task_for_model(model)
    teacher = None if config.teacher is None else open_teacher(config.teacher, tokenizer, setup_device(machine))
    if isinstance(model, Decoder) and (notice := template_notice(with_chat_template(tokenizer))):
        machine.progress.log(notice)
    parameters = sum(weight.numel() for weight in model.parameters())
    train, validation = split_conversations(conversations, config.validation_fraction)
    if config.validation_fraction and not len(validation):
        machine.progress.log(
            f"no conversation of {len(train):,} is held out: a larger finetune.validation_fraction than "
            f"{config.validation_fraction:g} gives some"
        )
    if is_taught and config.learning_rate is None and isinstance(model, Decoder):
        defaults = finetuning_defaults(
            config.task, config.method, count_parameters(model.config).total, 0, is_taught=True
        )
        tuning = replace(tuning, learning_rate=defaults["learning_rate"])
    questions = _recall_questions(train) if isinstance(model, Decoder) else {}
    if questions:
        machine.progress.log(f"answering {len(questions)} training questions, before the training")
    recall = {"questions": len(questions), "before": _recalled(model, tokenizer, questions)}
    before = _score_ordinary_text(model, tokenizer, inputs, recipe.seed)
    with process_group(setup_device(machine), machine.stall_timeout_seconds):
        result = finetune(
            model, tokenizer, train, validation, merge=False, folder=out, machine=machine, seed=recipe.seed,
            keep_best_weights=_keeps_best(config, model, len(train)), teacher=teacher,
            **{name: getattr(config, name) for name in OPTIONS}, **tuning.as_arguments(),
        )  # fmt: skip
    if not is_main():
        return {}
    model = result.model
    stats.add(result.stats)
    train, validation = result.train.conversations, result.validation.conversations

    save_tuned(model, tokenizer, out, config.method, inputs["base"])
    after = _score_ordinary_text(model, tokenizer, inputs, recipe.seed)
    for name, part in (("train", train), ("validation", validation)):
        write_jsonl(out / f"{name}.jsonl", map(_record, part))
    write_jsonl(out / "dropped.jsonl", stats.positions)
    discard_checkpoints(out, machine.keep_checkpoint_every)
    records, evaluations = result.training.records, result.training.evaluations
    kept = result.training.kept_step
    window = max(1, len(records) // 20)
    translation = None
    if isinstance(model, EncoderDecoder):
        translation = score_translations(model, tokenizer, validation, machine.progress)
    return {
        "method": config.method,
        "conversations": stats.summary() | _counts(train, validation),
        "tokens": sum(record["tokens"] for record in records),
        "answer_tokens": result.train.answer_tokens,
        "epochs": round(result.knobs["epochs"] * len(records) / (result.config.steps or 1), 2),
        "learning_rate": result.knobs["learning_rate"],
        "steps": len(records),
        "kept_step": kept,
        "stopped_early": result.training.stopped_early,
        "sequence_length": result.config.sequence_length,
        "parameters": {"all": parameters, "trained": result.trained_parameters},
        "loss": {
            "train_start": mean_loss(records[:window]),
            "train_end": mean_loss(records[:kept][-window:]),
            "validation_start": result.validation_start,
            "validation_end": next((row["loss"] for row in evaluations if row["step"] == kept), None),
        },
        "validation": evaluations,
        "translation": translation,
        "answers": [{"prompt": prompt, "answer": task.answer(model, tokenizer, prompt)} for prompt in config.prompts],
        "recall": recall | {"recalled": _recalled(model, tokenizer, questions)},
        "ordinary_text": _ordinary_text(before, after),
        "speed": result.training.speed,
    }


def _keeps_best(config: FinetuneConfig, model: nn.Module, conversations: int) -> bool:
    if config.keep_best_weights is not None:
        return config.keep_best_weights
    return isinstance(model, EncoderDecoder) or conversations > SMALL_CONVERSATIONS


def _score_ordinary_text(
    model: nn.Module, tokenizer: Tokenizer, inputs: dict[str, Path], seed: int
) -> DocumentScores | None:
    if not isinstance(model, Decoder) or "tokens" not in inputs:
        return None
    shard = TokenShard(inputs["tokens"] / "validation")
    if not shard.num_documents:
        return None
    documents = sample_validation_documents(shard, tokenizer, max_tokens=ORDINARY_TOKENS, seed=seed)
    return score_documents(model.eval(), documents)


def _ordinary_text(before: DocumentScores | None, after: DocumentScores | None) -> dict[str, Any] | None:
    """Bits per byte, and the interval of their difference, paired by document."""
    if before is None or after is None:
        return None
    first, second = ([nats / math.log(2) for nats in scores.document_nats] for scores in (before, after))
    interval = paired_difference([first], [second], before.document_bytes).interval
    return {"before": before.bits_per_byte, "after": after.bits_per_byte, "difference_interval": interval}


def _recall_questions(conversations: ConversationStore) -> dict[str, list[str]]:
    """RECALL_QUESTIONS first turns, evenly spaced, with all their answers; long ones are left out."""
    answers: dict[str, list[str]] = {}
    for conversation in conversations:
        first = conversation.messages[0]["role"]
        if first != "assistant" and len(conversation.opening) <= RECALL_CHARACTERS and conversation.answer.strip():
            answers.setdefault(conversation.opening, []).append(conversation.answer)
    chosen = list(answers)[:: max(1, len(answers) // RECALL_QUESTIONS)][:RECALL_QUESTIONS]
    return {question: answers[question] for question in chosen}


def _recalled(model: nn.Module, tokenizer: Tokenizer, questions: Mapping[str, Sequence[str]]) -> int:
    """How many questions the model answers as in training."""
    if not isinstance(model, Decoder):
        return 0
    recalled = 0
    answers = greedy_answers(model.eval(), tokenizer, list(questions))
    for answer, expected in zip(answers, questions.values(), strict=True):
        beginnings = [text.split()[:RECALL_WORDS] for text in expected]
        recalled += any(answer.split()[: len(beginning)] == beginning for beginning in beginnings)
    return recalled


def _counts(train: ConversationStore, validation: ConversationStore) -> dict[str, Any]:
    conversations = [*train, *validation]
    return {
        "train": len(train),
        "validation": len(validation),
        "turns": sum(len(conversation.messages) for conversation in conversations),
        "topics": dict(Counter(conversation.topic for conversation in conversations)),
        "reasons": DROP_REASONS | CHANGES,
    }


def _record(conversation: TrainingConversation) -> dict[str, Any]:
    """A line of train.jsonl: the shape that is read again."""
    tools = {"tools": conversation.tools} if conversation.tools else {}
    return {"messages": conversation.messages} | tools | {"source": conversation.source, "topic": conversation.topic}
