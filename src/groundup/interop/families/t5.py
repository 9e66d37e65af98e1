"""T5, its version 1.1 and Flan-T5, mT5 and UMT5: an encoder-decoder with relative positions and unscaled attention.

Sources: Raffel et al. 2020; Shazeer 2020 (the gated feed-forward of v1.1); Xue et al. 2021; Chung et al. 2023;
transformers 5, models/{t5,mt5,umt5}.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.weight_map import TensorMap, map_names
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_encoder_layers": "num_layers",
    "num_heads": "num_heads",
    "head_dim": "d_kv",
    "intermediate_size": "d_ff",
    "relative_buckets": "relative_attention_num_buckets",
    "relative_max_distance": "relative_attention_max_distance",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {
    "d_kv": 64,
    "num_decoder_layers": None,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "n_positions": 512,
}
ACTIVATIONS = {
    "gated-gelu": "geglu_tanh",
    "gated-gelu_new": "geglu_tanh",
    "gated-silu": "swiglu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
}
GATED = {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}
PLAIN = {"up_proj": "wi", "down_proj": "wo"}


def _stack(stack: str, layers: dict[str, int], matrices: dict[str, str]) -> dict[str, str]:
    """Tensor names of the encoder or decoder; `layers` are the indices of a block's sublayers."""
    block = f"{stack}.block.*.layer"
    attentions = {"attention": "SelfAttention", "cross_attention": "EncDecAttention"}
    table = {
        f"{stack}.position_encodings.global.bias.": f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.",
        f"{stack}.position_encodings.*.bias.": f"{block}.0.SelfAttention.relative_attention_bias.",
        f"{stack}.final_norm.": f"{stack}.final_layer_norm.",
    }
    for part, index in layers.items():
        table[f"{stack}.blocks.*.{part}_norm."] = f"{block}.{index}.layer_norm."
        if part in attentions:
            for letter in "qkvo":
                table[f"{stack}.blocks.*.{part}.{letter}_proj."] = f"{block}.{index}.{attentions[part]}.{letter}."
    for matrix, name in matrices.items():
        index = layers["feed_forward"]
        table[f"{stack}.blocks.*.feed_forward.{matrix}."] = f"{block}.{index}.DenseReluDense.{name}."
    return table


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    matrices = GATED if config.gated else PLAIN
    table = {
        "embedding.tokens.": "shared.",
        **_stack("encoder", {"attention": 0, "feed_forward": 1}, matrices),
        **_stack("decoder", {"attention": 0, "cross_attention": 1, "feed_forward": 2}, matrices),
        "head.": "lm_head.",
    }
    return map_names(names, table)


def _read(json: Json) -> Json:
    start = json.get("decoder_start_token_id")
    is_scaled = json.get("scale_decoder_outputs", json["tie_word_embeddings"] is not False)
    return {
        "architecture": "encoder_decoder",
        "num_layers": json["num_decoder_layers"] or json["num_layers"],
        "context_length": json["n_positions"],
        "position_embedding": "relative",
        "attention_scale": 1.0,
        "feed_forward": map_value(json, "feed_forward_proj", ACTIVATIONS),
        # A tied head has scaled inputs (mesh-tensorflow, transformers).
        "logit_scale": json["d_model"] ** -0.5 if is_scaled else 1.0,
        "decoder_start_token_id": json["pad_token_id"] if start is None else start,
    }


def _write(config: ModelConfig) -> Json:
    return {
        "is_encoder_decoder": True,
        "num_decoder_layers": config.num_layers,
        "n_positions": config.context_length,
        "feed_forward_proj": inverse_map_value(ACTIVATIONS, config.feed_forward),
        "decoder_start_token_id": config.decoder_start_token_id,
        "pad_token_id": config.decoder_start_token_id,
    }


T5 = Family(
    name="t5",
    architecture="T5ForConditionalGeneration",
    keys=KEYS,
    defaults=DEFAULTS,
    kind="encoder_decoder",
    read=_read,
    write=_write,
    weight_map=_weight_map,
    prefix="",
    embedding="shared.weight",
    ignored=(
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    ),
)
MT5 = replace(
    T5,
    name="mt5",
    architecture="MT5ForConditionalGeneration",
    defaults={**DEFAULTS, "feed_forward_proj": "gated-gelu"},
    read=lambda json: _read(json) | {"logit_scale": 1.0},
)
UMT5 = replace(
    T5,
    name="umt5",
    architecture="UMT5ForConditionalGeneration",
    defaults={**DEFAULTS, "feed_forward_proj": "gated-gelu"},
    read=lambda json: _read(json) | {"relative_bias_per_layer": True},
)
