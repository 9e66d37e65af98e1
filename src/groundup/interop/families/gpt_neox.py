"""GPT-NeoX and Pythia: parallel blocks, partial rotation, fused queries, keys and values.

Sources: Black et al. 2022 (GPT-NeoX-20B); Biderman et al. 2023 (Pythia); transformers 5, models/gpt_neox.
"""

from collections.abc import Iterator, Sequence

from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.families.llama import BIASES
from groundup.interop.families.rope_config import read_partial_rope, write_partial_rotary, write_rope
from groundup.interop.row_order import grouped_rows
from groundup.interop.weight_map import TensorMap, map_concatenated, map_names
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "context_length": "max_position_embeddings",
    "norm_eps": "layer_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "attention_bias": True,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10_000.0,
}
PLAIN_ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "relu": "relu", "relu2": "relu2",
}  # fmt: skip
"""Activations of feed-forwards without a gate."""
LAYER = "gpt_neox.layers.*."
TENSORS = {
    "embedding.tokens.": "gpt_neox.embed_in.",
    "blocks.*.attention_norm.": LAYER + "input_layernorm.",
    "blocks.*.attention.o_proj.": LAYER + "attention.dense.",
    "blocks.*.feed_forward_norm.": LAYER + "post_attention_layernorm.",
    "blocks.*.feed_forward.up_proj.": LAYER + "mlp.dense_h_to_4h.",
    "blocks.*.feed_forward.down_proj.": LAYER + "mlp.dense_4h_to_h.",
    "final_norm.": "gpt_neox.final_layer_norm.",
    "head.": "embed_out.",
}
QKV = ("q_proj", "k_proj", "v_proj")
LAYERNORM: Json = {"norm": "layernorm", "norm_bias": True}


def _read(json: Json) -> Json:
    beside = {
        key: value for key, value in json.items() if key not in ("rope_theta", "partial_rotary_factor")
    }  # not read
    return {
        **LAYERNORM,
        **read_partial_rope(beside, json["rotary_pct"], json["rotary_emb_base"]),
        "norm_placement": map_value(json, "use_parallel_residual", {True: "parallel", False: "pre"}),
        "attention_bias": map_value(json, "attention_bias", BIASES),
        "feed_forward": map_value(json, "hidden_act", PLAIN_ACTIVATIONS),
        "feed_forward_bias": True,
    }


def _write(config: ModelConfig) -> Json:
    rope = write_rope(config)
    return rope | {
        "rotary_emb_base": rope.pop("rope_theta"),
        "rotary_pct": write_partial_rotary(config),
        "use_parallel_residual": config.norm_placement == "parallel",
        "attention_bias": config.attention_bias != "none",
        "hidden_act": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
    }


def map_fused(config: ModelConfig, names: Sequence[str], fused: str, table: dict[str, str]) -> Iterator[TensorMap]:
    """Queries, keys and values as one matrix `fused` (* is the layer), grouped by key heads; the other tensors by `table`."""
    heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
    order, sizes = grouped_rows(heads, kv_heads, head_dim), [heads * head_dim] + [kv_heads * head_dim] * 2
    for i in range(config.num_layers):
        for kind in ("weight",) if config.attention_bias == "none" else ("weight", "bias"):
            parts = [f"blocks.{i}.attention.{part}.{kind}" for part in QKV]
            yield map_concatenated(parts, fused.replace("*", str(i)) + kind, sizes, order=order)
    yield from map_names([name for name in names if not any(f".{part}." in name for part in QKV)], table)


GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    keys=KEYS,
    defaults=DEFAULTS,
    read=_read,
    write=_write,
    weight_map=lambda config, names: map_fused(config, names, LAYER + "attention.query_key_value.", TENSORS),
    prefix="gpt_neox.",
    embedding="gpt_neox.embed_in.weight",
    head="embed_out.weight",
    ignored=("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq"),
)
