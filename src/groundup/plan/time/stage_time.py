"""Seconds of each stage of a run on CPUs, where small models spend as long beside pretraining as in it.

Constants were measured on cpu-2 with recipes/quickstart.toml and a folder of 49 books; the rest is tokens times the
speed of training. On accelerators only pretraining is estimated: it outweighs the rest.
"""

from groundup.plan.defaults.finetune_defaults import (
    ANSWER_TOKENS,
    MAX_PACKED_TOKENS,
    MAX_TRANSLATIONS,
    RECALL_QUESTIONS,
    derive_finetuning,
)
from groundup.plan.defaults.training_knobs import require_derived
from groundup.plan.derive import Plan, resolved_model_config
from groundup.plan.hardware import device_spec
from groundup.plan.shape.parameter_count import TEXT_PAIRS, count_parameters
from groundup.plan.time.training_speed import TrainingSpeed, is_cpu, without_logits
from groundup.recipe import ModelConfig, Recipe
from groundup.recipe.recipe import BudgetConfig

DATA_SECONDS, DATA_SECONDS_PER_MEGABYTE = 5.0, 0.5
TOKENIZER_SECONDS, TOKENIZER_SECONDS_PER_MEGABYTE = 1.5, 0.3
MODEL_STAGE_SECONDS, MODEL_SECONDS_PER_PARAMETER = 3.0, 2e-8
"""Loading of a model and writing of results."""
REPORT_SECONDS = 3.0
SCORING_FACTOR = 0.9
"""Time of scoring a token in float32, of that of training on it in bfloat16."""
LEARNING_PASSES = 3
"""Of a step of learned rounding: forward, and twice as much backward."""
SCORING_BATCH_TOKENS = 2_048
MIN_VALIDATION_TOKENS = 30_000
BYTES_PER_TOKEN = 4.0
PAIR_LENGTH = 16
"""Typical tokens of a text of a pair, for the cost of attention."""
PAIR_PADDING, PAIR_BYTES_PER_TOKEN = 1.7, 2.8
"""Positions of a batch of pairs, of its tokens: the longest text of a batch counts. One vocabulary for two languages splits
short texts into more tokens. Measured on messages of programs, English to Russian: 1.4 and 3.3, 2.0 and 2.4 (lab book)."""
DECODING_BLOCK_SECONDS = 2.6e-3
"""Of the calls of a block that writes one token."""
DECODING_FLOPS, WEIGHTS_AS_TOKENS = 1e11, 20
"""Per second; reading the weights takes as long as this many tokens."""
BEAMS, TRANSLATION_TOKENS = 4, 20
"""Texts that a beam search writes at once, and mean tokens of a translation."""
COMPARED_MODELS, TASK_TOKENS = 3, 17_600
"""Float, rounded and quantized; tokens of 50 passages with four endings each."""
SAMPLED_TOKENS, SAMPLED_AT_ONCE = 12_288, 32
"""Tokens that a model without text writes for its quantization: minutes on a CPU for a billion parameters."""


