"""Mixtral and Qwen3-MoE: Llama and Qwen3 with experts in place of one feed-forward.

Sources: the configuration and modelling files of transformers 5, models/{mixtral,qwen3_moe}; the files keep each expert
apart, which its conversion_mapping.py tells.
"""

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Family, Json, choice
from groundup.interop.families.llama import (
    BIASES,
    BUFFERS,
    DEFAULTS,
    KEYS,
    read_decoder,
    write_decoder,
)
from groundup.interop.families.positions import read_rope
from groundup.recipe import ModelConfig


def _read_mixtral(json: Json) -> Json:
    window = json.get("sliding_window")
    return read_decoder(json) | {
        **read_rope(json, default_theta=1e6),
        "sliding_window": window,
        "attention_pattern": ("global",) if window is None else ("local",),
        "moe": {"num_experts": json["num_local_experts"], "experts_per_token": json["num_experts_per_tok"]},
    }


def _write_mixtral(config: ModelConfig) -> Json:
    assert config.moe
    return write_decoder(config) | {
        "sliding_window": config.sliding_window,
        "num_local_experts": config.moe.num_experts,
        "num_experts_per_tok": config.moe.experts_per_token,
    }


def _read_qwen3_moe(json: Json) -> Json:
    count = json["num_hidden_layers"]
    dense = [
        i
        for i in range(count)
        if i in (json["mlp_only_layers"] or ()) or (i + 1) % json["decoder_sparse_step"]
    ]
    if dense != list(range(len(dense))):
        raise UserError(
            f"layers {dense} have no experts (mlp_only_layers, decoder_sparse_step), "
            "expected only the first ones to be so"
        )
    window = json.get("sliding_window") if json.get("use_sliding_window") else None
    return read_decoder(json) | {
        "qk_norm": True,
        "attention_bias": choice(json, "attention_bias", BIASES),
        "sliding_window": window,
        "attention_pattern": ("global",) if window is None else ("local",),
        "moe": {
            "num_experts": json["num_experts"],
            "experts_per_token": json["num_experts_per_tok"],
            "intermediate_size": json["moe_intermediate_size"],
            "num_dense_layers": len(dense),
            "normalize_scores": json["norm_topk_prob"],
        },
    }


def _write_qwen3_moe(config: ModelConfig) -> Json:
    assert config.moe
    return write_decoder(config) | {
        "attention_bias": config.attention_bias != "none",
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
        "num_experts": config.moe.num_experts,
        "num_experts_per_tok": config.moe.experts_per_token,
        "moe_intermediate_size": config.moe.intermediate_size,
        "norm_topk_prob": config.moe.normalize_scores,
        "mlp_only_layers": list(range(config.moe.num_dense_layers)),
        "decoder_sparse_step": 1,
    }
