"""BLOOM and MPT: GPT-2's blocks with ALiBi instead of learned positions.

Sources: Press et al. 2022 (ALiBi); Le Scao et al. 2022 (BLOOM); MosaicML 2023 (MPT); transformers 5, models/{bloom,mpt}.
"""

from collections.abc import Iterator, Sequence

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Family, Json
from groundup.interop.families.gpt_neox import LAYERNORM, QKV, map_fused
from groundup.interop.weight_map import TensorMap, map_concatenated, map_names
from groundup.recipe import ModelConfig

BLOOM_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "context_length": "seq_length",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
BLOOM_DEFAULTS: Json = {"seq_length": 2048, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}
BLOOM_LAYER = "transformer.h.*."
BLOOM_TENSORS = {
    "embedding.tokens.": "transformer.word_embeddings.",
    "embedding.norm.": "transformer.word_embeddings_layernorm.",
    "blocks.*.attention_norm.": BLOOM_LAYER + "input_layernorm.",
    "blocks.*.attention.o_proj.": BLOOM_LAYER + "self_attention.dense.",
    "blocks.*.feed_forward_norm.": BLOOM_LAYER + "post_attention_layernorm.",
    "blocks.*.feed_forward.up_proj.": BLOOM_LAYER + "mlp.dense_h_to_4h.",
    "blocks.*.feed_forward.down_proj.": BLOOM_LAYER + "mlp.dense_4h_to_h.",
    "final_norm.": "transformer.ln_f.",
    "head.": "lm_head.",
}

MPT_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "context_length": "max_seq_len",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
MPT_DEFAULTS: Json = {"max_seq_len": 2048, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "attn_config": None}
MPT_FIXED: Json = {"expansion_ratio": 4, "logit_scale": None, "no_bias": True, "embedding_fraction": 1.0}
MPT_ATTENTION: Json = {
    "attn_type": "multihead_attention",
    "clip_qkv": None,
    "prefix_lm": False,
    "qk_ln": False,
    "alibi": True,
    "alibi_bias_max": 8,
}
"""Keys of attn_config with only one supported value."""
MPT_LAYER = "transformer.blocks.*."
MPT_TENSORS = {
    "embedding.tokens.": "transformer.wte.",
    "blocks.*.attention_norm.": MPT_LAYER + "norm_1.",
    "blocks.*.attention.o_proj.": MPT_LAYER + "attn.out_proj.",
    "blocks.*.feed_forward_norm.": MPT_LAYER + "norm_2.",
    "blocks.*.feed_forward.": MPT_LAYER + "ffn.",
    "final_norm.": "transformer.norm_f.",
    "head.": "lm_head.",
}


def _read_bloom(json: Json) -> Json:
    return {
        **LAYERNORM,
        "embedding_norm": True,
        "keep_first_norm": True,
        "position_embedding": "alibi",
        "attention_bias": "all",
        "intermediate_size": 4 * json["hidden_size"],
        "feed_forward": "gelu_tanh",
        "feed_forward_bias": True,
    }


def _read_mpt(json: Json) -> Json:
    attention: Json = json["attn_config"] or {}
    for key, value in MPT_ATTENTION.items():
        if (attention.get(key, value) or None) != (value or None):
            raise UserError(f"attn_config.{key} = {attention[key]!r}, expected {value!r} in a mpt model")
    return {
        "norm": "layernorm",
        "norm_bias": False,
        "position_embedding": "alibi",
        "attention_scale": attention.get("softmax_scale"),
        "intermediate_size": 4 * json["d_model"],
        "feed_forward": "gelu",
    }


def _write_mpt(config: ModelConfig) -> Json:
    return {"attn_config": {**MPT_ATTENTION, "softmax_scale": config.attention_scale}}


def _map_mpt(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    sizes = [config.num_heads * config.head_dim] * 3
    for i in range(config.num_layers):
        parts = [f"blocks.{i}.attention.{part}.weight" for part in QKV]
        yield map_concatenated(parts, f"transformer.blocks.{i}.attn.Wqkv.weight", sizes)
    yield from map_names([name for name in names if not any(f".{part}." in name for part in QKV)], MPT_TENSORS)


BLOOM = Family(
    name="bloom",
    architecture="BloomForCausalLM",
    keys=BLOOM_KEYS,
    defaults=BLOOM_DEFAULTS,
    key_aliases={"n_embed": "hidden_size", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    fixed={"apply_residual_connection_post_layernorm": False},
    read=_read_bloom,
    write=lambda config: {},
    weight_map=lambda config, names: map_fused(
        config, names, BLOOM_LAYER + "self_attention.query_key_value.", BLOOM_TENSORS
    ),
    prefix="transformer.",
    embedding="transformer.word_embeddings.weight",
)
MPT = Family(
    name="mpt",
    architecture="MptForCausalLM",
    keys=MPT_KEYS,
    defaults=MPT_DEFAULTS,
    key_aliases={"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"},
    fixed=MPT_FIXED,
    read=_read_mpt,
    write=_write_mpt,
    weight_map=_map_mpt,
    prefix="transformer.",
    embedding="transformer.wte.weight",
)
