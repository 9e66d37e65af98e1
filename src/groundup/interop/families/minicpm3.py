"""MiniCPM3: latent attention with rotated halves (not neighbours), and scales on embeddings, sublayers and logits.

Sources: Hu et al. 2024, "MiniCPM", section 3 (the scales, after muP); the configuration and modelling files of transformers 5,
models/minicpm3.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from groundup.interop.families.family import Json
from groundup.interop.families.llama import TENSORS, read_decoder, write_decoder
from groundup.interop.families.youtu import LATENT_DEFAULTS, YOUTU, latent_names, read_latent, write_latent
from groundup.interop.weight_map import TensorMap, map_names
from groundup.recipe import ModelConfig


def _read(json: Json) -> Json:
    value_dim = json["v_head_dim"] or json["hidden_size"] // json["num_attention_heads"]
    depth = math.sqrt(json["num_hidden_layers"])
    return (
        read_decoder(json)
        | read_latent({**json, "v_head_dim": value_dim})
        | {
            "embedding_scale": json["scale_emb"],
            "residual_scale": (json["scale_depth"] or depth) / depth,
            "logit_scale": (json["dim_model_base"] or json["hidden_size"]) / json["hidden_size"],
        }
    )


def _write(config: ModelConfig) -> Json:
    depth = math.sqrt(config.num_layers)
    scale = config.residual_scale * depth
    near = (scale, math.nextafter(scale, 0.0), math.nextafter(scale, math.inf))  # one of them gives the same quotient
    return (
        write_decoder(config)
        | write_latent(config)
        | {
            "mlp_bias": False,
            "scale_emb": config.embedding_scale,
            "scale_depth": next((each for each in near if each / depth == config.residual_scale), scale),
            "dim_model_base": round(config.logit_scale / config.width_multiplier * config.hidden_size),
        }
    )


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    return map_names(names, latent_names(config) | TENSORS)


MINICPM3 = replace(
    YOUTU,
    name="minicpm3",
    architecture="MiniCPM3ForCausalLM",
    defaults={
        **LATENT_DEFAULTS,
        "q_lora_rank": 768,
        "kv_lora_rank": 256,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "v_head_dim": None,
        "num_key_value_heads": 40,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 256,
    },
    fixed={"mlp_bias": False},
    read=_read,
    write=_write,
    weight_map=_weight_map,
)
