"""Youtu-LLM: Llama with the latent attention of DeepSeek-V3, whose names and permutations it shares.

Sources: Tencent 2025, "Youtu-LLM"; the configuration and modelling files of transformers 5, models/youtu, models/deepseek_v3.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import BIASES, DEFAULTS, KEYS, LLAMA, TENSORS, read_decoder, write_decoder
from groundup.interop.row_order import interleaved_rows
from groundup.interop.weight_map import TensorMap, map_concatenated, map_names
from groundup.recipe import ModelConfig

LATENT_KEYS = {knob: key for knob, key in KEYS.items() if knob != "head_dim"}
LATENT_DEFAULTS: Json = {
    **DEFAULTS,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def read_latent(json: Json) -> Json:
    """Knobs of latent attention."""
    heads = json["num_attention_heads"]
    return {
        "head_dim": json["qk_nope_head_dim"] + json["qk_rope_head_dim"],
        "num_kv_heads": json["num_key_value_heads"] or heads,
        "attention_bias": map_value(json, "attention_bias", BIASES),
        "latent_attention": {
            "kv_rank": json["kv_lora_rank"],
            "q_rank": json["q_lora_rank"],
            "rope_head_dim": json["qk_rope_head_dim"],
            "value_head_dim": json["v_head_dim"],
        },
    }


def write_latent(config: ModelConfig) -> Json:
    """Keys of latent attention; a model without it has none."""
    if (latent := config.latent_attention) is None:
        return {}
    return {
        "attention_bias": config.attention_bias != "none",
        "kv_lora_rank": latent.kv_rank,
        "q_lora_rank": latent.q_rank,
        "qk_nope_head_dim": config.head_dim - latent.rope_head_dim,
        "qk_rope_head_dim": latent.rope_head_dim,
        "v_head_dim": latent.value_head_dim,
    }


def latent_names(config: ModelConfig) -> dict[str, str]:
    """Names of the tensors of latent attention."""
    compressed = config.latent_attention is not None and config.latent_attention.q_rank is not None
    attention = "model.layers.*.self_attn."
    return {
        "blocks.*.attention.q_a_norm.": f"{attention}q_a_layernorm.",
        "blocks.*.attention.q_proj.": f"{attention}{'q_b_proj' if compressed else 'q_proj'}.",
        "blocks.*.attention.kv_a_proj.": f"{attention}kv_a_proj_with_mqa.",
        "blocks.*.attention.kv_a_norm.": f"{attention}kv_a_layernorm.",
    }


def map_latent(config: ModelConfig, maps: Iterable[TensorMap]) -> Iterator[TensorMap]:
    """`maps` with the rotated rows of queries and keys in our order; the files keep the elements of a pair beside each other."""
    latent = config.latent_attention
    assert latent is not None
    groups = {"q_proj": (config.num_heads, config.head_dim - latent.rope_head_dim), "kv_a_proj": (1, latent.kv_rank)}
    for each in maps:
        part = each.native[0].rsplit(".", 2)[-2]
        if ".attention." in each.native[0] and part in groups:
            order = last_rows_interleaved(*groups[part], latent.rope_head_dim)
            yield map_concatenated(each.native, each.foreign[0], [len(order)], order=order)
        else:
            yield each


def last_rows_interleaved(groups: int, plain: int, rotated: int) -> Tensor:
    """The order of rows in groups of `plain` rows in our order, and `rotated` ones that are `interleaved_rows`."""
    group = torch.cat((torch.arange(plain), plain + interleaved_rows(1, rotated)))
    return (torch.arange(groups)[:, None] * (plain + rotated) + group).flatten()


def _read(json: Json) -> Json:
    return read_decoder(json) | read_latent(json)


def _write(config: ModelConfig) -> Json:
    return write_decoder(config) | write_latent(config)


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    return map_latent(config, map_names(names, latent_names(config) | TENSORS))


YOUTU = replace(
    LLAMA,
    name="youtu",
    architecture="YoutuForCausalLM",
    keys=LATENT_KEYS,
    defaults={**LATENT_DEFAULTS, "num_key_value_heads": None, "tie_word_embeddings": True, "rope_interleave": True},
    fixed={"rope_interleave": True},
    read=_read,
    write=_write,
    weight_map=_weight_map,
)
