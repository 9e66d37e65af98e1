"""Mixtral and Qwen3-MoE: Llama and Qwen3 with a mixture of experts.

Sources: the configuration and modelling files of transformers 5, models/{mixtral,qwen3_moe}; the files store each expert
separately (conversion_mapping.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Family, Json, map_value
from groundup.interop.families.llama import BIASES, BUFFERS, DEFAULTS, KEYS, TENSORS, read_decoder, write_decoder
from groundup.interop.families.rope_config import read_layers, read_rope
from groundup.interop.weight_map import TensorMap, map_names, map_stacked
from groundup.recipe import ModelConfig

ROUTER = "blocks.*.feed_forward.router."
EXPERTS = ".feed_forward.experts."
MIXTRAL_NAMES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
QWEN_NAMES = {"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj"}


def _read_mixtral(json: Json) -> Json:
    return read_decoder(json) | {
        **read_rope(json, default_theta=1e6),
        **read_layers(["sliding_attention"], json.get("sliding_window")),
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
    dense = [i for i in range(count) if i in (json["mlp_only_layers"] or ()) or (i + 1) % json["decoder_sparse_step"]]
    if dense != list(range(len(dense))):
        raise UserError(
            f"layers {dense} have no experts (mlp_only_layers, decoder_sparse_step), "
            "expected only the first layers without"
        )
    window = json.get("sliding_window") if json.get("use_sliding_window") else None
    return read_decoder(json) | {
        "qk_norm": True,
        "attention_bias": map_value(json, "attention_bias", BIASES),
        **read_layers(["sliding_attention"], window),
        "moe": {
            "num_experts": json.get("num_local_experts") or json["num_experts"],
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


def _weight_map(
    config: ModelConfig, names: Sequence[str], part: str, expert_names: dict[str, str]
) -> Iterator[TensorMap]:
    """All experts of a layer are one native tensor, and separate foreign tensors below `part` of the layer."""
    assert config.moe
    for name in names:
        if EXPERTS in name:
            layer, matrix = name.split(".")[1], name.rsplit(".", 1)[1]
            prefix = f"model.layers.{layer}.{part}.experts"
            experts = range(config.moe.num_experts)
            yield map_stacked(name, [f"{prefix}.{expert}.{expert_names[matrix]}.weight" for expert in experts])
    table = {ROUTER: f"model.layers.*.{part}.gate."} | TENSORS
    yield from map_names([name for name in names if EXPERTS not in name], table)


MIXTRAL = Family(
    name="mixtral",
    architecture="MixtralForCausalLM",
    keys=KEYS,
    defaults={**DEFAULTS, "rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2},
    moe=True,
    read=_read_mixtral,
    write=_write_mixtral,
    weight_map=partial(_weight_map, part="block_sparse_moe", expert_names=MIXTRAL_NAMES),
    ignored=BUFFERS,
)
QWEN3_MOE = replace(
    MIXTRAL,
    name="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    defaults={
        **DEFAULTS,
        "num_experts": 128,  # also called num_local_experts in transformers 5
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "mlp_only_layers": None,
        "decoder_sparse_step": 1,
    },
    read=_read_qwen3_moe,
    write=_write_qwen3_moe,
    weight_map=partial(_weight_map, part="mlp", expert_names=QWEN_NAMES),
)
