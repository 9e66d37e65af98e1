"""Checks of recipes against training engines."""

import pytest

from groundup.artifacts.errors import UserError
from groundup.plan.checks import engine_support
from groundup.plan.layout.parallel_layout import check_layout, complete_layout
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.machine_config import MachineConfig
from groundup.recipe.model_config import MoEConfig
from groundup.recipe.train_config import TrainConfig

SHAPE = {"vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}

EXPERTS = MoEConfig(num_experts=4, experts_per_token=2)
SIGMOID = EXPERTS.model_copy(update={"router_activation": "sigmoid"})


def refusal(engine, layout=None, model=None, devices=2, **train):
    wanted = complete_layout(LayoutConfig(**(layout or {})), devices)
    with pytest.raises(UserError) as caught:
        check_layout(wanted, ModelConfig(**(SHAPE | (model or {}))), TrainConfig(engine=engine, **train))
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize(
    ("layout", "model", "train", "words"),
    [
        ({"tensor": 2}, {}, {}, r"layout\.tensor = 2 with train\.engine = 'deepspeed': ZeRO has the shard axis only"),
        ({"pipeline": 2}, {}, {}, r"layout\.pipeline = 2"),
        ({"context": 2}, {}, {}, r"layout\.context = 2"),
        ({"replicate": 2}, {}, {}, r"layout\.replicate = 2"),
        ({"zero_stage": 2, "cpu_offload": "all"}, {}, {}, r"offload = 'all' with zero_stage = 2"),
        ({}, {}, {"optimizer": "muon"}, r"train\.optimizer = 'muon'"),
        ({}, {}, {"precision": "float8"}, r"train\.precision = 'float8'"),
        ({}, {}, {"optimizer_state_dtype": "float8"}, r"train\.optimizer_state_dtype = 'float8'"),
        ({}, {}, {"weight_averaging": "ema"}, r"train\.weight_averaging = 'ema'"),
    ],
)  # fmt: skip
def test_deepspeed_unsupported(layout, model, train, words):
    import re

    assert re.search(words, refusal("deepspeed", layout, model, **train))


@pytest.mark.parametrize(
    ("layout", "model", "train", "words"),
    [
        ({"pipeline": 2, "pipeline_schedule": "gpipe"}, {}, {}, "pipeline_schedule = 'gpipe'"),
        ({"pipeline": 2}, {"num_layers": 3}, {}, "pipeline must divide num_layers"),
        ({"pipeline": 2}, {"tie_embeddings": True}, {}, "model.tie_embeddings"),
        ({"context": 2}, {}, {}, "machine.layout.context = 2 with train.engine = 'megatron': Megatron-Core has it in the"),
        ({"zero_stage": 1}, {}, {}, "machine.layout.zero_stage = 1"),
        ({"cpu_offload": "all"}, {}, {}, "machine.layout.cpu_offload = 'all'"),
        ({"tensor": 4}, {}, {}, "model.num_kv_heads = 2"),
        ({}, {"architecture": "encoder"}, {}, "model.architecture = encoder"),
        ({}, {"architecture": "encoder_decoder"}, {}, "model.architecture = encoder_decoder"),
        ({"tensor": 2}, {"moe": EXPERTS}, {}, "machine.layout.tensor = 2 with model.moe"),
        ({}, {"moe": EXPERTS.model_copy(update={"load_balancing": "bias"})}, {}, "load_balancing = 'bias'"),
        ({}, {"moe": EXPERTS.model_copy(update={"experts_per_token": 1})}, {}, "normalize_scores = True"),
        ({}, {"moe": SIGMOID.model_copy(update={"normalize_scores": False})}, {}, "normalize_scores = False"),
        ({}, {"moe": EXPERTS.model_copy(update={"load_balancing": "auxiliary_loss"})}, {}, "load_balancing = 'auxiliary_loss'"),
        ({}, {"norm_placement": "sandwich"}, {}, "model.norm_placement = sandwich"),
        ({}, {"norm": "zero_centered_rmsnorm"}, {}, "model.norm = zero_centered_rmsnorm"),
        ({}, {"norm": "layernorm"}, {}, "without norm_bias"),
        ({}, {"position_embedding": "relative"}, {}, "model.position_embedding = relative"),
        ({}, {"sliding_window": 4, "attention_pattern": ("local",)}, {}, "model.attention_pattern"),
        ({}, {"attention_softcap": 4.0}, {}, "model.attention_softcap = 4.0"),
        ({}, {"attention_bias": "all"}, {}, "model.attention_bias = all"),
        ({}, {"feed_forward_bias": True}, {}, "feed_forward_bias = True"),
        ({}, {}, {"document_mask": True}, "train.document_mask"),
        ({}, {}, {"z_loss": 1e-4}, "train.z_loss = 0.0001"),
        ({}, {}, {"optimizer": "muon"}, "train.optimizer = 'muon'"),
    ],
)  # fmt: skip
def test_megatron_unsupported(layout, model, train, words):
    devices = 4 if layout.get("tensor") == 4 else 2
    assert words in refusal("megatron", layout, model, devices, **train)


def test_megatron_shards_its_optimizer_over_all_data_ranks_or_none():
    assert "replicate = 2 and shard = 2" in refusal("megatron", {"replicate": 2, "shard": 2}, devices=4)


def test_zero_stage_and_optimizer_offload_need_deepspeed():
    assert "machine.layout.zero_stage = 2 with train.engine = 'native'" in refusal("native", {"zero_stage": 2})
    assert "machine.layout.cpu_offload = 'optimizer'" in refusal("native", {"cpu_offload": "optimizer"})


@pytest.mark.parametrize("engine", ["deepspeed", "megatron"])
def test_supported_recipes_pass(engine):
    layouts = {
        "deepspeed": [{}, {"zero_stage": 1, "cpu_offload": "optimizer"}, {"zero_stage": 3, "cpu_offload": "all"}],
        "megatron": [{}, {"tensor": 2}, {"replicate": 2}, {"pipeline": 2}],
    }
    for expert in (1, 2) if engine == "megatron" else (1,):
        layout = complete_layout(LayoutConfig(expert=expert), 2)
        check_layout(layout, ModelConfig(**SHAPE, moe=EXPERTS), TrainConfig(engine=engine))
    for layout in layouts[engine]:
        check_layout(complete_layout(LayoutConfig(**layout), 2), ModelConfig(**SHAPE), TrainConfig(engine=engine))
    if engine == "deepspeed":  # which shards any transformer
        other = ModelConfig(**SHAPE, architecture="encoder")
        check_layout(complete_layout(LayoutConfig(), 2), other, TrainConfig(engine=engine))


def test_compile_needs_the_native_engine():
    with pytest.raises(UserError, match=r"machine\.compile = 'always' with train\.engine = 'deepspeed'"):
        engine_support.check_engine_machine(MachineConfig(compile="always"), TrainConfig(engine="deepspeed"))
    engine_support.check_engine_machine(MachineConfig(compile="always"), TrainConfig())


@pytest.mark.parametrize(("engine", "name"), [("deepspeed", "DeepSpeed"), ("megatron", "Megatron-Core")])
def test_missing_package_error_has_the_installation(engine, name, monkeypatch):
    monkeypatch.setattr(engine_support, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=rf"train\.engine = '{engine}': {name} is not installed") as caught:
        engine_support.check_engine_installed(engine)
    assert f"groundup[{engine}]" in (caught.value.hint or "")
    engine_support.check_engine_installed("native")
