"""What preference tuning will read and cost: before the first stage runs."""

import math
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.inputs import file_hashes
from groundup.finetune.finetune_plan import EXACT_ITEMS, with_chat_template
from groundup.finetune.training_data.input_check import are_local, check_lora_targets
from groundup.finetune.tuning_memory import tuning_memory
from groundup.interop.base_model import base_model_path, read_base_tokenizer
from groundup.plan.checks.stage_support import check_row_length
from groundup.plan.defaults.preference_defaults import number_of_evals, preference_defaults
from groundup.plan.derive import SECONDS_PER_HOUR, resolved_model_config
from groundup.plan.hardware import device_spec
from groundup.plan.layout.layout_search import MEMORY_FRACTION
from groundup.plan.layout.parallel_layout import planned_devices
from groundup.plan.layout.tuning_layout import check_tuning_layout, tuning_layout
from groundup.plan.memory.memory_estimate import device_kind
from groundup.plan.shape.parameter_count import count_parameters
from groundup.plan.time.training_speed import TrainingSpeed
from groundup.recipe import Recipe
from groundup.recipe.preference_config import PreferenceConfig
from groundup.train.micro_batch import DEFAULT_TOKENS


def identity(section: PreferenceConfig, machine: Machine) -> dict[str, Any]:
    """The content hash of every source by name, so that changed files make a new run. Downloads nothing.

    Raises UserError if a local path matches no file.
    """
    return {source.name: file_hashes(source, machine) for source in section.sources}


def check_preference(recipe: Recipe) -> None:
    """Stage preference: the architecture, the chat template, and the files that the recipe names. Raises UserError."""
    config, model = recipe.preference, resolved_model_config(recipe)
    assert config is not None
    check_tuning_layout(recipe, "preference")
    if model.architecture != "decoder":
        raise UserError(f"[preference] with an {model.architecture}, expected a decoder", hint="leave [preference] out")
    later = [name for name in ("reinforcement", "quantize", "export") if getattr(recipe, name) is not None]
    if config.loss == "reward" and later:
        raise UserError(
            f"[{later[0]}] after preference.loss = reward, which makes a model that scores answers and writes none",
            hint=f"leave [{later[0]}] out, or set another preference.loss",
        )
    check_row_length(config.sequence_length, model.context_length)
    check_lora_targets(recipe, config)
    if recipe.base is not None:
        with_chat_template(read_base_tokenizer(base_model_path(recipe.base)))
    if are_local(config.sources):
        from groundup.finetune.training_data.preference_data import (
            read_items,  # torch, which `plan` of other recipes needs not
        )

        read_items(config, Machine())


FORWARD = 1 / 3
"""Of the time of a training step: log-probabilities of the reference, and evaluations."""


def estimate_preference(recipe: Recipe, machine: Machine) -> dict[str, Any] | None:
    """preferences, tokens, epochs, learning_rate, steps, longest (tokens of an answer with its prompt), memory_bytes, hours.

    None without [base], and for preferences that are not on this machine. Raises UserError for preferences that cannot be
    read, and if the training does not fit into the memory of budget.hardware.
    """
    section, config = recipe.preference, resolved_model_config(recipe)
    if recipe.base is None or section is None or not are_local(section.sources):
        return None
    from groundup.finetune.preference.preference_batches import LengthGroups
    from groundup.finetune.preference.preference_sets import encode_preferences, responses_of
    from groundup.finetune.training_data.example_sources import split_examples
    from groundup.finetune.training_data.preference_data import read_items

    items, _ = read_items(section, machine)
    train, validation = split_examples(items, section.validation_fraction, lambda item: repr(item.prompt))
    tokenizer = with_chat_template(read_base_tokenizer(base_model_path(recipe.base)))
    limit = section.sequence_length or config.context_length
    sample = train if len(train) <= EXACT_ITEMS else train[:: len(train) // EXACT_ITEMS]
    encoded, _ = encode_preferences(sample, tokenizer, limit)
    if not encoded:
        raise UserError(f"no preference fits into {limit} tokens", hint="raise preference.sequence_length")
    lengths = [[len(response.ids) for response in responses_of(each)] for _, each in encoded]
    share = len(train) / len(sample)
    tokens, count = share * sum(map(sum, lengths)), share * len(encoded)
    mean, longest, held_out = tokens / count, max(map(max, lengths)), len(validation)
    knobs = preference_defaults(section.loss, section.method, count_parameters(config).total, tokens)
    given = {name: value for name in knobs if (value := getattr(section, name, None)) is not None}
    knobs |= given
    padded = [len(each) * max(each) for each in lengths]
    rows = LengthGroups(padded, knobs["batch_tokens"], recipe.seed, least=2 if section.loss == "kto" else 1).batch_rows
    steps = max(1, math.ceil(knobs["epochs"] * count / rows))
    device = device_spec(recipe.budget.hardware)
    tuning = section.model_copy(update={"lora_rank": knobs["lora_rank"]})
    kind = device_kind(recipe.budget.hardware)
    layout = tuning_layout(recipe.machine.layout, planned_devices(recipe))
    device_rows = math.ceil(rows / layout.num_devices)
    answers = len(lengths[0]) * max(1, min(device_rows, DEFAULT_TOKENS[kind] // (len(lengths[0]) * longest)))
    base = base_model_path(recipe.base)
    memory = tuning_memory(config, tuning, longest, answers, base, layout, kind=kind, whole_answers=True).total
    if memory > MEMORY_FRACTION * device.memory_bytes:
        raise UserError(
            f"preference tuning needs {memory / 1e9:.1f} GB, expected at most "
            f"{MEMORY_FRACTION * device.memory_bytes / 1e9:.1f} GB ({recipe.budget.hardware})",
            hint="preference.method=lora, a smaller sequence_length or batch_tokens, or another budget.hardware",
        )
    speed = TrainingSpeed(device, relative=recipe.budget.relative_speed)
    step = speed.step_seconds(config, round(mean), device_rows * mean, method=section.method)
    evaluations = number_of_evals(knobs["epochs"] * count, held_out) + 2
    passes = evaluations * held_out  # by each device
    if section.loss in ("dpo", "ipo", "kto"):
        passes += len(items) / layout.num_devices
    return {
        "preferences": len(items), "tokens": round(tokens), "epochs": knobs["epochs"],
        "learning_rate": knobs["learning_rate"], "steps": steps, "longest": longest, "memory_bytes": memory,
        "devices": layout.num_devices, "hours": (steps + FORWARD * passes / device_rows) * step / SECONDS_PER_HOUR,
    }  # fmt: skip
