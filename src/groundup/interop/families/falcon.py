"""Falcon: parallel blocks, multi-query attention (7B) or grouped-query attention (40B and 180B), rotary positions.

Sources: Almazrouei et al. 2023; transformers 5, models/falcon.
"""

from collections.abc import Iterator, Sequence

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.families.gpt_neox import LAYERNORM, PLAIN_ACTIVATIONS, map_fused
from groundup.interop.families.llama import BIASES
from groundup.interop.families.rope_config import read_rope, write_rope
from groundup.interop.weight_map import TensorMap
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "ffn_hidden_size",
    "context_length": "max_position_embeddings",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {
    "ffn_hidden_size": None,
    "max_position_embeddings": 2048,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "num_ln_in_parallel_attn": None,
    "num_kv_heads": None,
    "alibi": False,
    "new_decoder_architecture": False,
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
    "activation": "gelu",
}
ALIASES = {"n_embed": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
LAYER = "transformer.h.*."
TENSORS = {
    "embedding.tokens.": "transformer.word_embeddings.",
    "blocks.*.attention.o_proj.": LAYER + "self_attention.dense.",
    "blocks.*.feed_forward.up_proj.": LAYER + "mlp.dense_h_to_4h.",
    "blocks.*.feed_forward.down_proj.": LAYER + "mlp.dense_4h_to_h.",
    "final_norm.": "transformer.ln_f.",
    "head.": "lm_head.",
}
TWO_NORMS = {"blocks.*.attention_norm.": LAYER + "ln_attn.", "blocks.*.feed_forward_norm.": LAYER + "ln_mlp."}
OTHER_NORMS = {
    "blocks.*.attention_norm.": LAYER + "input_layernorm.",
    "blocks.*.feed_forward_norm.": LAYER + "post_attention_layernorm.",
}


def _read(json: Json) -> Json:
    if json["alibi"]:
        raise UserError(
            "alibi = True is not supported in a falcon model: its biases are defined by their rounding to bfloat16",
            hint="Falcon-7B, 40B and 180B have rotary positions (alibi = false)",
        )
    grouped, norms = json["new_decoder_architecture"], json["num_ln_in_parallel_attn"]
    heads = json["num_attention_heads"]
    if (grouped and not json["parallel_attn"]) or norms not in ((None, 1, 2) if grouped else (None, 1)):
        raise UserError(
            f"new_decoder_architecture = {grouped} with parallel_attn = {json['parallel_attn']} and "
            f"num_ln_in_parallel_attn = {norms}, expected a block of Falcon-7B, 40B or 180B"
        )
    return {
        **LAYERNORM,
        **read_rope(json),
        "num_kv_heads": json["num_kv_heads"] or heads if grouped else 1 if json["multi_query"] else heads,
        "norm_placement": "parallel" if json["parallel_attn"] else "pre",
        "shared_norm": norms == 1 if grouped else json["parallel_attn"],
        "attention_bias": map_value(json, "bias", BIASES),
        "feed_forward": map_value(json, "activation", PLAIN_ACTIVATIONS),
        "feed_forward_bias": json["bias"],
    }


def _has_old_blocks(config: ModelConfig) -> bool:
    return config.norm_placement == "pre" or (config.shared_norm and config.num_kv_heads in (1, config.num_heads))


def _write(config: ModelConfig) -> Json:
    old = _has_old_blocks(config)
    return write_rope(config) | {
        "new_decoder_architecture": not old,
        "num_kv_heads": config.num_kv_heads,
        "multi_query": old and config.num_kv_heads == 1,
        "parallel_attn": config.norm_placement == "parallel",
        "num_ln_in_parallel_attn": None if old else 1 if config.shared_norm else 2,
        "bias": config.feed_forward_bias,
        "activation": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
        "alibi": False,
    }


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    two = config.norm_placement == "parallel" and not config.shared_norm
    norms = TWO_NORMS if two else OTHER_NORMS
    return map_fused(config, names, LAYER + "self_attention.query_key_value.", TENSORS | norms)


FALCON = Family(
    name="falcon",
    architecture="FalconForCausalLM",
    keys=KEYS,
    defaults=DEFAULTS,
    key_aliases=ALIASES,
    read=_read,
    write=_write,
    weight_map=_weight_map,
    prefix="transformer.",
    embedding="transformer.word_embeddings.weight",
    ignored=("*.rotary_emb.inv_freq", "*.self_attention.maybe_rotary.*"),
)
