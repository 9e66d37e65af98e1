"""Compiled training: equal to eager within rounding, one compilation, and when it is used."""

import json
import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from groundup.artifacts.machine import Machine
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train import NEXT_TOKEN, NativeEngine, run_training_loop
from groundup.train.compilation import should_compile

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


class RandomTokens:
    """Six rows of tokens, of which five go through the model at a time: the last pass has another size."""

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(64, (6, 16), generator=torch.Generator().manual_seed(step))
        return {"tokens": tokens, "labels": tokens}


def losses(folder, compile: str, micro_batch: int | None, layers_every: int | None = None) -> list[float]:
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, context_length=16))
    settings = TrainConfig(steps=8, learning_rate=0.01, warmup_steps=2, evaluate_every=8, precision="float32")
    machine = Machine(
        device="cpu",
        compile=compile,
        micro_batch_size=micro_batch,
        log_layer_stats_every=layers_every,
        cache_dir=folder / "cache",
    )
    engine = NativeEngine(model, NEXT_TOKEN, settings, machine)
    return [
        record["loss"]
        for record in run_training_loop(engine, RandomTokens(), settings, folder / "run", machine).records
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own modules
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch looks at it itself
@pytest.mark.skipif(not shutil.which("g++"), reason="nothing to compile with")
@pytest.mark.parametrize("micro_batch", [None, pytest.param(5, marks=pytest.mark.slow)])
def test_compiled_losses_equal_eager_losses(tmp_path, micro_batch):
    torch.compiler.reset()
    counters.clear()
    compiled = losses(tmp_path / "compiled", "always", micro_batch)
    graphs = counters["stats"]["unique_graphs"]
    torch.compiler.reset()
    # One for all blocks and one for the loss, of each size; looking for the micro-batch compiles nothing.
    assert graphs == (2 if micro_batch is None else 4)
    eager = losses(tmp_path / "eager", "never", micro_batch)
    assert eager[-1] != eager[0]
    assert compiled == pytest.approx(eager, rel=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.skipif(not shutil.which("g++"), reason="nothing to compile with")
def test_layer_stats_of_compiled_blocks_cause_no_recompilation(tmp_path):
    torch.compiler.reset()
    counters.clear()
    losses(tmp_path, "always", None, layers_every=3)
    assert counters["stats"]["unique_graphs"] == 2, "layer statistics compile nothing"
    lines = (tmp_path / "run" / "layers.jsonl").read_text().splitlines()
    found = {record["step"]: record["activation"] for record in map(json.loads, lines)}
    assert list(found) == [0, 3, 6]
    assert all(activations.keys() == {"blocks.0", "blocks.1"} for activations in found.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.skipif(not shutil.which("g++"), reason="nothing to compile with")
@pytest.mark.parametrize(
    ("precision", "checkpointing"),
    [
        ("float32", "none"),
        ("float32", "full"),
        pytest.param("float32", "selective", marks=pytest.mark.slow),
        pytest.param("float8", "none", marks=pytest.mark.slow),
    ],
)
def test_one_compilation_serves_any_depth(monkeypatch, precision, checkpointing):
    """Ten blocks, where PyTorch gives up after eight compilations."""
    monkeypatch.setattr("groundup.train.mixed_precision.require_float8", lambda device: None)
    torch.compiler.reset()
    counters.clear()
    model = build_model(ModelConfig(vocab_size=64, hidden_size=32, num_layers=10, num_heads=2, context_length=16))
    settings = TrainConfig(steps=8, learning_rate=0.01, warmup_steps=2, evaluate_every=8, precision=precision)
    machine = Machine(device="cpu", compile="always", activation_checkpointing=checkpointing, micro_batch_size=6)
    engine = NativeEngine(model, NEXT_TOKEN, settings, machine)
    engine.forward_backward(RandomTokens().batch(0))
    assert counters["stats"]["unique_graphs"] == 2, "a block, and the loss"


def test_should_compile_by_flops():
    cpu = torch.device("cpu")
    assert not should_compile(Machine(compile="auto"), cpu, 1e13)
    assert should_compile(Machine(compile="auto"), cpu, 1e15)
    assert not should_compile(Machine(compile="never"), cpu, 1e15)
    assert should_compile(Machine(compile="always"), cpu, 0)
