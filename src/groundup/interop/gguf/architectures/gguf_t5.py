"""T5 v1.1 and Flan-T5 in GGUF: the encoder's tensors begin with `enc.`, the decoder's with `dec.`.

Source: llama.cpp, src/models/t5.cpp.
"""

from collections.abc import Collection

from groundup.interop.gguf.architectures.gguf_architecture import KEYS, GGUFArchitecture, GGUFFields, Metadata
from groundup.recipe import ModelConfig

MAX_DISTANCE = 128
"""llama.cpp has no key for it."""


def _stack(native: str, foreign: str) -> dict[str, str]:
    block = f"{foreign}.blk.*"
    table = {
        f"{native}.position_encodings.*.bias.": f"{foreign}.blk.0.attn_rel_b.",
        f"{native}.final_norm.": f"{foreign}.output_norm.",
        f"{native}.blocks.*.attention_norm.": f"{block}.attn_norm.",
        f"{native}.blocks.*.cross_attention_norm.": f"{block}.cross_attn_norm.",
        f"{native}.blocks.*.feed_forward_norm.": f"{block}.ffn_norm.",
    }
    for letter in "qkvo":
        table[f"{native}.blocks.*.attention.{letter}_proj."] = f"{block}.attn_{letter}."
        table[f"{native}.blocks.*.cross_attention.{letter}_proj."] = f"{block}.cross_attn_{letter}."
    for part in ("gate", "up", "down"):
        table[f"{native}.blocks.*.feed_forward.{part}_proj."] = f"{block}.ffn_{part}."
    return table


def _read(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    fields.expect("attention.head_count_kv", knobs["num_heads"])
    return {
        "num_layers": fields.get("decoder_block_count", knobs["num_encoder_layers"]),
        "relative_buckets": fields.require("attention.relative_buckets_count"),
        "relative_max_distance": MAX_DISTANCE,
        "decoder_start_token_id": fields.get("decoder_start_token_id", 0),
    }


def _write(config: ModelConfig) -> Metadata:
    return {
        "attention.head_count_kv": config.num_heads,
        "decoder_block_count": config.num_layers,
        "attention.relative_buckets_count": config.relative_buckets,
        "decoder_start_token_id": config.decoder_start_token_id,
    }


_SAME = {knob: key for knob, key in KEYS.items() if knob not in ("num_layers", "num_kv_heads", "rope_theta")}
T5 = GGUFArchitecture(
    "t5",
    ("t5",),
    knobs={
        "architecture": "encoder_decoder",
        "position_embedding": "relative",
        "attention_scale": 1.0,
        "feed_forward": "geglu_tanh",
    },
    keys={"num_encoder_layers": "block_count", **_SAME},
    tensors={
        "embedding.tokens.": "token_embd.",
        "head.": "output.",
        **_stack("encoder", "enc"),
        **_stack("decoder", "dec"),
    },
    read=_read,
    write=_write,
)
