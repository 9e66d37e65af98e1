"""What fine-tuning of [base] will cost, and whether its tokenizer can render conversations: before the first stage runs."""

import math
from functools import partial
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import in_turn
from groundup.finetune.chat_batches import ChatBatches, encode_conversation
from groundup.finetune.distillation import check_teacher
from groundup.finetune.template_messages import check_template
from groundup.finetune.training_data.conversation_store import TrainingConversation
from groundup.finetune.training_data.conversations import read_conversations, split_conversations
from groundup.finetune.training_data.input_check import are_local, check_lora_targets
from groundup.finetune.training_data.read_stats import ReadStats
from groundup.finetune.training_set import encode_training_set
from groundup.finetune.tuning_memory import tuning_memory
from groundup.interop.base_model import base_model_path, read_base_tokenizer
from groundup.plan.checks.stage_support import check_chat
from groundup.plan.defaults.finetune_defaults import derive_finetuning, row_length
from groundup.plan.derive import SECONDS_PER_HOUR, resolved_model_config
from groundup.plan.hardware import device_spec
from groundup.plan.layout.layout_search import MEMORY_FRACTION
from groundup.plan.layout.parallel_layout import planned_devices
from groundup.plan.layout.tuning_layout import tuning_layout
from groundup.plan.memory.memory_estimate import device_kind
from groundup.plan.shape.parameter_count import count_parameters
from groundup.plan.time.training_speed import TrainingSpeed
from groundup.recipe import ModelConfig, Recipe
from groundup.recipe.base_model_config import BaseModelConfig
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.chat_template import CHATML, PLAIN
from groundup.tokenizer.special_tokens import TURN_END, TURN_START
from groundup.train.micro_batch import DEFAULT_TOKENS

EXACT_ITEMS = 2_000
"""Conversations or preferences that the plan encodes: of fewer, steps are those of the run; of more, so many are a sample."""


def check_base_chat(recipe: Recipe) -> None:
    """`check_chat`, and the chat template of [base]: one conversation is rendered with it."""
    check_chat(recipe)
    assert recipe.base is not None
    assert recipe.finetune is not None
    check_lora_targets(recipe, recipe.finetune)
    if recipe.finetune.task != "generation" or resolved_model_config(recipe).architecture != "decoder":
        return
    tokenizer = with_chat_template(read_base_tokenizer(base_model_path(recipe.base)))
    if recipe.finetune.teacher is not None:
        teacher = base_model_path(BaseModelConfig(model=recipe.finetune.teacher), "finetune.teacher")
        check_teacher(recipe.finetune.teacher, read_base_tokenizer(teacher), tokenizer)
    encode_conversation(TrainingConversation(in_turn(["Hello", "Hi.", "Thanks", "Welcome."])), tokenizer)


def with_chat_template(tokenizer: Tokenizer) -> Tokenizer:
    """`tokenizer`; one without a chat template gets ChatML if it has the tokens, else headers of plain text.

    Raises UserError for one that has no token to end an answer with either, and for a broken template.
    """
    if tokenizer.chat_template is not None:
        check_template(tokenizer)
        return tokenizer
    turns = {tokenizer.token_id(TURN_START), tokenizer.token_id(TURN_END)}
    if not turns <= tokenizer.special_ids and tokenizer.eos is None:
        raise UserError(
            "the tokenizer has neither a chat template nor an end-of-text token, so no answer could end",
            hint="set chat_template or eos_token in tokenizer_config.json of the model",
        )
    tokenizer.chat_template = CHATML if turns <= tokenizer.special_ids else PLAIN
    return tokenizer