def estimate_stage_seconds(
    plan: Plan,
    text_bytes: float | None,
    conversation_bytes: float | None,
    scored_bytes: float | None = None,
    finetuning_seconds: float | None = None,
) -> dict[str, float] | None:
    """Seconds of each stage of `plan`, by name of its table; None: not known.

    Args:
        text_bytes: of all files of text; None: not known.
        conversation_bytes: of one epoch of fine-tuning; None: not known.
        scored_bytes: of evaluate.text; None: not known, or validation documents.
        finetuning_seconds: of the training on conversations; None: estimated from their bytes.
    """
    recipe = plan.recipe
    if plan.parameters is None or not is_cpu(device_spec(recipe.budget.hardware)):
        return None
    if (recipe.data and text_bytes is None) or (recipe.finetune and conversation_bytes is None):
        return None
    speed = TrainingSpeed(device_spec(recipe.budget.hardware), recipe.budget.devices, recipe.budget.relative_speed)
    config = resolved_model_config(recipe)
    length = min(MAX_PACKED_TOKENS, config.context_length)
    if recipe.train is not None:
        length = require_derived(recipe.train.sequence_length, "train.sequence_length")

    def scoring(tokens: float) -> float:
        return SCORING_FACTOR * speed.training_seconds(config, length, tokens, SCORING_BATCH_TOKENS)

    relative = recipe.budget.relative_speed
    megabytes = (text_bytes or 0.0) / 1e6
    model_seconds = (MODEL_STAGE_SECONDS + MODEL_SECONDS_PER_PARAMETER * plan.parameters.total) / relative
    seconds: dict[str, float] = {}
    if recipe.data:
        seconds["data"] = (DATA_SECONDS + DATA_SECONDS_PER_MEGABYTE * megabytes) / relative
    if recipe.tokenizer or (recipe.base and recipe.data):
        seconds["tokenizer"] = (TOKENIZER_SECONDS + TOKENIZER_SECONDS_PER_MEGABYTE * megabytes) / relative
    if recipe.base:
        seconds["base"] = model_seconds
    if recipe.train:
        seconds["train"] = plan.seconds
    if recipe.evaluate:
        text = _validation_tokens(recipe, megabytes) if scored_bytes is None else scored_bytes / BYTES_PER_TOKEN
        seconds["evaluate"] = model_seconds + scoring(min(recipe.evaluate.max_tokens, text))
    tokens = (conversation_bytes or 0.0) / BYTES_PER_TOKEN
    if recipe.finetune:
        is_pairs = recipe.finetune.task == "generation" and config.architecture == "encoder_decoder"
        if is_pairs:
            tokens *= BYTES_PER_TOKEN / PAIR_BYTES_PER_TOKEN
        if finetuning_seconds is None:
            tuning = derive_finetuning(recipe.finetune, plan.parameters.total, tokens, config.architecture)
            epochs, batch_tokens = require_derived(tuning.epochs, "epochs"), require_derived(tuning.batch_tokens, "")
            if is_pairs:
                sources, batch = PAIR_PADDING * epochs * tokens / sum(TEXT_PAIRS), PAIR_PADDING * batch_tokens
                finetuning_seconds = speed.training_seconds(config, PAIR_LENGTH, sources, batch, TEXT_PAIRS)
            else:
                trained = config if recipe.finetune.task == "generation" else without_logits(config)
                finetuning_seconds = speed.training_seconds(
                    trained, length, epochs * tokens, batch_tokens, method=recipe.finetune.method
                )
        seconds["finetune"] = model_seconds + finetuning_seconds
        if recipe.finetune.task == "generation" and not is_pairs:
            batches = (RECALL_QUESTIONS, RECALL_QUESTIONS, *(1 for _ in recipe.finetune.prompts))  # before and after
            seconds["finetune"] += sum(
                ANSWER_TOKENS * token_seconds(config, recipe.budget, number) for number in batches
            )
        if is_pairs:
            translated = MAX_TRANSLATIONS * min(TRANSLATION_TOKENS, config.context_length)
            seconds["finetune"] += translated * token_seconds(config, recipe.budget, BEAMS)
    if recipe.quantize:
        read = recipe.quantize.calibration_tokens + COMPARED_MODELS * (recipe.quantize.eval_tokens + TASK_TOKENS)
        if recipe.data is None:
            read = min(read, 2 * (tokens or SAMPLED_TOKENS) + COMPARED_MODELS * TASK_TOKENS)
        if recipe.quantize.method == "autoround":
            read += LEARNING_PASSES * recipe.quantize.rounding_steps * length
        seconds["quantize"] = model_seconds + scoring(read)
        if recipe.data is None and recipe.finetune is None:
            steps = SAMPLED_TOKENS / SAMPLED_AT_ONCE
            seconds["quantize"] += steps * token_seconds(config, recipe.budget, SAMPLED_AT_ONCE)
    if recipe.export:
        seconds["export"] = model_seconds / 2  # nothing is computed
    if recipe.report:
        seconds["report"] = REPORT_SECONDS / relative
    return seconds


def token_seconds(config: ModelConfig, budget: BudgetConfig, number: int) -> float:
    """Seconds of writing one token of each of `number` texts at once."""
    blocks = config.num_layers * DECODING_BLOCK_SECONDS
    arithmetic = 2 * count_parameters(config).active * (number + WEIGHTS_AS_TOKENS) / DECODING_FLOPS
    return (blocks + arithmetic) / budget.relative_speed


def _validation_tokens(recipe: Recipe, megabytes: float) -> float:
    fraction = recipe.data.validation_fraction if recipe.data else 0.0
    return max(MIN_VALIDATION_TOKENS, fraction * megabytes * 1e6 / BYTES_PER_TOKEN)
