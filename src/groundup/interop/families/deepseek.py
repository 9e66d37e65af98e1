"""DeepSeek-V2 and V3: latent attention, shared experts, and routed experts from a few groups; Kimi K2 is a V3.

GLM-4.7-Flash and Sarvam's models are V3s, too, but for the defaults and for dense layers by name.

V2 chooses by softmax scores, V3 by sigmoid scores and a bias that balances the experts' load.

Sources: DeepSeek-AI 2024, "DeepSeek-V2" (sections 2.1, 2.2) and "DeepSeek-V3 Technical Report" (section 2.1); Moonshot AI 2025,
"Kimi K2"; the configuration and modelling files of transformers 5, models/deepseek_v2, models/deepseek_v3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import BUFFERS, read_decoder, write_decoder
from groundup.interop.families.mixtral import MIXTRAL, experts_map
from groundup.interop.families.sigmoid_moe import ROUTER_BIAS, read_sigmoid_experts, write_sigmoid_experts
from groundup.interop.families.youtu import (
    LATENT_DEFAULTS,
    LATENT_KEYS,
    latent_names,
    map_latent,
    read_latent,
    write_latent,
)
from groundup.interop.weight_map import TensorMap
from groundup.recipe import ModelConfig

GROUP_LIMITED = {"greedy": False, "group_limited_greedy": True}
"""Whether V2's `topk_method` limits a token to groups."""

MULTI_TOKEN_PREDICTION = "model.layers.{num_layers}.*"
"""A layer behind the last one, which predicts one more token in training (section 2.2 of V3), and is no part of the model."""


def _read_v3(json: Json) -> Json:
    json = {**json, **{key: 1 for key in ("n_group", "topk_group") if json[key] is None}}
    return read_decoder(json) | read_latent(json) | {"moe": read_sigmoid_experts(json)}


def _write_v3(config: ModelConfig) -> Json:
    return write_decoder(config) | write_latent(config) | write_sigmoid_experts(config)


def _read_v2(json: Json) -> Json:
    if json["hidden_size"] % json["num_attention_heads"]:  # a rule of Llama's class, which theirs inherits
        raise UserError(
            f"hidden_size = {json['hidden_size']}, expected a multiple of num_attention_heads = {json['num_attention_heads']}"
        )
    if not map_value(json, "topk_method", GROUP_LIMITED):
        json = {**json, "n_group": 1, "topk_group": 1}
    elif json["n_group"] is None or json["topk_group"] is None:
        raise UserError("topk_method = 'group_limited_greedy' without n_group and topk_group")
    experts = read_sigmoid_experts(json) | {
        "router_activation": "softmax",
        "load_balancing": "none",
        "normalize_scores": False,
    }
    return read_decoder(json) | read_latent(json) | {"moe": experts}


def _write_v2(config: ModelConfig) -> Json:
    assert config.moe
    method = "group_limited_greedy" if config.moe.num_expert_groups > 1 else "greedy"
    json = write_decoder(config) | write_latent(config) | write_sigmoid_experts(config)
    return json | {"topk_method": method, "norm_topk_prob": False, "mlp_bias": False}


def _read_glm4_moe_lite(json: Json) -> Json:
    types = json["mlp_layer_types"] or ["dense"] + ["sparse"] * (json["num_hidden_layers"] - 1)
    if len(types) != json["num_hidden_layers"] or set(types) - {"dense", "sparse"}:
        raise UserError(f"mlp_layer_types = {types}, expected dense or sparse for each of num_hidden_layers")
    knobs = _read_v3({**json, "first_k_dense_replace": 0})
    return knobs | {"moe": knobs["moe"] | {"dense_layers": [i for i, kind in enumerate(types) if kind == "dense"]}}


def _write_glm4_moe_lite(config: ModelConfig) -> Json:
    assert config.moe
    types = ["dense" if config.moe.is_dense(layer) else "sparse" for layer in range(config.num_layers)]
    return _write_v3(config) | {"mlp_layer_types": types}


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    return map_latent(config, experts_map(table=latent_names(config) | ROUTER_BIAS)(config, names))


DEEPSEEK_V3 = replace(
    MIXTRAL,
    name="deepseek_v3",
    aliases=("kimi_k2",),
    architecture="DeepseekV3ForCausalLM",
    keys=LATENT_KEYS,
    defaults={
        **LATENT_DEFAULTS,
        "num_key_value_heads": None,
        "first_k_dense_replace": 3,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
    },
    fixed={"rope_interleave": True},
    read=_read_v3,
    write=_write_v3,
    weight_map=_weight_map,
    ignored=(*BUFFERS, MULTI_TOKEN_PREDICTION),
)
DEEPSEEK_V2 = replace(
    DEEPSEEK_V3,
    name="deepseek_v2",
    aliases=(),
    architecture="DeepseekV2ForCausalLM",
    defaults={
        **LATENT_DEFAULTS,
        "first_k_dense_replace": 0,
        "moe_intermediate_size": 1407,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "n_group": None,
        "topk_group": None,
        "topk_method": "greedy",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
    },
    fixed={"norm_topk_prob": False, "mlp_bias": False},
    read=_read_v2,
    write=_write_v2,
)
GLM4_MOE_LITE = replace(
    DEEPSEEK_V3,
    name="glm4_moe_lite",
    aliases=(),
    architecture="Glm4MoeLiteForCausalLM",
    defaults={
        **DEEPSEEK_V3.defaults,
        "num_key_value_heads": 20,
        "rms_norm_eps": 1e-5,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
        "mlp_layer_types": None,
        "moe_intermediate_size": 1536,
        "n_routed_experts": 64,
        "num_experts_per_tok": 4,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.8,
    },
    read=_read_glm4_moe_lite,
    write=_write_glm4_moe_lite,
)
SARVAM_MLA = replace(
    DEEPSEEK_V3,
    name="sarvam_mla",
    aliases=(),
    architecture="SarvamMLAForCausalLM",
    defaults={
        **DEEPSEEK_V3.defaults,
        "q_lora_rank": None,
        "first_k_dense_replace": 1,
        "n_routed_experts": 128,
        "n_group": 1,
        "topk_group": 1,
    },
)
