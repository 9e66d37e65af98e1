"""OPT and BioGPT: GPT-2's blocks with separate projections and fairseq's table of positions, whose first two rows are unused.

Sources: Zhang et al. 2022 (OPT); Luo et al. 2022 (BioGPT); transformers 5, models/{opt,biogpt}.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.families.gpt_neox import LAYERNORM, PLAIN_ACTIVATIONS
from groundup.interop.families.llama import BIASES
from groundup.interop.weight_map import TensorMap, map_names, map_offset_positions
from groundup.recipe import ModelConfig

OFFSET = 2
EPSILON = 1e-5
"""Of the norms: not in the configuration."""

OPT_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "ffn_dim",
    "context_length": "max_position_embeddings",
    "tie_embeddings": "tie_word_embeddings",
}
OPT_DEFAULTS: Json = {
    "ffn_dim": 3072,
    "max_position_embeddings": 2048,
    "do_layer_norm_before": True,
    "word_embed_proj_dim": None,
    "activation_function": "relu",
    "enable_bias": True,
    "tie_word_embeddings": True,
}
OPT_FIXED: Json = {"_remove_final_layer_norm": False, "layer_norm_elementwise_affine": True}
BIOGPT_DEFAULTS: Json = {
    "hidden_act": "gelu",
    "max_position_embeddings": 1024,
    "scale_embedding": True,
    "tie_word_embeddings": True,
}


def _tensors(stack: str, final_norm: str, head: str) -> dict[str, str]:
    layer = f"{stack}.layers.*."
    return {
        "embedding.tokens.": f"{stack}.embed_tokens.",
        "blocks.*.attention_norm.": layer + "self_attn_layer_norm.",
        "blocks.*.attention.o_proj.": layer + "self_attn.out_proj.",
        "blocks.*.attention.": layer + "self_attn.",
        "blocks.*.feed_forward_norm.": layer + "final_layer_norm.",
        "blocks.*.feed_forward.up_proj.": layer + "fc1.",
        "blocks.*.feed_forward.down_proj.": layer + "fc2.",
        "final_norm.": f"{stack}.{final_norm}.",
        "head.": f"{head}.",
    }


def _weight_map(stack: str, final_norm: str, head: str) -> Callable[[Any, Iterable[str]], Iterator[TensorMap]]:
    table = _tensors(stack, final_norm, head)

    def weight_map(config: ModelConfig, names: Iterable[str]) -> Iterator[TensorMap]:
        positions = "embedding.positions.weight"
        yield map_offset_positions(positions, f"{stack}.embed_positions.weight", OFFSET)
        yield from map_names([name for name in names if name != positions], table)

    return weight_map


def _read_opt(json: Json) -> Json:
    width = json["word_embed_proj_dim"]
    if width not in (None, json["hidden_size"]):
        raise UserError(
            f"word_embed_proj_dim = {width}, expected hidden_size = {json['hidden_size']}",
            hint="OPT-350m with its projections is not supported; the other sizes of OPT are",
        )
    return {
        **LAYERNORM,
        "norm_eps": EPSILON,
        "norm_placement": map_value(json, "do_layer_norm_before", {True: "pre", False: "post"}),
        "position_embedding": "learned",
        "attention_bias": map_value(json, "enable_bias", BIASES),
        "feed_forward": map_value(json, "activation_function", PLAIN_ACTIVATIONS),
        "feed_forward_bias": json["enable_bias"],
    }


def _write_opt(config: ModelConfig) -> Json:
    return {
        "do_layer_norm_before": config.norm_placement == "pre",
        "word_embed_proj_dim": config.hidden_size,
        "enable_bias": config.feed_forward_bias,
        "activation_function": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
    }


def _read_biogpt(json: Json) -> Json:
    return {
        **LAYERNORM,
        "norm_eps": EPSILON,  # transformers ignores layer_norm_eps
        "position_embedding": "learned",
        "embedding_scale": json["hidden_size"] ** 0.5 if json["scale_embedding"] else 1.0,
        "attention_bias": "all",
        "feed_forward": map_value(json, "hidden_act", PLAIN_ACTIVATIONS),
        "feed_forward_bias": True,
    }


def _write_biogpt(config: ModelConfig) -> Json:
    return {
        "hidden_act": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
        "scale_embedding": config.embedding_scale != 1.0,
    }


OPT = Family(
    name="opt",
    architecture="OPTForCausalLM",
    keys=OPT_KEYS,
    defaults=OPT_DEFAULTS,
    fixed=OPT_FIXED,
    read=_read_opt,
    write=_write_opt,
    weight_map=_weight_map("model.decoder", "final_layer_norm", "lm_head"),
    embedding="model.decoder.embed_tokens.weight",
)
BIOGPT = Family(
    name="biogpt",
    architecture="BioGptForCausalLM",
    keys={**OPT_KEYS, "intermediate_size": "intermediate_size"},
    defaults=BIOGPT_DEFAULTS,
    read=_read_biogpt,
    write=_write_biogpt,
    weight_map=_weight_map("biogpt", "layer_norm", "output_projection"),
    prefix="biogpt.",
    embedding="biogpt.embed_tokens.weight",
    head="output_projection.weight",
)
