"""Knobs of fine-tuning that follow from the size of the model and of the data.

Small models learn conversations only by many passes at a high learning rate; large ones know the language already, and
forget it under the same treatment. The ends are measured and published; between them, knobs change with a power of size.
Little data gets small batches: weights change with the number of steps, not of tokens.
"""

import math
from typing import Any

from groundup.recipe.finetune_config import FinetuneConfig

SMALL, LARGE = 6e6, 7e9
"""Parameters of the models at both ends."""
SMALLEST_CHAT = 3e5
"""Measured down to here for conversations: the same powers of size below SMALL."""
LORA_LEARNING_RATE = (5e-3, 2e-4)
"""SMALL: recipes/quickstart.toml. LARGE: QLoRA (Dettmers et al. 2023, table 9). Between them within a tenth of 5e-4 (2000 /
width)^0.78, the rule of Tinker's authors (https://tinker-docs.thinkingmachines.ai/supervised-learning/sl-hyperparams)."""
TAUGHT_LEARNING_RATE = 1e-3
"""At most, of adapters of a decoder that answers already: at 0.02, the rule of size for 270,000 parameters, one that solves 97%
of its sums solves 1% after 60 more of them."""
PAIR_LEARNING_RATE = (5e-3, 1e-4)
"""Of all weights of an encoder-decoder, which learns from pairs what its pretraining did not teach: SMALL, and LARGE."""
MUON_PARAMETERS = 30e6
"""Encoder-decoders with fewer learn pairs with Muon, far faster than with AdamW (lab book); larger ones exist already."""
FULL_FACTOR = 0.1
"""Learning rate of all weights, of that of adapters (Schulman et al. 2025, LoRA Without Regret)."""
EPOCHS = {"generation": (15.0, 3.0), "embedding": (3.0, 1.0), "classification": (5.0, 3.0)}
BATCH_TOKENS = {"generation": (1_024, 16_384), "embedding": (8_192, 32_768), "classification": (1_024, 8_192)}
"""At most. More pairs in a batch are more negatives of an embedding."""
LEAST_BATCH_TOKENS = {"generation": 1, "embedding": 1_024, "classification": 256}
"""For little data: one conversation, a few pairs or texts."""
MIN_LARGEST_BATCH = 512
"""A step on fewer tokens takes hardly less time."""
STEPS_PER_PASS = 16
"""At least, where there is so much data. Small batches cost LoRA nothing (Schulman et al. 2025)."""
KNOWN_TOKENS = 1e6
"""More conversations are not to be known by heart: passes fall to 3, as for Alpaca's 52,000 (Taori et al. 2023)."""
LORA_RANK = (32, 16)

RECALL_QUESTIONS, ANSWER_TOKENS = 20, 64
"""Training questions that a model is asked before and after, and tokens of an answer at most."""
MAX_TRANSLATIONS, MAX_TRANSLATION_TOKENS = 200, 256
"""Held-out pairs that an encoder-decoder translates for the scores, and tokens of a translation at most."""
MAX_PACKED_TOKENS = 512
"""Rows of packed conversations are not longer, unless one conversation is."""
ROW_MULTIPLE = 64


def row_length(longest: int, context_length: int, batch_tokens: int) -> int:
    """Tokens per row for conversations of at most `longest` tokens: no more than a batch, unless one conversation has.

    >>> row_length(150, 8192, 4096), row_length(2053, 8192, 4096), row_length(2053, 1024, 4096), row_length(150, 8192, 200)
    (512, 2112, 1024, 256)
    """
    packed = min(MAX_PACKED_TOKENS, batch_tokens)
    return min(context_length, -(-max(longest, packed) // ROW_MULTIPLE) * ROW_MULTIPLE)


def derive_finetuning(
    config: FinetuneConfig, parameters: int, tokens: float, architecture: str = "decoder", *, is_taught: bool = False
) -> FinetuneConfig:
    """`config` with the open knobs derived, for a model of `parameters` and data of `tokens` in one pass.

    is_taught: whether the model has learnt to answer before.

    >>> config = FinetuneConfig(conversations=[{"name": "a", "kind": "messages", "path": "a.jsonl"}])
    >>> derived = derive_finetuning(config, 6_000_000, 50_000)
    >>> derived.lora_rank, derived.epochs, derived.batch_tokens, derived.learning_rate
    (32, 15.0, 1024, 0.005)
    """
    derived = finetuning_defaults(config.task, config.method, parameters, tokens, architecture, is_taught=is_taught)
    return config.model_copy(update={name: value for name, value in derived.items() if getattr(config, name) is None})


def finetuning_defaults(
    task: str, method: str, parameters: int, tokens: float, architecture: str = "decoder", *, is_taught: bool = False
) -> dict[str, Any]:
    """lora_rank, epochs, batch_tokens, learning_rate and optimizer of [finetune]; is_taught: see `derive_finetuning`.

    >>> few, many = (finetuning_defaults("generation", "lora", 6_000_000, tokens) for tokens in (5_000, 5_000_000))
    >>> few["batch_tokens"], few["epochs"], many["batch_tokens"], many["epochs"]
    (313, 15.0, 1024, 3.0)
    >>> tiny = finetuning_defaults("generation", "full", 420_000, 15_000)
    >>> tiny["batch_tokens"], tiny["epochs"], tiny["learning_rate"]
    (512, 27.0, 0.0017)
    >>> finetuning_defaults("generation", "full", 420_000, 15_000, is_taught=True)["learning_rate"]
    0.0001
    """
    is_chat = task == "generation" and architecture == "decoder"
    position = math.log(min(max(parameters, SMALLEST_CHAT if is_chat else SMALL), LARGE) / SMALL) / math.log(
        LARGE / SMALL
    )

    def between(ends: tuple[float, float]) -> float:
        return ends[0] * (ends[1] / ends[0]) ** position

    epochs = between(EPOCHS[task])
    if is_chat and tokens > KNOWN_TOKENS:
        epochs = max(EPOCHS[task][1], epochs * KNOWN_TOKENS / tokens)
    learning_rate = between(LORA_LEARNING_RATE)
    if is_chat and is_taught:
        learning_rate = min(learning_rate, TAUGHT_LEARNING_RATE)
    learning_rate *= FULL_FACTOR if method == "full" else 1.0
    is_pairs = task == "generation" and architecture == "encoder_decoder" and method == "full"
    if is_pairs:
        learning_rate = between(PAIR_LEARNING_RATE)
    largest_batch = max(MIN_LARGEST_BATCH, 2 ** round(math.log2(between(BATCH_TOKENS[task]))))
    return {
        "lora_rank": 2 ** round(math.log2(between(LORA_RANK))),
        "epochs": float(round(epochs)),
        "batch_tokens": min(largest_batch, max(LEAST_BATCH_TOKENS[task], math.ceil(tokens / STEPS_PER_PASS))),
        "learning_rate": float(f"{learning_rate:.2g}"),
        "optimizer": "muon" if is_pairs and parameters < MUON_PARAMETERS else "adamw",
    }
