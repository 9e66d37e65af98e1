"""A small random model of a family: the configuration of transformers, drawn from the settings that published models have."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VOCABULARY = 131
MIN_WIDTH = 24
"""Norms of narrower hidden states are ill-conditioned: at a width of 6, weights changed by 1e-7 moved logits by 3e-4."""
ROPE_SCALINGS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 3.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 12, "beta_fast": 16.0, "beta_slow": 2.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
)


@dataclass(frozen=True)
class DrawnModel:
    """A configuration, `model_type` among its fields, and the class of transformers that is built from it."""

    config: dict[str, Any]
    model_class: str = "AutoModelForCausalLM"


class Draw(random.Random):
    """A random generator with the sizes that families share: odd head counts and widths, and heads of 64 and more."""

    def chance(self, probability: float = 0.5) -> bool:
        return self.random() < probability

    def sizes(self) -> dict[str, Any]:
        return {
            "vocab_size": VOCABULARY,
            "num_hidden_layers": self.randint(1, 2),
            "max_position_embeddings": 96,
            "intermediate_size": self.choice((24, 71, 96)),
        }

    def head_width(self, heads: int, widths: Sequence[int]) -> int:
        """One of `widths`, such that `heads` of it are at least MIN_WIDTH wide."""
        return self.choice([width for width in widths if heads * width >= MIN_WIDTH])

    def heads(self, free_head_dim: bool = True, grouped: bool = True) -> dict[str, Any]:
        """Width, and heads whose width is free or hidden_size / num_attention_heads."""
        heads = self.choice((1, 3, 5, 6))
        head_dim = self.head_width(heads, (6, 10, 16, 26, 64))
        fields = {"num_attention_heads": heads, "hidden_size": heads * head_dim}
        if grouped:
            fields["num_key_value_heads"] = self.choice([count for count in (1, 2, 3, heads) if heads % count == 0])
        if free_head_dim and self.chance():
            fields["head_dim"] = self.choice((8, 12, 64))
        return fields

    def rope(self) -> dict[str, Any]:
        """Base and scaling of rotary positions, in the older spelling; the original length beside them or in the scaling."""
        fields = {"rope_theta": self.choice((1e4, 5e5)), "rope_scaling": self.choice(ROPE_SCALINGS)}
        scaling = dict(fields["rope_scaling"] or {})
        if scaling.get("rope_type") == "dynamic":
            fields["max_position_embeddings"] = 24
        if scaling and self.chance(0.3):
            fields["original_max_position_embeddings"] = self.choice((12, 30))
        return fields
