"""ERNIE 4.5 and its mixture of experts: Llama with neighbouring RoPE pairs; softmax routing with a correction bias.

Sources: the configuration and modelling files of transformers 5, models/{ernie4_5,ernie4_5_moe}. Their published files have
the pairs of RoPE as neighbours; ours are halves of a head, so rows of queries and keys are reordered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import BIASES, DEFAULTS, LLAMA, TENSORS, read_decoder, write_decoder
from groundup.interop.families.mixtral import MIXTRAL, experts_map
from groundup.interop.families.rope_config import read_rope
from groundup.interop.row_order import map_interleaved
from groundup.interop.weight_map import TensorMap, map_names
from groundup.recipe import ModelConfig

ERNIE_DEFAULTS: Json = {**DEFAULTS, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "use_bias": False}
LOAD_BALANCER_BIAS = "load_balancer.bias"


def _read_ernie(json: Json) -> Json:
    return read_decoder(json) | {
        **read_rope(json, default_theta=500_000.0),
        "attention_bias": map_value(json, "use_bias", BIASES),
        "feed_forward_bias": json["use_bias"],
    }


def _write_ernie(config: ModelConfig) -> Json:
    return write_decoder(config) | {"use_bias": config.attention_bias != "none"}


def _read_ernie_moe(json: Json) -> Json:
    last = json["moe_layer_end_index"]
    sparse = range(json["moe_layer_start_index"], json["num_hidden_layers"] if last == -1 else last + 1)
    interval = json["moe_layer_interval"]
    dense = [i for i in range(json["num_hidden_layers"]) if (i + 1) % interval or i not in sparse]
    return _read_ernie(json) | {
        "moe": {
            "num_experts": json["moe_num_experts"],
            "experts_per_token": json["moe_k"],
            "intermediate_size": json["moe_intermediate_size"],
            "num_shared_experts": json["moe_num_shared_experts"],
            "dense_layers": dense,
            "load_balancing": "bias",
        }
    }


def _write_ernie_moe(config: ModelConfig) -> Json:
    assert config.moe
    sparse = [layer for layer in range(config.num_layers) if not config.moe.is_dense(layer)]
    first, last = (sparse[0], sparse[-1]) if sparse else (config.num_layers, config.num_layers)
    return write_decoder(config) | {
        "moe_num_experts": config.moe.num_experts,
        "moe_k": config.moe.experts_per_token,
        "moe_intermediate_size": config.moe.intermediate_size,
        "moe_num_shared_experts": config.moe.num_shared_experts,
        "moe_layer_start_index": first,
        "moe_layer_end_index": last,
        "moe_layer_interval": sparse[1] - first if len(sparse) > 1 else first + 1,
    }


def split_interleaved(config: ModelConfig, names: Sequence[str]) -> tuple[list[TensorMap], list[str]]:
    """The maps of queries and keys whose files have neighbouring RoPE pairs, and the names of the other tensors."""
    maps, others = [], []
    for name in names:
        layer, part, kind = name.split(".")[1], name.split(".")[-2], name.split(".")[-1]
        if part in ("q_proj", "k_proj"):
            heads = config.num_heads if part == "q_proj" else config.num_kv_heads
            foreign = f"model.layers.{layer}.self_attn.{part}.{kind}"
            maps.append(map_interleaved(name, foreign, heads, config.head_dim))
        else:
            others.append(name)
    return maps, others


def _map_ernie(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    maps, others = split_interleaved(config, names)
    yield from maps
    yield from map_names(others, TENSORS)


def _map_ernie_moe(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    maps, others = split_interleaved(config, names)
    yield from maps
    for name in others:
        if name.endswith(LOAD_BALANCER_BIAS):  # (1, experts) in the files
            layer = name.split(".")[1]
            yield TensorMap((name,), (f"model.layers.{layer}.mlp.moe_statics.e_score_correction_bias",), _row, _column)
    yield from experts_map()(config, [name for name in others if not name.endswith(LOAD_BALANCER_BIAS)])


def _row(tensors: list[Tensor]) -> list[Tensor]:
    return [tensors[0].flatten()]


def _column(tensors: list[Tensor]) -> list[Tensor]:
    return [tensors[0][None]]


ERNIE4_5 = replace(
    LLAMA,
    name="ernie4_5",
    architecture="Ernie4_5ForCausalLM",
    defaults={**ERNIE_DEFAULTS, "head_dim": 128},
    read=_read_ernie,
    write=_write_ernie,
    weight_map=_map_ernie,
)
ERNIE4_5_MOE = replace(
    MIXTRAL,
    name="ernie4_5_moe",
    architecture="Ernie4_5_MoeForCausalLM",
    defaults={
        **ERNIE_DEFAULTS,
        "num_key_value_heads": 4,
        "moe_num_experts": 64,
        "moe_k": 6,
        "moe_intermediate_size": 1536,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": -1,
        "moe_layer_interval": 1,
    },
    fixed={"use_bias": False},
    read=_read_ernie_moe,
    write=_write_ernie_moe,
    weight_map=_map_ernie_moe,
    ignored=(*MIXTRAL.ignored, "model.mtp*"),
)
