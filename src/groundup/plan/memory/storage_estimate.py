"""Bytes on disk of a run: text, token files, checkpoints, weights."""

from dataclasses import dataclass

from groundup.plan.defaults.training_knobs import require_derived
from groundup.plan.derive import Plan, resolved_model_config
from groundup.plan.time.run_time import STATE_BYTES
from groundup.plan.time.stage_time import BYTES_PER_TOKEN
from groundup.recipe.output_config import DEFAULT_BITS

WEIGHT_BYTES = 4
"""Of a finished model: float32."""
SMALL_VOCABULARY = 1 << 16
"""Token ids up to this number take two bytes in token files, others four."""


@dataclass(frozen=True)
class StorageEstimate:
    """Bytes of the parts of a run folder, and of the text that it reads.

    Attributes:
        text: sources, uncompressed; not part of the run folder.
        corpus: cleaned text, at most as large as the sources.
        tokens: token files, for one pass.
        checkpoints: those that are kept while training, and the one that is being written.
        models: the trained model and what later stages write, in float32 unless quantized.
    """

    text: float
    corpus: float
    tokens: float
    checkpoints: float
    models: float

    @property
    def run_folder(self) -> float:
        return self.corpus + self.tokens + self.checkpoints + self.models


def estimate_storage(plan: Plan, text_bytes: float | None = None) -> StorageEstimate:
    """Storage of a plan with [train]; without `text_bytes`, for as much text as the plan needs at BYTES_PER_TOKEN."""
    recipe, config = plan.recipe, resolved_model_config(plan.recipe)
    assert recipe.train is not None
    assert plan.parameters is not None
    tokens = plan.data_tokens or require_derived(recipe.train.tokens, "train.tokens")
    text = tokens * BYTES_PER_TOKEN if text_bytes is None else text_bytes
    id_bytes = 2 if config.vocab_size <= SMALL_VOCABULARY else 4
    machine, weights = recipe.machine, plan.parameters.total * WEIGHT_BYTES
    kept = machine.keep_checkpoints + 1
    if every := machine.keep_checkpoint_every:
        kept += require_derived(recipe.train.steps, "train.steps") // every
    stages = [recipe.finetune, recipe.preference, recipe.reinforcement, recipe.export]
    models = weights * (1 + sum(stage is not None for stage in stages))
    if recipe.quantize is not None:
        models += weights * (recipe.quantize.bits or DEFAULT_BITS) / 32
    checkpoints = kept * STATE_BYTES * plan.parameters.total
    return StorageEstimate(text, text if recipe.data else 0.0, tokens * id_bytes, checkpoints, models)