def estimate_finetuning(recipe: Recipe, machine: Machine) -> dict[str, Any] | None:
    """Conversations, tokens, epochs, learning_rate, steps, sequence_length, memory_bytes and hours of the fine-tuning.

    None without [base] and for conversations that are not on this machine. Raises UserError for conversations that cannot
    be read, and if the training does not fit into the memory of budget.hardware.
    """
    finetune, config = recipe.finetune, resolved_model_config(recipe)
    if recipe.base is None or finetune is None or finetune.task != "generation" or config.architecture != "decoder":
        return None
    if not are_local(finetune.conversations):
        return None
    conversations, _ = read_conversations(finetune.conversations, machine, finetune.doubled_roles)
    train, validation = split_conversations(conversations, finetune.validation_fraction)
    tokenizer = read_base_tokenizer(base_model_path(recipe.base))
    is_taught = tokenizer.chat_template is not None
    tokenizer = with_chat_template(tokenizer)
    limit = finetune.sequence_length or config.context_length
    sample, others = train, validation
    if len(train) > EXACT_ITEMS:
        sample = train[:: len(train) // EXACT_ITEMS]
        others = [max(conversations, key=lambda each: sum(len(message["content"] or "") for message in each.messages))]
    stats = ReadStats()
    fitting, held_out = (
        encode_training_set(
            part, partial(encode_conversation, tokenizer=tokenizer, augment_user_turns=is_augmented), tokenizer.vocab_size,
            limit, finetune.long_conversations, stats,
        )
        for part, is_augmented in ((sample, finetune.augment_user_turns), (others, False))
    )  # fmt: skip
    if not len(fitting):
        raise UserError(
            f"no conversation fits into {limit} tokens",
            hint="raise finetune.sequence_length, or split the conversations",
        )
    share = len(train) / len(sample)
    tokens = share * fitting.tokens
    finetune = derive_finetuning(finetune, count_parameters(config).total, tokens, is_taught=is_taught)
    assert finetune.batch_tokens is not None
    length = finetune.sequence_length or row_length(
        max(fitting.longest, held_out.longest), config.context_length, finetune.batch_tokens
    )
    batches = ChatBatches(fitting.encoded, length, max(1, finetune.batch_tokens // length), recipe.seed, 0)
    return _cost(recipe, config, finetune, batches, share) | {
        "conversations": len(conversations), "tokens": round(tokens),
        "refused": round(share * sum(stats.dropped.values())),
    }  # fmt: skip


def _cost(
    recipe: Recipe, config: ModelConfig, finetune: FinetuneConfig, batches: ChatBatches, share: float
) -> dict[str, Any]:
    """Steps, memory and time; `share`: conversations for each of `batches`."""
    assert finetune.epochs is not None
    length, batch_rows = batches.sequence_length, batches.batch_rows
    layout = tuning_layout(recipe.machine.layout, planned_devices(recipe))
    steps = max(1, math.ceil(finetune.epochs * share * batches.num_rows / batch_rows))
    device = device_spec(recipe.budget.hardware)
    speed = TrainingSpeed(device, relative=recipe.budget.relative_speed)
    device_rows = math.ceil(batch_rows / layout.num_devices)
    seconds = steps * speed.step_seconds(config, length, device_rows * length, method=finetune.method)
    assert recipe.base is not None
    kind = device_kind(recipe.budget.hardware)
    micro_batch = max(1, min(device_rows, DEFAULT_TOKENS[kind] // length))
    teacher = finetune.teacher and base_model_path(BaseModelConfig(model=finetune.teacher), "finetune.teacher")
    memory = tuning_memory(
        config, finetune, length, micro_batch, base_model_path(recipe.base), layout, kind=kind, teacher=teacher or None
    )
    available = MEMORY_FRACTION * device.memory_bytes
    if memory.total > available:
        raise UserError(
            f"fine-tuning needs {memory.total / 1e9:.1f} GB, expected at most {available / 1e9:.1f} GB "
            f"({recipe.budget.hardware})",
            hint="finetune.method=qlora, a smaller finetune.sequence_length or batch_tokens, or another budget.hardware",
        )
    return {
        "epochs": finetune.epochs,
        "learning_rate": finetune.learning_rate,
        "steps": steps,
        "sequence_length": length,
        "devices": layout.num_devices,
        "memory_bytes": memory.total,
        "hours": seconds / SECONDS_PER_HOUR,
    }
