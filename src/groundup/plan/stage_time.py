"""Seconds of each stage of a run on CPUs, where small models spend as long beside pretraining as in it.

Constants were measured on cpu-2 with recipes/quickstart.toml and a folder of 49 books; the rest is tokens times the
speed of training. On accelerators only pretraining is estimated: it outweighs the rest.
"""

from groundup.plan.derive import Plan, require_derived, resolved_model_config
from groundup.plan.hardware import device_spec
from groundup.plan.training_speed import TrainingSpeed
from groundup.recipe import Recipe

DATA_SECONDS, DATA_SECONDS_PER_MEGABYTE = 5.0, 0.5
TOKENIZER_SECONDS, TOKENIZER_SECONDS_PER_MEGABYTE = 1.5, 0.3
MODEL_STAGE_SECONDS = 3.0
"""Loading of a model and writing of results."""
REPORT_SECONDS = 3.0
SCORING_FACTOR = 0.9
"""Time of scoring a token in float32, of that of training on it in bfloat16."""
SCORING_BATCH_TOKENS = 2_048
MIN_VALIDATION_TOKENS = 30_000
BYTES_PER_TOKEN = 4.0


def estimate_stage_seconds(
    plan: Plan, text_bytes: float | None, conversation_bytes: float | None
) -> dict[str, float] | None:
    """Seconds of each stage of `plan`, by name of its table; None: not known.

    Args:
        text_bytes: of all files of text; None: not known.
        conversation_bytes: of one epoch of fine-tuning; None: not known.
    """
    recipe = plan.recipe
    if recipe.train is None or not recipe.budget.hardware.startswith("cpu"):
        return None
    if (recipe.data and text_bytes is None) or (recipe.finetune and conversation_bytes is None):
        return None
    speed = TrainingSpeed(device_spec(recipe.budget.hardware), recipe.budget.devices, recipe.budget.relative_speed)
    config = resolved_model_config(recipe)
    length = require_derived(recipe.train.sequence_length, "train.sequence_length")

    def scoring(tokens: float) -> float:
        return SCORING_FACTOR * speed.training_seconds(config, length, tokens, SCORING_BATCH_TOKENS)

    relative = recipe.budget.relative_speed
    megabytes = (text_bytes or 0.0) / 1e6
    seconds: dict[str, float] = {}
    if recipe.data:
        seconds["data"] = (DATA_SECONDS + DATA_SECONDS_PER_MEGABYTE * megabytes) / relative
    if recipe.tokenizer:
        seconds["tokenizer"] = (TOKENIZER_SECONDS + TOKENIZER_SECONDS_PER_MEGABYTE * megabytes) / relative
    seconds["train"] = plan.seconds
    if recipe.evaluate:
        tokens = min(recipe.evaluate.max_tokens, _validation_tokens(recipe, megabytes))
        seconds["evaluate"] = MODEL_STAGE_SECONDS / relative + scoring(tokens)
    if recipe.finetune:
        batch_tokens = require_derived(recipe.finetune.batch_tokens, "finetune.batch_tokens")
        epochs = require_derived(recipe.finetune.epochs, "finetune.epochs")
        tokens = epochs * (conversation_bytes or 0.0) / BYTES_PER_TOKEN
        seconds["finetune"] = MODEL_STAGE_SECONDS / relative + speed.training_seconds(
            config, length, tokens, batch_tokens
        )
    if recipe.quantize:
        tokens = recipe.quantize.calibration_tokens + 2 * recipe.quantize.eval_tokens
        seconds["quantize"] = MODEL_STAGE_SECONDS / relative + scoring(tokens)
    if recipe.report:
        seconds["report"] = REPORT_SECONDS / relative
    return seconds


def _validation_tokens(recipe: Recipe, megabytes: float) -> float:
    fraction = recipe.data.validation_fraction if recipe.data else 0.0
    return max(MIN_VALIDATION_TOKENS, fraction * megabytes * 1e6 / BYTES_PER_TOKEN)
