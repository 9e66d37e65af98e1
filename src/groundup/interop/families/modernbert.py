"""ModernBERT: an encoder with RoPE, GeGLU, pre-norm blocks without biases, and local layers.

Sources: Warner et al. 2024; transformers 5, models/modernbert.
"""

from collections.abc import Iterator, Sequence

from groundup.artifacts.errors import UserError
from groundup.interop.families.bert import ACTIVATIONS
from groundup.interop.families.family import ClassifierTensors, Family, Json, inverse_map_value, map_value
from groundup.interop.families.llama import ACTIVATIONS as GATED
from groundup.interop.families.rope_config import read_layers, read_two_ropes, write_layers, write_rope
from groundup.interop.weight_map import TensorMap, map_concatenated, map_names
from groundup.model.classification_head import HeadSettings
from groundup.recipe import ModelConfig

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "context_length": "max_position_embeddings",
    "norm_eps": "norm_eps",
    "norm_bias": "norm_bias",
    "feed_forward_bias": "mlp_bias",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "hidden_activation": "gelu",
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "tie_word_embeddings": True,
    "mlp_bias": False,
    "classifier_bias": False,
    "classifier_pooling": "cls",
    "classifier_activation": "gelu",
}
FIXED: Json = {"decoder_bias": True}
THETAS = (160_000.0, 10_000.0)
LAYER = "model.layers.*."
TENSORS = {
    "embedding.tokens.": "model.embeddings.tok_embeddings.",
    "embedding.norm.": "model.embeddings.norm.",
    "blocks.*.attention_norm.": LAYER + "attn_norm.",
    "blocks.*.attention.o_proj.": LAYER + "attn.Wo.",
    "blocks.*.feed_forward_norm.": LAYER + "mlp_norm.",
    "blocks.*.feed_forward.down_proj.": LAYER + "mlp.Wo.",
    "final_norm.": "model.final_norm.",
    "head.dense.": "head.dense.",
    "head.norm.": "head.norm.",
    "head.head.": "decoder.",
}
QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")


def _read(json: Json) -> Json:
    for key in ("rope_scaling", "sliding_window"):  # of all layers; of local_attention, the half
        if json.get(key) is not None:
            raise UserError(
                f"{key} = {json[key]!r}, expected rope_parameters and local_attention in a modernbert model"
            )
    every = json["global_attn_every_n_layers"]
    types = ["sliding_attention" if i % every else "full_attention" for i in range(json["num_hidden_layers"])]
    # local_attention counts both sides; our window counts one side and the token itself.
    window = json["local_attention"] // 2 + 1
    return {
        "architecture": "encoder",
        "norm": "layernorm",
        "embedding_norm": True,
        "attention_bias": "all" if json["attention_bias"] else "none",
        "feed_forward": map_value(json, "hidden_activation", GATED),
        "masked_head_bias": json["classifier_bias"],
        "masked_head_activation": map_value(json, "classifier_activation", ACTIVATIONS),
        **read_layers(json.get("layer_types") or types, window),
        **read_two_ropes(json, "global_rope_theta", "local_rope_theta", THETAS),
    }


def _write(config: ModelConfig) -> Json:
    layers = write_layers(config)
    every = next((i for i in range(1, len(layers)) if layers[i] == "full_attention"), len(layers))
    rope = write_rope(config)
    local = config.rope_theta if config.rope_local_theta is None else config.rope_local_theta
    return {
        "hidden_activation": inverse_map_value(GATED, config.feed_forward),
        "classifier_activation": inverse_map_value(ACTIVATIONS, config.masked_head_activation),
        "classifier_bias": config.feed_forward_bias if config.masked_head_bias is None else config.masked_head_bias,
        "attention_bias": config.attention_bias != "none",
        "local_attention": 2 * ((config.sliding_window or 1) - 1),
        "layer_types": layers,
        "global_attn_every_n_layers": every,
        "global_rope_theta": rope["rope_theta"],
        "local_rope_theta": local,
        **_write_scaling(rope, local),
        "cls_token_id": None,
        "sep_token_id": None,
    }


def _write_scaling(rope: Json, local_theta: float) -> Json:
    """The scaling of global layers, which the older spelling cannot say."""
    if rope["rope_scaling"] is None:
        return {}
    full = {"rope_theta": rope["rope_theta"], **rope["rope_scaling"]}
    local = {"rope_type": "default", "rope_theta": local_theta}
    return {"rope_parameters": {"full_attention": full, "sliding_attention": local}}


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    heads, intermediate = config.num_heads * config.head_dim, config.intermediate_size
    kinds = ("weight",) if config.attention_bias == "none" else ("weight", "bias")
    for i in range(config.num_layers):
        for kind in kinds:
            parts = [f"blocks.{i}.attention.{part}.{kind}" for part in QKV]
            yield map_concatenated(parts, f"model.layers.{i}.attn.Wqkv.{kind}", [heads] * 3)
        for kind in ("weight", "bias") if config.feed_forward_bias else ("weight",):
            parts = [f"blocks.{i}.feed_forward.{part}.{kind}" for part in GATE_UP]
            yield map_concatenated(parts, f"model.layers.{i}.mlp.Wi.{kind}", [intermediate] * 2)
    concatenated = tuple(f".{part}." for part in QKV + GATE_UP)
    yield from map_names([name for name in names if not any(part in name for part in concatenated)], TENSORS)


def _read_classifier(json: Json) -> Json:
    pooling = map_value(json, "classifier_pooling", {"cls": "cls", "mean": "mean"})
    activation = map_value(json, "classifier_activation", ACTIVATIONS)
    return {
        "pooling": pooling,
        "activation": activation,
        "dense_bias": json["classifier_bias"],
        "norm_eps": json["norm_eps"],
        "norm_bias": json["norm_bias"],
    }


def _write_classifier(settings: HeadSettings) -> Json:
    return {
        "classifier_pooling": settings.pooling or "cls",
        "classifier_activation": inverse_map_value(ACTIVATIONS, settings.activation),
        "classifier_bias": settings.dense_bias,
    }


CLASSIFIER = ClassifierTensors(dense="head.dense.", norm="head.norm.", read=_read_classifier, write=_write_classifier)
MODERNBERT = Family(
    name="modernbert",
    architecture="ModernBertForMaskedLM",
    headless_architecture="ModernBertModel",
    keys=KEYS,
    defaults=DEFAULTS,
    kind="encoder",
    fixed=FIXED,
    read=_read,
    write=_write,
    weight_map=_weight_map,
    embedding="model.embeddings.tok_embeddings.weight",
    head="decoder.weight",
    masked_head="head.dense.weight",
    text_classifier=CLASSIFIER,
    token_classifier=CLASSIFIER,
)
