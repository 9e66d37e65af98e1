"""Toy model configurations that cover every module."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from groundup.recipe import ModelConfig

TOY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_layers": 3,
    "num_heads": 3,
    "head_dim": 8,
    "intermediate_size": 40,
    "context_length": 32,
}

DECODERS: dict[str, dict[str, Any]] = {
    "llama": {"num_heads": 6, "num_kv_heads": 2},
    "multi_query": {"num_heads": 5, "num_kv_heads": 1},
    "qwen": {"qk_norm": True, "attention_bias": "qkv", "tie_embeddings": True},
    "gemma": {
        "norm": "zero_centered_rmsnorm",
        "norm_placement": "sandwich",
        "feed_forward": "geglu_tanh",
        "attention_softcap": 4.0,
        "logit_softcap": 3.0,
        "embedding_scale": 24**0.5,
        "sliding_window": 5,
        "attention_pattern": ("local", "global"),
        "rope_local_theta": 500.0,
        "tie_embeddings": True,
    },
    "gpt2": {
        "position_embedding": "learned",
        "norm": "layernorm",
        "norm_bias": True,
        "attention_bias": "all",
        "feed_forward": "gelu_tanh",
        "feed_forward_bias": True,
        "tie_embeddings": True,
    },
    "relative": {
        "position_embedding": "relative",
        "attention_scale": 1.0,
        "relative_buckets": 8,
        "relative_max_distance": 12,
    },
    "gptj": {
        "norm_placement": "parallel",
        "shared_norm": True,
        "rotary_dim": 4,
        "head_bias": True,
        "feed_forward": "relu",
    },
    "alibi": {"position_embedding": "alibi", "norm_placement": "parallel"},
    "window": {"sliding_window": 3, "attention_pattern": ("local",)},
    "relu2": {"feed_forward": "relu2", "logit_scale": 0.5},
    "experts": {"moe": {"num_experts": 4, "experts_per_token": 2, "num_shared_experts": 1, "num_dense_layers": 1}},
    "groups": {
        "qk_norm": True,
        "qk_norm_type": "unweighted",
        "qk_norm_after_rope": True,
        "rope_pattern": (True, False),
        "moe": {
            "num_experts": 8,
            "experts_per_token": 2,
            "num_expert_groups": 4,
            "experts_groups_per_token": 2,
            "router_activation": "sigmoid",
            "load_balancing": "bias",
            "num_shared_experts": 1,
            "shared_expert_gate": True,
            "scale_inputs": True,
            "dense_layers": (0,),
        },
    },
    "yarn": {"rope_scaling": {"method": "yarn", "factor": 4.0, "original_context_length": 8}},
}


@pytest.fixture
def config() -> Callable[..., ModelConfig]:
    """A toy configuration with some knobs changed."""

    def make(**knobs: Any) -> ModelConfig:
        return ModelConfig(**(TOY | knobs))

    return make


@pytest.fixture(params=DECODERS)
def decoder_config(request: pytest.FixtureRequest) -> ModelConfig:
    """One configuration after the other, between them with every part that a decoder may have."""
    return ModelConfig(**(TOY | DECODERS[request.param]))


@pytest.fixture
def all_decoders() -> dict[str, dict[str, Any]]:
    """The knobs of all those configurations."""
    return {name: TOY | knobs for name, knobs in DECODERS.items()}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)
