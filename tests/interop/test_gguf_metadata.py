"""GGUF metadata: entries that change the model are followed or refused by name."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.interop.families import FAMILIES
from groundup.interop.families.select_family import config_differences
from groundup.interop.fold_scales import fold_config
from groundup.interop.gguf import export_gguf, load_gguf
from groundup.interop.gguf.architectures import GGUF_ARCHITECTURES
from groundup.interop.gguf.gguf_metadata import HEADLESS, read_metadata, select_architecture, write_metadata
from groundup.interop.gguf.gguf_rope import rope_factors
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
from gguf_models import MODELS
from gguf_models import SHAPE as BASE

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 32,
    "context_length": 64,
}
GEMMA: dict[str, Any] = {
    "norm": "zero_centered_rmsnorm",
    "feed_forward": "geglu_tanh",
    "embedding_scale": 32**0.5,
    "tie_embeddings": True,
}


def metadata(**entries: Any) -> dict[str, Any]:
    """Those of a small Llama, and `entries`; None removes one."""
    config = ModelConfig(**SHAPE)
    changed = {f"llama.{name.replace('__', '.')}": value for name, value in entries.items()}
    return {
        key: value
        for key, value in (write_metadata(select_architecture(config), config) | changed).items()
        if value is not None
    }


def read(**entries: Any) -> ModelConfig:
    return read_metadata(metadata(**entries), ["output.weight"])


def test_architectures_name_families_that_exist():
    for architecture in GGUF_ARCHITECTURES.values():
        assert set(architecture.families) <= set(FAMILIES)


def test_a_factor_without_a_type_is_linear():
    assert (
        read(rope__scaling__factor=2.0).rope_scaling
        == read(rope__scaling__type="linear", rope__scaling__factor=2.0).rope_scaling
    )
    assert read(rope__scale_linear=2.0).rope_scaling == read(rope__scaling__factor=2.0).rope_scaling
    assert read(rope__scaling__factor=2.0, rope__scaling__type="none").rope_scaling is None


def test_the_attention_factor_of_yarn_is_read_and_written():
    yarn = {"method": "yarn", "factor": 4.0, "original_context_length": 16, "attention_factor": 1.25}
    config = ModelConfig(**SHAPE, rope_scaling=yarn)
    written = write_metadata(select_architecture(config), config)
    assert read_metadata(written, ["output.weight"]).rope_scaling == config.rope_scaling


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"context_length": None}, "llama.context_length is missing"),
        ({"attention__layer_norm_rms_epsilon": None}, "llama.attention.layer_norm_rms_epsilon is missing"),
        ({"attention__causal": False}, "llama.attention.causal = False is not supported, expected True"),
        ({"rope__scaling__attn_factor": 2.0}, "llama.rope.scaling.attn_factor = 2.0 is not supported"),
        ({"rope__scaling__alpha": 1000.0}, "llama.rope.scaling.alpha = 1000.0 is not supported"),
        ({"rope__scaling__type": "longrope", "rope__scaling__factor": 2.0}, "'longrope' is not supported"),
        ({"rope__dimension_count": 8}, "llama.rope.dimension_count = 8 is not supported, expected 16"),
        ({"attention__value_length": 8}, "llama.attention.value_length = 8 is not supported, expected 16"),
        ({"attention__head_count_kv": [1, 2]}, r"head_count_kv = \[1, 2\], expected one value for all layers"),
        ({"feed_forward_length": [32, 64]}, r"feed_forward_length = \[32, 64\], expected one value for all layers"),
        ({"attention__sliding_window": 16}, "attention.sliding_window = 16 is not supported, expected none or"),
        ({"logit_scale": 0.5}, "llama.logit_scale = 0.5 is not supported"),
        ({"invented__key": 3}, "llama.invented.key = 3 is not supported: its effect on the model is unknown"),
    ],
)
def test_an_entry_with_an_effect_is_refused_by_name(entries: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        read(**entries)


@pytest.mark.parametrize(
    "entries",
    [
        {"tensor_data_layout": "Meta AI original pth"},
        {"rope__scaling__finetuned": False},
        {"rope__scaling__attn_factor": 1.0},
        {"expert_count": 0, "expert_used_count": 0},
        {"attention__head_count_kv": [2, 2]},
        {"attention__sliding_window": 64},
        {"pooling_type": 3},
    ],
)
def test_an_entry_without_effect_is_accepted(entries: dict[str, Any]):
    assert read(**entries) == read()


def test_llama3_factors_beside_a_scaling_are_refused():
    scaled = ModelConfig(**SHAPE, rope_scaling={"method": "llama3", "factor": 8.0, "original_context_length": 16})
    factors = rope_factors(scaled)
    assert factors is not None
    assert torch.isfinite(factors).all()
    with pytest.raises(UserError, match=r"beside rope_freqs\.weight is not supported"):
        read_metadata(metadata(rope__scaling__factor=2.0), ["output.weight"], factors)


@pytest.mark.parametrize("name", MODELS)
def test_metadata_and_names_keep_the_model(name: str, tmp_path: Path):
    """What `test_interop_llama_cpp.py` compares with llama.cpp, here read again."""
    model = build_model(ModelConfig(**{**BASE, **MODELS[name]}))
    opened, _ = load_gguf(export_gguf(model, make_tokenizer(), tmp_path / "m.gguf"))
    assert not config_differences(select_form(model.config), opened.config)


def select_form(config: ModelConfig) -> ModelConfig:
    """As a GGUF file has it: scales folded, an encoder without its head."""
    config = fold_config(config, family_scale=False)
    return config.model_copy(update=HEADLESS) if config.architecture == "encoder" else config


def make_tokenizer() -> Tokenizer:
    return train_bpe(["the quick brown fox jumps over the lazy dog"] * 9, 270)


def test_every_architecture_has_a_model():
    found = {select_architecture(ModelConfig(**{**BASE, **knobs})).name for knobs in MODELS.values()}
    assert found == set(GGUF_ARCHITECTURES) - {"seed_oss", "ernie4_5"}  # only read: their models are written as Llama


def test_heads_of_a_free_width_are_written_as_llama():
    """llama.cpp derives the width of Qwen2's heads."""
    assert select_architecture(ModelConfig(**SHAPE, attention_bias="qkv")).name == "qwen2"
    assert select_architecture(ModelConfig(**SHAPE, attention_bias="qkv", head_dim=64)).name == "llama"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {**GEMMA, "attention_bias": "all"},
            r"GGUF \(gemma\): tensor blk.0.attn_output.bias: llama.cpp has no such bias",
        ),
        ({**GEMMA, "tie_embeddings": False}, r"GGUF \(gemma\): tie_embeddings must be True, is False"),
        (
            {**GEMMA, "norm_placement": "sandwich", "attention_scale": 0.5, "attention_softcap": 50.0},
            r"GGUF \(gemma2\): .*attention_scale must be",
        ),
    ],
)
def test_what_llama_cpp_derives_otherwise_is_refused(knobs: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        select_architecture(ModelConfig(**{**SHAPE, **knobs}))
