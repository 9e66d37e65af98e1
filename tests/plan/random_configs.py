"""Random model configurations of every architecture: knobs drawn one by one, those that contradict each other thrown away."""

import random
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.recipe import ModelConfig

NORMS = ("rmsnorm", "rmsnorm", "zero_centered_rmsnorm", "layernorm", "unweighted_rmsnorm", "unweighted_layernorm")
FEED_FORWARDS = (
    "swiglu",
    "swiglu_clamped",
    "geglu",
    "geglu_tanh",
    "gelu",
    "gelu_tanh",
    "relu",
    "relu2",
    "silu",
    "xielu",
)
POSITIONS = ("rope", "rope", "learned", "relative", "alibi", "sinusoidal", "sinusoidal_fairseq")

STATE_SPACE_KNOBS = (
    "vocab_size", "hidden_size", "num_layers", "num_heads", "head_dim", "norm", "attention_bias", "tie_embeddings",
)  # fmt: skip
"""Those that say anything about a model of state-space layers."""


def draw_config(seed: int) -> ModelConfig:
    """A small valid configuration; the same for the same seed. Knobs without effect are left out."""
    draw = random.Random(seed)
    knobs = _knobs(draw)
    while True:
        try:
            return ModelConfig(**knobs)
        except UserError as error:
            name = str(error).split(" ")[0]
            if "has no effect" in str(error) and name in knobs:
                del knobs[name]
            else:
                knobs = _knobs(draw)


def _knobs(draw: random.Random) -> dict[str, Any]:
    kv_heads = draw.choice((1, 2, 4))
    knobs: dict[str, Any] = {
        "architecture": draw.choice(("decoder", "decoder", "encoder", "encoder_decoder")),
        "vocab_size": draw.randrange(70, 200),
        "hidden_size": 8 * draw.randrange(4, 9),
        "num_layers": draw.randrange(1, 5),
        "num_heads": 4,
        "num_kv_heads": kv_heads,
        "head_dim": draw.choice((8, 12, 16)),
        "intermediate_size": 8 * draw.randrange(3, 12),
        "context_length": 64,
        "norm": draw.choice(NORMS),
        "norm_placement": draw.choice(("pre", "pre", "post", "sandwich", "parallel", "sublayer_output")),
        "position_embedding": draw.choice(POSITIONS),
        "attention_bias": draw.choice(("none", "qkv", "output", "all")),
        "feed_forward": draw.choice(FEED_FORWARDS),
        "feed_forward_bias": draw.random() < 0.3,
        "tie_embeddings": draw.random() < 0.5,
    }  # fmt: skip
    options: dict[str, Any] = {
        "norm_bias": True,
        "shared_norm": True,
        "embedding_norm": True,
        "keep_first_norm": True,
        "head_bias": True,
        "attention_gate": True,
        "attention_sinks": True,
        "num_token_types": 2,
        "masked_lm_head": False,
        "masked_head_bias": draw.random() < 0.5,
        "embedding_size": 24,
        "num_encoder_layers": draw.randrange(1, 4),
    }
    knobs |= {name: value for name, value in options.items() if draw.random() < 0.2}
    if draw.random() < 0.3:
        knobs |= {"qk_norm": True, "qk_norm_type": draw.choice(("head", "projection", "per_head", "unweighted"))}
    if knobs["architecture"] == "encoder_decoder" and draw.random() < 0.3:
        knobs |= {"position_embedding": "relative", "relative_bias_per_layer": True}
    if draw.random() < 0.25:
        knobs |= {"sliding_window": 8, "attention_pattern": draw.choice((("local", "global"), ("local",)))}
    mixer = draw.random()
    if mixer < 0.15:
        knobs |= {"latent_attention": _latent(draw), "num_kv_heads": 4, "position_embedding": "rope"}
    elif mixer < 0.25:
        return {name: knobs[name] for name in STATE_SPACE_KNOBS} | {"state_space": _state_space(draw)}
    elif mixer < 0.35:
        heads = {"num_key_heads": 2, "num_value_heads": 4, "key_head_dim": 8, "value_head_dim": 12}
        knobs |= {"gated_delta": heads, "attention_pattern": draw.choice((("linear", "global"), ("linear",)))}
    if draw.random() < 0.3:
        knobs["moe"] = _mixture(draw)
    return knobs


def _latent(draw: random.Random) -> dict[str, Any]:
    return {"kv_rank": 12, "q_rank": draw.choice((None, 20)), "rope_head_dim": 4, "value_head_dim": 10}


def _state_space(draw: random.Random) -> dict[str, Any]:
    return {"state_size": 8, "num_groups": draw.choice((1, 2)), "convolution_bias": draw.random() < 0.5}


def _mixture(draw: random.Random) -> dict[str, Any]:
    shared = draw.choice((0, 1, 2))
    return {
        "num_experts": 4, "experts_per_token": 2, "intermediate_size": 8 * draw.randrange(1, 5),
        "expert_bias": draw.random() < 0.3, "router_bias": draw.random() < 0.3, "num_shared_experts": shared,
        "shared_expert_gate": shared > 0 and draw.random() < 0.5, "num_dense_layers": draw.choice((0, 1)),
        "dense_layers": draw.choice(((), (2,))), "load_balancing": draw.choice(("none", "auxiliary_loss", "bias")),
    }  # fmt: skip
