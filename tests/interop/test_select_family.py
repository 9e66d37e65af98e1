"""The family of an export, and messages if there is none."""

import tomllib

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.interop.export_support import is_plain
from groundup.interop.families import FAMILIES
from groundup.interop.families.select_family import canonical_config, lossy_fields, select_family
from groundup.interop.fold_scales import fold_scales
from groundup.interop.huggingface_model import check_huggingface
from groundup.model import build_model
from groundup.plan.derive import derive, resolved_model_config
from groundup.plan.init.init_recipe import ARCHITECTURES
from groundup.recipe import ModelConfig
from groundup.recipe.bundled_recipes import BUNDLED_RECIPES
from groundup.recipe.recipe_file import load_recipe

SMALL = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 3,
    "num_kv_heads": 1,
    "intermediate_size": 20,
}
MOE = {"num_experts": 3, "experts_per_token": 2}
GPT2 = {
    "norm": "layernorm",
    "norm_bias": True,
    "position_embedding": "learned",
    "attention_bias": "all",
    "feed_forward": "gelu_tanh",
    "feed_forward_bias": True,
    "tie_embeddings": True,
    "num_kv_heads": 3,
}


GEMMA3 = {
    "norm": "zero_centered_rmsnorm",
    "norm_placement": "sandwich",
    "qk_norm": True,
    "feed_forward": "geglu_tanh",
    "embedding_scale": 24**0.5,
    "attention_scale": 8**-0.5,
    "sliding_window": 8,
    "attention_pattern": ["local", "global"],
    "rope_scaling": {"method": "linear", "factor": 2.0},
}


def config(**knobs) -> ModelConfig:
    return ModelConfig(**{**SMALL, **knobs})


@pytest.mark.parametrize(
    ("knobs", "family"),
    [
        ({}, "llama"),
        ({"attention_bias": "all", "feed_forward_bias": True}, "llama"),
        ({"feed_forward": "geglu_tanh"}, "llama"),
        ({"rope_scaling": {"method": "llama3", "factor": 8, "original_context_length": 64}}, "llama"),
        ({"rope_scaling": {"method": "linear", "factor": 8, "original_context_length": 64}}, "llama"),
        ({"rope_scaling": {"method": "dynamic", "factor": 4, "original_context_length": 256}}, "llama"),
        ({"qk_norm": True}, "qwen3"),
        ({"attention_bias": "qkv"}, "qwen2"),
        ({"attention_bias": "qkv", "sliding_window": 8, "attention_pattern": ["global", "local"]}, "qwen2"),
        ({"sliding_window": 8, "attention_pattern": ["local"]}, "mistral"),
        ({"sliding_window": 1024, "attention_pattern": ["local"], "context_length": 1024}, "llama"),
        ({"hidden_size": 25, "head_dim": 8}, "mistral"),
        (GEMMA3 | {"rope_local_theta": 5.0}, "gemma3_text"),
        ({"moe": MOE}, "mixtral"),
        ({"moe": {**MOE, "load_balancing": "auxiliary_loss"}}, "mixtral"),
        ({"moe": {**MOE, "normalize_scores": False}, "qk_norm": True}, "qwen3_moe"),
        (GPT2, "gpt2"),
        ({"init_std": 0.1, "depth_scaled_init": False}, "llama"),
    ],
)
def test_selects_the_simplest_family(knobs, family: str):
    assert select_family(config(**knobs)).name == family


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"attention_softcap": 5.0}, r"as llama, the nearest family: attention_softcap must be None, is 5.0"),
        ({"feed_forward": "relu2", "attention_softcap": 5.0}, r"attention_softcap must be None, is 5.0"),
        ({"qk_norm": True, "norm": "layernorm"}, r"the nearest family: \w+ must be "),
        ({"moe": MOE, "attention_softcap": 5.0}, r"as mixtral, .* attention_softcap must be None"),
        ({"architecture": "encoder", "moe": MOE}, r"no Hugging Face family is an encoder with a mixture of experts"),
    ],
)
def test_error_names_the_nearest_family(knobs, message: str):
    with pytest.raises(UserError, match=message):
        select_family(config(**knobs))


def test_scaled_local_layers_are_lossy_in_gemma3():
    assert lossy_fields(config(**GEMMA3), FAMILIES["gemma3_text"]) == ["rope_local_theta must be 10000.0, is None"]
    plain_rope = config(**GEMMA3 | {"rope_scaling": None})
    assert lossy_fields(plain_rope, FAMILIES["gemma3_text"]) == []


def test_canonical_config_drops_only_unused_knobs():
    assert canonical_config(config()) == canonical_config(config(init_std=0.5))
    for knobs in ({"norm_eps": 1e-3}, {"rope_theta": 7.0}, {"tie_embeddings": True}, {"logit_scale": 2.0}):
        assert canonical_config(config()) != canonical_config(config(**knobs))


@pytest.mark.parametrize("norm", ["rmsnorm", "zero_centered_rmsnorm", "layernorm"])
@pytest.mark.parametrize("tied", [True, False])
def test_logit_scale_is_folded_into_the_final_norm(norm: str, tied: bool):
    knobs = {"norm": norm, "norm_bias": norm == "layernorm", "tie_embeddings": tied}
    model = build_model(config(**knobs, logit_scale=3.0, mup_base_width=12)).eval()
    torch.nn.init.normal_(model.get_submodule("final_norm").weight)
    folded, weights = fold_scales(model)
    assert (folded.logit_scale, folded.mup_base_width) == (1.0, None)
    same = build_model(folded).eval()
    same.load_state_dict(weights)
    tokens = torch.arange(12).view(2, 6)
    torch.testing.assert_close(same(tokens).logits, model(tokens).logits)
    assert not torch.equal(weights["final_norm.weight"], model.state_dict()["final_norm.weight"])


def test_tied_encoder_decoder_keeps_t5_scale():
    knobs = {
        "architecture": "encoder_decoder",
        "position_embedding": "relative",
        "attention_scale": 1.0,
        "num_kv_heads": 3,
        "feed_forward": "geglu_tanh",
        "tie_embeddings": True,
    }
    folded, _ = fold_scales(build_model(config(**knobs)))
    assert folded.logit_scale == 24**-0.5
    assert select_family(folded).name == "t5"


def test_families_are_listed_by_name():
    assert all(name == family.name for name, family in FAMILIES.items())


NO_MODEL = ("calculator", "corpus", "preferences", "sections")  # none of their own
RECIPES = [name for name in BUNDLED_RECIPES if name not in NO_MODEL]


@pytest.mark.parametrize("name", RECIPES)
def test_bundled_recipes_can_be_exported(name: str):
    recipe = derive(load_recipe(BUNDLED_RECIPES[name])).recipe
    assert check_huggingface(resolved_model_config(recipe), "float32")


@pytest.mark.parametrize(("goal", "family"), [("encoder", "modernbert"), ("translate", "t5")])
def test_models_that_init_writes_can_be_exported(goal: str, family: str):
    knobs = tomllib.loads(ARCHITECTURES[goal][0])
    assert check_huggingface(config(**knobs, num_kv_heads=3), "float32").name == family


@pytest.mark.parametrize(
    "knobs", [{}, {"qk_norm": True}, {"tie_embeddings": True}, {"num_kv_heads": 1, "head_dim": 24}]
)
def test_plain_models_need_no_family_looked_up(knobs):
    config = ModelConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, **knobs)
    assert is_plain(config)
    assert check_huggingface(config, "float32").name in ("llama", "qwen3")
    assert not is_plain(config.model_copy(update={"norm_placement": "sandwich"}))
