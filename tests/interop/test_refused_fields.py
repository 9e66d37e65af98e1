"""Fields of config.json that change the numbers in transformers and cannot be followed are refused by name."""

import pytest

from groundup.artifacts.errors import UserError
from groundup.interop.families import FAMILIES
from groundup.interop.families.select_family import select_family
from groundup.recipe import ModelConfig

SIZES = {
    "vocab_size": 64, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("gemma", {"hidden_act": "relu"}, "hidden_act = 'relu' is not supported"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True, expected None"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True, expected None"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping = 50\.0, expected None"),
        ("gemma3_text", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "the older key type, expected rope_type"),
        ("modernbert", {"rope_scaling": LINEAR}, "rope_scaling = .*, expected rope_parameters"),
        ("modernbert", {"sliding_window": 5}, "sliding_window = 5, expected rope_parameters and local_attention"),
    ],
)
def test_fields_that_would_change_the_numbers_are_refused(family: str, fields: dict, message: str):
    FAMILIES[family].read_config(SIZES)
    with pytest.raises(UserError, match=message):
        FAMILIES[family].read_config(SIZES | fields)


@pytest.mark.parametrize(("family", "name", "feed_forward"), [
    ("llama", "swish", "swiglu"),
    ("gemma", "gelu", "geglu_tanh"), ("gemma", "gelu_python", "geglu"), ("gemma", "silu", "swiglu"),
    ("gemma2", "swish", "swiglu"),
])  # fmt: skip
def test_names_of_activations(family: str, name: str, feed_forward: str):
    key = "hidden_activation" if family == "gemma2" else "hidden_act"
    assert FAMILIES[family].read_config(SIZES | {key: name}).feed_forward == feed_forward


def test_no_family_has_capped_scores_and_normalized_queries():
    """Those of Gemma 3 would be exported, and transformers would not cap them."""
    gemma3 = FAMILIES["gemma3_text"].read_config(SIZES)
    assert select_family(gemma3).name == "gemma3_text"
    with pytest.raises(UserError, match="cannot be exported"):
        select_family(ModelConfig.model_validate(gemma3.model_dump() | {"attention_softcap": 50.0}))


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_a_window_is_written_without_local_layers(family: str):
    """transformers fails without one."""
    config = FAMILIES[family].read_config(SIZES | {"layer_types": ["full_attention"] * 2})
    assert config.sliding_window is None
    assert FAMILIES[family].write_config(config)["sliding_window"] == 64


def test_gpt_neox_has_names_of_its_own_for_rotation():
    """transformers reads rotary_emb_base and rotary_pct, and ignores the usual names beside them."""
    named = FAMILIES["gpt_neox"].read_config(SIZES | {"rotary_emb_base": 500.0, "rotary_pct": 0.5})
    both = FAMILIES["gpt_neox"].read_config(
        SIZES | {"rotary_emb_base": 500.0, "rotary_pct": 0.5, "rope_theta": 77.0, "partial_rotary_factor": 0.25}
    )
    assert both == named
