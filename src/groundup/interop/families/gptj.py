"""GPT-J and CodeGen: parallel blocks with one norm, partial rotation of neighbouring pairs, biases in feed-forward and head.

Sources: Wang & Komatsuzaki 2021 (GPT-J-6B); Nijkamp et al. 2022 (CodeGen); transformers 5, models/{gptj,codegen}.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.families.gpt_neox import LAYERNORM, PLAIN_ACTIVATIONS, QKV
from groundup.interop.row_order import interleaved_rows, map_interleaved
from groundup.interop.weight_map import TensorMap, map_concatenated, map_names
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "intermediate_size": "n_inner",
    "context_length": "n_positions",
    "rotary_dim": "rotary_dim",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {
    "n_inner": None,
    "n_positions": 2048,
    "rotary_dim": 64,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "tie_word_embeddings": False,
}
GPT_ALIASES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
LAYER = "transformer.h.*."
TENSORS = {
    "embedding.tokens.": "transformer.wte.",
    "blocks.*.attention_norm.": LAYER + "ln_1.",
    "blocks.*.attention.v_proj.": LAYER + "attn.v_proj.",
    "blocks.*.attention.o_proj.": LAYER + "attn.out_proj.",
    "blocks.*.feed_forward.up_proj.": LAYER + "mlp.fc_in.",
    "blocks.*.feed_forward.down_proj.": LAYER + "mlp.fc_out.",
    "final_norm.": "transformer.ln_f.",
    "head.": "lm_head.",
}
CODEGEN_PARTS = 4
"""Model-parallel parts of CodeGen's training, each with its queries, values and keys in the fused matrix."""


def _read(json: Json) -> Json:
    if json["rotary_dim"] is None:
        raise UserError("rotary_dim = None, expected the rotated elements of a head")
    return {
        **LAYERNORM,
        "norm_placement": "parallel",
        "shared_norm": True,
        "feed_forward": map_value(json, "activation_function", PLAIN_ACTIVATIONS),
        "feed_forward_bias": True,
        "head_bias": True,
    }


def _read_codegen(json: Json) -> Json:
    if json["n_embd"] % CODEGEN_PARTS:
        raise UserError(f"n_embd = {json['n_embd']}, expected a multiple of {CODEGEN_PARTS} in a codegen model")
    return _read(json)


def _write(config: ModelConfig) -> Json:
    return {
        "activation_function": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
        "rotary_dim": config.rotary_dim or config.head_dim,
    }


def _map_gptj(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    rotated = ("q_proj.weight", "k_proj.weight")
    for i in range(config.num_layers):
        for part in rotated:
            native, foreign = f"blocks.{i}.attention.{part}", f"transformer.h.{i}.attn.{part}"
            yield map_interleaved(native, foreign, config.num_heads, config.head_dim, config.rotary_dim)
    yield from map_names([name for name in names if not name.endswith(rotated)], TENSORS)


def codegen_rows(config: ModelConfig) -> Tensor:
    """The order of rows in CodeGen's fused matrix."""
    size = config.num_heads * config.head_dim
    rotated = interleaved_rows(config.num_heads, config.head_dim, config.rotary_dim).view(CODEGEN_PARTS, -1)
    values = 2 * size + torch.arange(size).view(CODEGEN_PARTS, -1)
    return torch.cat((rotated, values, size + rotated), dim=1).flatten()


def _map_codegen(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    order, sizes = codegen_rows(config), [config.num_heads * config.head_dim] * 3
    for i in range(config.num_layers):
        parts = [f"blocks.{i}.attention.{part}.weight" for part in QKV]
        yield map_concatenated(parts, f"transformer.h.{i}.attn.qkv_proj.weight", sizes, order=order)
    yield from map_names([name for name in names if not any(f".{part}." in name for part in QKV)], TENSORS)


GPTJ = Family(
    name="gptj",
    architecture="GPTJForCausalLM",
    keys=KEYS,
    defaults=DEFAULTS,
    key_aliases=GPT_ALIASES,
    read=_read,
    write=_write,
    weight_map=_map_gptj,
    prefix="transformer.",
    embedding="transformer.wte.weight",
    ignored=("*.attn.bias", "*.attn.masked_bias", "*.attn.embed_positions", "transformer.rotary_emb.*"),
)
CODEGEN = replace(
    GPTJ, name="codegen", architecture="CodeGenForCausalLM", read=_read_codegen, weight_map=_map_codegen,
    ignored=(*GPTJ.ignored, "*.attn.causal_mask"),
)  # fmt: skip
