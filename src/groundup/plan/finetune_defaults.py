"""Knobs of fine-tuning that follow from the size of the model.

Small models learn conversations only by many passes at a high learning rate; large ones know the language already, and
forget it under the same treatment. The ends are measured and published; between them, knobs change with a power of size.
"""

import math

from groundup.recipe.finetune_config import FinetuneConfig

SMALL, LARGE = 6e6, 7e9
"""Parameters of the models at both ends."""
LORA_LEARNING_RATE = (5e-3, 2e-4)
"""SMALL: recipes/quickstart.toml. LARGE: QLoRA (Dettmers et al. 2023, table 9)."""
FULL_FACTOR = 0.1
"""Learning rate of all weights, of that of adapters (Schulman et al. 2025, LoRA Without Regret)."""
EPOCHS = {"generation": (15.0, 3.0), "embedding": (3.0, 1.0), "classification": (5.0, 3.0)}
BATCH_TOKENS = {"generation": (1_024, 16_384), "embedding": (8_192, 32_768), "classification": (1_024, 8_192)}
"""More pairs in a batch are more negatives of an embedding."""
LORA_RANK = (32, 16)

MIN_ROW_TOKENS = 512
"""Shorter rows would pack conversations badly."""
ROW_MULTIPLE = 64


def row_length(longest: int, context_length: int) -> int:
    """Tokens per row for conversations of at most `longest` tokens; longer rows would only cost memory.

    >>> row_length(150, 8192), row_length(2053, 8192), row_length(2053, 1024)
    (512, 2112, 1024)
    """
    needed = -(-longest // ROW_MULTIPLE) * ROW_MULTIPLE
    return min(context_length, max(MIN_ROW_TOKENS, needed))


def derive_finetuning(config: FinetuneConfig, parameters: int) -> FinetuneConfig:
    """`config` with rank, passes, batch and learning rate derived for a model of `parameters`; what is set stays.

    >>> config = FinetuneConfig(conversations=[{"name": "a", "kind": "messages", "path": "a.jsonl"}])
    >>> derived = derive_finetuning(config, 6_000_000)
    >>> derived.lora_rank, derived.epochs, derived.batch_tokens, derived.learning_rate
    (32, 15.0, 1024, 0.005)
    """
    position = math.log(min(max(parameters, SMALL), LARGE) / SMALL) / math.log(LARGE / SMALL)

    def between(ends: tuple[float, float]) -> float:
        return ends[0] * (ends[1] / ends[0]) ** position

    factor = 1.0 if config.method == "lora" else FULL_FACTOR
    derived = {
        "lora_rank": 2 ** round(math.log2(between(LORA_RANK))),
        "epochs": float(round(between(EPOCHS[config.task]))),
        "batch_tokens": 2 ** round(math.log2(between(BATCH_TOKENS[config.task]))),
        "learning_rate": float(f"{factor * between(LORA_LEARNING_RATE):.2g}"),
    }
    return config.model_copy(update={name: value for name, value in derived.items() if getattr(config, name) is None})
