"""Mamba-2: state-space layers only. Its config.json has no context length; ours is kept under max_position_embeddings.

Sources: Dao & Gu 2024, "Transformers are SSMs"; the configuration and modelling files of transformers 5, models/mamba2.
"""

import math

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Family, Json, map_value
from groundup.interop.families.llama import BIASES
from groundup.interop.weight_map import prefix_map
from groundup.recipe import ModelConfig

MIXER = "backbone.layers.*.mixer."


def _read(json: Json) -> Json:
    inner = json["num_heads"] * json["head_dim"]
    if json["expand"] * json["hidden_size"] != inner:
        raise UserError(
            f"expand = {json['expand']}, expected num_heads head_dim / hidden_size = {inner / json['hidden_size']:g}"
        )
    low, high = json["time_step_limit"]
    unlimited = high == math.inf or high == {"__float__": "Infinity"}  # as transformers writes it
    if low != 0.0 or not unlimited:
        raise UserError(
            f"time_step_limit = {json['time_step_limit']}, expected [0, inf]: limits differ between kernels"
        )
    return {
        "feed_forward": map_value(json, "hidden_act", {"silu": "swiglu"}),
        "attention_bias": map_value(json, "use_bias", BIASES),
        "state_space": {
            "state_size": json["state_size"],
            "num_groups": json["n_groups"],
            "convolution_width": json["conv_kernel"],
            "convolution_bias": json["use_conv_bias"],
        },
    }


def _write(config: ModelConfig) -> Json:
    if (settings := config.state_space) is None:
        return {"expand": config.num_heads * config.head_dim / config.hidden_size}
    return {
        "expand": config.num_heads * config.head_dim // config.hidden_size,
        "hidden_act": "silu",
        "use_bias": config.attention_bias != "none",
        "state_size": settings.state_size,
        "n_groups": settings.num_groups,
        "conv_kernel": settings.convolution_width,
        "use_conv_bias": settings.convolution_bias,
    }


MAMBA2 = Family(
    name="mamba2",
    architecture="Mamba2ForCausalLM",
    keys={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_heads",
        "head_dim": "head_dim",
        "norm_eps": "layer_norm_epsilon",
        "tie_embeddings": "tie_word_embeddings",
        "context_length": "max_position_embeddings",
    },
    defaults={
        "num_heads": 128,
        "head_dim": 64,
        "state_size": 128,
        "n_groups": 8,
        "expand": 2,
        "conv_kernel": 4,
        "use_conv_bias": True,
        "use_bias": False,
        "hidden_act": "silu",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
        "time_step_limit": (0.0, math.inf),
        "max_position_embeddings": 1_048_576,
    },
    read=_read,
    write=_write,
    weight_map=prefix_map(
        {
            "embedding.tokens.": "backbone.embeddings.",
            "blocks.*.norm.": "backbone.layers.*.norm.",
            "blocks.*.mixer.convolution.": f"{MIXER}conv1d.",
            "blocks.*.mixer.step_bias": f"{MIXER}dt_bias",
            "blocks.*.mixer.log_decay": f"{MIXER}A_log",
            "blocks.*.mixer.skip": f"{MIXER}D",
            "blocks.*.mixer.o_proj.": f"{MIXER}out_proj.",
            "blocks.*.mixer.": MIXER,
            "final_norm.": "backbone.norm_f.",
            "head.": "lm_head.",
        }
    ),
    embedding="backbone.embeddings.weight",
    prefix="backbone.",
)
