"""Knobs of [model] that have no effect without another one are refused."""

import pytest

from groundup.artifacts.errors import UserError
from groundup.recipe import ModelConfig

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "context_length": 32}
ENCODER = {"architecture": "encoder"}
BOTH = {"architecture": "encoder_decoder"}
SCALING = {"method": "yarn", "factor": 2.0}

REFUSED = [
    ({"qk_norm_type": "projection"}, "qk_norm_type = 'projection' has no effect, expected qk_norm"),
    ({"qk_norm_after_rope": True}, "qk_norm_after_rope = true has no effect, expected qk_norm"),
    ({"position_embedding": "alibi", "rope_pattern": [True, False]}, r"rope_pattern = \[true, false\] has no effect"),
    (
        {"position_embedding": "learned", "rotary_dim": 4},
        "rotary_dim = 4 has no effect, expected position_embedding = 'rope'",
    ),
    ({"position_embedding": "learned", "rope_scaling": SCALING}, "rope_scaling = 'yarn' has no effect"),
    ({"position_embedding": "learned", "rope_local_theta": 5.0}, "rope_local_theta = 5.0 has no effect"),
    ({"relative_buckets": 8}, "relative_buckets = 8 has no effect, expected position_embedding = 'relative'"),
    ({"relative_max_distance": 8}, "relative_max_distance = 8 has no effect"),
    (BOTH | {"relative_bias_per_layer": True}, "relative_bias_per_layer = true has no effect"),
    ({"norm_bias": True}, "norm_bias = true has no effect, expected norm = 'layernorm'"),
    ({"shared_norm": True}, "shared_norm = true has no effect, expected norm_placement = 'parallel'"),
    ({"keep_first_norm": True}, "keep_first_norm = true has no effect, expected embedding_norm"),
    ({"swiglu_alpha": 2.0}, "swiglu_alpha = 2.0 has no effect, expected feed_forward = 'swiglu_clamped'"),
    ({"swiglu_limit": 2.0}, "swiglu_limit = 2.0 has no effect"),
    ({"num_token_types": 2}, "num_token_types = 2 has no effect, expected architecture = 'encoder'"),
    ({"embedding_size": 8}, "embedding_size = 8 has no effect"),
    ({"masked_lm_head": False}, "masked_lm_head = false has no effect"),
    ({"masked_head_activation": "relu"}, "masked_head_activation = 'relu' has no effect"),
    ({"masked_head_bias": True}, "masked_head_bias = true has no effect"),
    ({"pooling": "cls"}, "pooling = 'cls' has no effect"),
    (ENCODER | {"head_bias": True}, "head_bias = true has no effect, expected a decoder"),
    ({"num_encoder_layers": 3}, "num_encoder_layers = 3 has no effect, expected architecture = 'encoder_decoder'"),
    (ENCODER | {"decoder_start_token_id": 1}, "decoder_start_token_id = 1 has no effect"),
    ({"forced_bos_token_id": 1}, "forced_bos_token_id = 1 has no effect"),
    (BOTH | {"attention_sinks": True}, "attention_sinks with an encoder_decoder"),
]


@pytest.mark.parametrize(("knobs", "message"), REFUSED)
def test_a_knob_without_effect_is_refused(knobs: dict, message: str):
    with pytest.raises(UserError, match=message):
        ModelConfig(**SIZES, **knobs)


def test_the_same_knobs_where_they_have_an_effect():
    ModelConfig(**SIZES, qk_norm=True, qk_norm_type="projection")
    ModelConfig(**SIZES, norm="layernorm", norm_bias=True, norm_placement="parallel", shared_norm=True, head_bias=True)
    ModelConfig(
        **SIZES, **ENCODER, num_token_types=2, pooling="cls", masked_head_activation="relu", attention_sinks=True
    )
    ModelConfig(**SIZES, **BOTH, position_embedding="relative", relative_buckets=8, num_encoder_layers=3)
