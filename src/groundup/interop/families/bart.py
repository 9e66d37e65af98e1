"""BART, mBART, PLBart, Marian, Pegasus, M2M-100 and NLLB, Blenderbot: encoder-decoders after the original transformer.

They differ in the place of norms (BART, PLBart, Marian: after the sums), in positions and in the norm of embeddings:

    learned, two rows before the first    BART, PLBart, mBART (with a norm of embeddings)
    learned                               Blenderbot
    sines                                 Marian, Pegasus; M2M-100 as fairseq computes them

Sources: Lewis et al. 2020 (BART); Liu et al. 2020 (mBART); Junczys-Dowmunt et al. 2018 (Marian); Zhang et al. 2020 (Pegasus);
Fan et al. 2021 (M2M-100); NLLB Team 2022; Roller et al. 2021 (Blenderbot); transformers 5, models of these names.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.interop.families.bert import ACTIVATIONS
from groundup.interop.families.family import Family, Json, inverse_map_value, map_value
from groundup.interop.weight_map import TensorMap, map_names, map_offset_positions
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_layers": "decoder_layers",
    "num_encoder_layers": "encoder_layers",
    "num_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_dim",
    "context_length": "max_position_embeddings",
}
DEFAULTS: Json = {"max_position_embeddings": 1024, "activation_function": "gelu", "scale_embedding": False}
SAME_ON_BOTH_SIDES = {"decoder_attention_heads": "encoder_attention_heads", "decoder_ffn_dim": "encoder_ffn_dim"}
OFFSET = 2
BIAS = "final_logits_bias"


def _stack(stack: str) -> dict[str, str]:
    """Tensor names of the encoder or decoder."""
    layer = f"model.{stack}.layers.*."
    table = {
        f"{stack}.embedding.positions.": f"model.{stack}.embed_positions.",
        f"{stack}.embedding.norm.": f"model.{stack}.layernorm_embedding.",
        f"{stack}.final_norm.": f"model.{stack}.layer_norm.",
        f"{stack}.blocks.*.feed_forward.up_proj.": layer + "fc1.",
        f"{stack}.blocks.*.feed_forward.down_proj.": layer + "fc2.",
        f"{stack}.blocks.*.feed_forward_norm.": layer + "final_layer_norm.",
    }
    for part, name in {"attention": "self_attn", "cross_attention": "encoder_attn"}.items():
        table[f"{stack}.blocks.*.{part}.o_proj."] = f"{layer}{name}.out_proj."
        table[f"{stack}.blocks.*.{part}."] = f"{layer}{name}."
        table[f"{stack}.blocks.*.{part}_norm."] = f"{layer}{name}_layer_norm."
    return table


TENSORS = {"embedding.tokens.": "model.shared.", **_stack("encoder"), **_stack("decoder")}


def _family(name: str, architecture: str, *, offset: int = 0, bias: bool = True, **knobs: Any) -> Family:
    """A family with `knobs`; `offset`: unused rows at the begin of the tables of positions."""

    def read(json: Json) -> Json:
        for other, key in SAME_ON_BOTH_SIDES.items():
            if json.get(other, json[key]) != json[key]:
                raise UserError(f"{other} = {json[other]!r}, expected {key} = {json[key]!r}")
        if json.get("decoder_vocab_size", json["vocab_size"]) not in (None, json["vocab_size"]):
            raise UserError(f"decoder_vocab_size = {json['decoder_vocab_size']!r}, expected that of the encoder")
        starts = (json.get("decoder_start_token_id"), json.get("bos_token_id"), 0)
        return {
            "architecture": "encoder_decoder",
            "norm": "layernorm",
            "norm_bias": True,
            "attention_bias": "all",
            "feed_forward": map_value(json, "activation_function", ACTIVATIONS),
            "feed_forward_bias": True,
            "embedding_scale": math.sqrt(json["d_model"]) if json["scale_embedding"] else 1.0,
            "decoder_start_token_id": next(start for start in starts if start is not None),
            "forced_bos_token_id": json.get("forced_bos_token_id"),
            "head_bias": bias,
            "tie_embeddings": True,
            **knobs,
        }

    def write(config: ModelConfig) -> Json:
        return {
            "is_encoder_decoder": True,
            "decoder_attention_heads": config.num_heads,
            "decoder_ffn_dim": config.intermediate_size,
            "activation_function": inverse_map_value(ACTIVATIONS, config.feed_forward),
            "scale_embedding": config.embedding_scale != 1.0,
            "decoder_start_token_id": config.decoder_start_token_id,
            "forced_bos_token_id": config.forced_bos_token_id,
        }

    def weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
        tables = {f"{stack}.embedding.positions.weight" for stack in ("encoder", "decoder") if offset}
        for table in tables & set(names):
            yield map_offset_positions(table, f"model.{table.split('.')[0]}.embed_positions.weight", offset)
        if "head.bias" in names:
            yield TensorMap(("head.bias",), (BIAS,), lambda row: [row[0][0]], lambda bias: [bias[0][None]])
        yield from map_names([name for name in names if name not in tables | {"head.bias"}], TENSORS)

    return Family(
        name=name,
        architecture=architecture,
        keys=KEYS,
        defaults=DEFAULTS,
        kind="encoder_decoder",
        fixed={"tie_word_embeddings": True, **FIXED.get(name, {})},
        read=read,
        write=write,
        weight_map=weight_map,
        embedding="model.shared.weight",
        logit_bias=BIAS if bias else None,
        ignored=("model.*.embed_tokens.weight", "model.*.version", *(() if offset else SINES)),
    )


SINES = ("model.*.embed_positions.weight", "model.*.embed_positions.weights")
"""Tables that some files hold, although they follow from the width."""

FIXED: dict[str, Json] = {"marian": {"share_encoder_decoder_embeddings": True}, "m2m_100": {"pad_token_id": 1}}
NORMED = {"embedding_norm": True, "position_embedding": "learned"}

BART = _family("bart", "BartForConditionalGeneration", offset=OFFSET, norm_placement="post", **NORMED)
PLBART = _family("plbart", "PLBartForConditionalGeneration", offset=OFFSET, norm_placement="post", **NORMED)
MBART = _family("mbart", "MBartForConditionalGeneration", offset=OFFSET, keep_first_norm=True, **NORMED)
BLENDERBOT = _family("blenderbot", "BlenderbotForConditionalGeneration", position_embedding="learned")
MARIAN = _family("marian", "MarianMTModel", norm_placement="post", position_embedding="sinusoidal")
PEGASUS = _family("pegasus", "PegasusForConditionalGeneration", position_embedding="sinusoidal")
M2M_100 = _family("m2m_100", "M2M100ForConditionalGeneration", bias=False, position_embedding="sinusoidal_fairseq")
