"""GPT-2: learned positions, LayerNorm with bias; matrices stored as (in, out), fused queries, keys and values.

Sources: Radford et al. 2019; transformers 5, models/gpt2.
"""

from collections.abc import Iterator, Sequence

from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.weight_map import TensorMap, map_concatenated, map_names, map_transposed
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "intermediate_size": "n_inner",
    "context_length": "n_positions",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {
    "n_inner": None,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "activation_function": "gelu_new",
    "n_positions": 1024,
}
FIXED: Json = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
ACTIVATIONS = {
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh", "gelu": "gelu", "gelu_python": "gelu", "relu": "relu", "relu2": "relu2",
}  # fmt: skip
TENSORS = {
    "embedding.tokens.": "transformer.wte.",
    "embedding.positions.": "transformer.wpe.",
    "blocks.*.attention_norm.": "transformer.h.*.ln_1.",
    "blocks.*.attention.o_proj.": "transformer.h.*.attn.c_proj.",
    "blocks.*.feed_forward_norm.": "transformer.h.*.ln_2.",
    "blocks.*.feed_forward.up_proj.": "transformer.h.*.mlp.c_fc.",
    "blocks.*.feed_forward.down_proj.": "transformer.h.*.mlp.c_proj.",
    "final_norm.": "transformer.ln_f.",
    "head.": "lm_head.",
}
QKV = ("q_proj", "k_proj", "v_proj")
MATRICES = ("o_proj.weight", "up_proj.weight", "down_proj.weight")


def _read(json: Json) -> Json:
    return {
        "norm": "layernorm",
        "norm_bias": True,
        "position_embedding": "learned",
        "attention_bias": "all",
        "feed_forward": map_value(json, "activation_function", ACTIVATIONS),
        "feed_forward_bias": True,
    }


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    size = config.num_heads * config.head_dim
    for i in range(config.num_layers):
        for kind in ("weight", "bias"):
            yield map_concatenated(
                [f"blocks.{i}.attention.{part}.{kind}" for part in QKV],
                f"transformer.h.{i}.attn.c_attn.{kind}",
                [size] * 3,
                transpose=kind == "weight",
            )
    others = [name for name in names if not any(f".{part}." in name for part in QKV)]
    for tensor_map in map_names(others, TENSORS):
        native, foreign = tensor_map.native[0], tensor_map.foreign[0]
        yield map_transposed(native, foreign) if native.endswith(MATRICES) else tensor_map


GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    keys=KEYS,
    defaults=DEFAULTS,
    fixed=FIXED,
    read=_read,
    write=lambda config: {"activation_function": inverse_map_value(ACTIVATIONS, config.feed_forward)},
    weight_map=_weight_map,
    prefix="transformer.",
    embedding="transformer.wte.weight",
    ignored=("*.attn.bias", "*.attn.masked_bias"),
)
