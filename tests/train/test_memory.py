"""Memory savings against their references: stochastic rounding, low-memory AdamW, float8, activation checkpointing, weight
averages, micro-batches.
"""

import resource
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.model import build_model
from groundup.model.moe import Router
from groundup.parallel.activation_checkpointing import apply_activation_checkpointing
from groundup.recipe import ModelConfig
from groundup.recipe.model_config import MoEConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train import NEXT_TOKEN, NativeEngine, micro_batch
from groundup.train.engines import native_engine
from groundup.train.low_memory_adamw import LowMemoryAdamW, dequantize_moment, quantize_moment, stochastic_round
from groundup.train.mixed_precision import convert_to_float8_training, require_float8
from groundup.train.weight_average import WeightAverage

CONFIG = ModelConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, context_length=32)


def decoder(seed=0):
    torch.manual_seed(seed)
    return build_model(CONFIG)


def tokens(seed=0, rows=4):
    drawn = torch.randint(0, 64, (rows, 32), generator=torch.Generator().manual_seed(seed))
    return {"tokens": drawn, "labels": drawn}


def settings(**knobs):
    given = {"steps": 10, "learning_rate": 0.01, "warmup_steps": 1, "evaluate_every": 5, "precision": "float32"}
    return TrainConfig(**(given | knobs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_stochastic_rounding_is_unbiased_and_gives_a_neighbour(dtype):
    torch.manual_seed(0)
    x = torch.tensor([1.0003, -0.71, 3.1415, -200.3, 0.0, 1.0])
    rounded = torch.stack([stochastic_round(x, dtype).float() for _ in range(20_000)])
    spacing = 2.0 ** (x.abs().clamp(min=1e-9).log2().floor() - {torch.bfloat16: 7}.get(dtype, 3))
    assert (((rounded - x) / spacing).abs() < 1).all()
    assert (((rounded.mean(dim=0) - x) / spacing).abs() < 0.02).all()
    assert (rounded[:, -2:] == x[-2:]).all(), "what can be written is written"


def test_small_steps_need_stochastic_rounding():
    found = {}
    for by_chance in (False, True):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        optimizer = LowMemoryAdamW([weight], lr=1e-4, betas=(0.9, 0.95), stochastic_rounding=by_chance)
        for _ in range(50):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        found[by_chance] = weight.float().mean().item()
    assert found[False] == 1.0
    assert found[True] == pytest.approx(1 - 50 * 1e-4, abs=5e-4)


def test_low_memory_adamw_with_float32_equals_adamw():
    low_memory, reference = (nn.Parameter(torch.linspace(-1, 1, 300).clone()) for _ in range(2))
    options = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    pair = LowMemoryAdamW([low_memory], **options), torch.optim.AdamW([reference], **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        gradient = torch.randn(300, generator=generator)
        for weight, optimizer in zip((low_memory, reference), pair, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(low_memory, reference, rtol=1e-5, atol=1e-6)


def test_float8_state_takes_two_bytes_a_weight_and_follows_adamw():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(64, 64, generator=generator)
    losses = {}
    for name, make in {
        "lean": lambda w: LowMemoryAdamW([w], lr=0.03, betas=(0.9, 0.95), float8_state=True),
        "exact": lambda w: torch.optim.AdamW([w], lr=0.03, betas=(0.9, 0.95), weight_decay=0.0),
    }.items():
        torch.manual_seed(1)
        weight = nn.Parameter(torch.zeros(64, 64))
        optimizer = make(weight)
        for step in range(150):
            x = torch.randn(32, 64, generator=torch.Generator().manual_seed(step))
            loss = F.mse_loss(x @ weight, x @ target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[name] = loss.item()
        if name == "lean":
            state = optimizer.state[weight]
            size = sum(value.numel() * value.element_size() for value in state.values())
            assert size / weight.numel() < 2.05
    assert losses["lean"] == pytest.approx(losses["exact"], rel=0.2)
    assert losses["exact"] < 10


def test_float8_moments_decay_by_stochastic_rounding():
    torch.manual_seed(0)
    value = torch.full((256,), 0.7)
    for _ in range(40):
        value = dequantize_moment(*quantize_moment(torch.cat((value[:255] * 0.975, torch.ones(1)))), torch.Size([256]))
    assert value[:255].mean().item() == pytest.approx(0.7 * 0.975**40, rel=0.1)


def test_float8_second_moment_stays_above_zero():
    root = torch.zeros(256)
    root[0], root[1] = 1.0, 1e-9
    assert (dequantize_moment(*quantize_moment(root, minimum=2.0**-9), torch.Size([256])) > 0).all()


@pytest.mark.parametrize("bias", [False, True])
def test_float8_products_are_close_to_float32(bias):
    torch.manual_seed(0)
    exact, rough = nn.Linear(64, 48, bias=bias), nn.Linear(64, 48, bias=bias)
    rough.load_state_dict(exact.state_dict())
    assert convert_to_float8_training(rough) == 1
    x = torch.randn(2, 16, 64)
    for layer in (exact, rough):
        leaf = x.clone().requires_grad_()
        layer.input = leaf
        layer.output = layer(leaf)
        (layer.output.float() * torch.linspace(-1, 1, 48)).sum().backward()
    for low_memory, reference in (
        (rough.output, exact.output),
        (rough.input.grad, exact.input.grad),
        (rough.weight.grad, exact.weight.grad),
    ):
        error = (low_memory.float() - reference).norm() / reference.norm()
        assert 1e-4 < error < 0.08


def test_moe_router_is_not_converted_to_float8():
    moe = {"num_experts": 16, "experts_per_token": 2, "intermediate_size": 32}
    model = build_model(CONFIG.model_copy(update={"moe": MoEConfig(**moe)}))
    routers = [part for part in model.modules() if isinstance(part, Router)]
    assert convert_to_float8_training(model) > 0
    assert routers
    assert all(type(router) is Router for router in routers)


@pytest.mark.slow
def test_decoder_trains_in_float8(monkeypatch):
    monkeypatch.setattr("groundup.train.mixed_precision.require_float8", lambda device: None)
    losses = {}
    for precision in ("bfloat16", "float8"):
        engine = NativeEngine(decoder(), NEXT_TOKEN, settings(precision=precision), Machine())
        for _ in range(15):
            losses[precision] = engine.forward_backward(tokens())
            engine.optimizer_step(1.0)
    assert losses["bfloat16"] < 2.0
    assert losses["float8"] == pytest.approx(losses["bfloat16"], rel=0.2)


def test_float8_without_hardware_support_is_refused():
    with pytest.raises(UserError, match="float8: needs a CUDA device"):
        require_float8(torch.device("cpu"))


@pytest.mark.parametrize("kind", ["selective", "full"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activation_checkpointing_saves_memory_and_changes_no_bit(kind, precision):
    plain, checkpointed = (
        NativeEngine(decoder(), NEXT_TOKEN, settings(precision=precision), Machine(activation_checkpointing=how))
        for how in ("none", kind)
    )
    for step in range(3):
        assert plain.forward_backward(tokens(step)) == checkpointed.forward_backward(tokens(step))
        assert plain.optimizer_step(1.0) == checkpointed.optimizer_step(1.0)
    names = plain.module.state_dict().keys()
    assert names == checkpointed.module.state_dict().keys()
    for a, b in zip(plain.parameters, checkpointed.parameters, strict=True):
        assert torch.equal(a, b)


def test_full_activation_checkpointing_halves_activation_bytes():
    sizes = {}
    for kind in ("none", "selective", "full"):
        model = decoder()
        apply_activation_checkpointing(model, kind)
        sizes[kind] = micro_batch.activation_bytes(model, NEXT_TOKEN, tokens())
    assert sizes["full"] < sizes["none"] / 2


def test_activation_bytes_of_a_forward_pass():
    layer = nn.Linear(8, 8, bias=False)

    class Objective:
        loss = staticmethod(lambda model, batch: torch.tanh(model(batch["x"])).sum())

    batch = {"x": torch.ones(4, 8)}
    assert micro_batch.activation_bytes(layer, Objective, batch) == 2 * 4 * 8 * 4  # the input, and what tanh gave


def test_activation_bytes_leaks_no_memory():
    weights = nn.ParameterList([torch.ones(2**20)])

    class Objective:
        loss = staticmethod(lambda model, batch: torch.tanh(model[0] * batch["x"]).sum())

    def allocated_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    batch = {"x": torch.ones(1)}
    micro_batch.activation_bytes(weights, Objective, batch)
    before = allocated_bytes()
    for _ in range(40):
        assert micro_batch.activation_bytes(weights, Objective, batch) > 4 * 2**20
    assert allocated_bytes() - before < 20 * 4 * 2**20, "of 40 results of tanh not even half were left"


def test_micro_batch_fits_the_free_memory(monkeypatch):
    one = micro_batch.activation_bytes(decoder(), NEXT_TOKEN, tokens(rows=1))
    later = 3 * sum(weight.nbytes for weight in decoder().parameters())
    for free, expected in ((11 * one, 8), (17 * one, 8), (6 * one, 4), (0, 1)):
        monkeypatch.setattr(micro_batch, "free_memory", lambda device, free=free: later + free)
        size = micro_batch.choose_micro_batch(decoder(), NEXT_TOKEN, tokens(rows=16), torch.device("cpu"))
        assert size == expected
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: None)
    assert micro_batch.choose_micro_batch(decoder(), NEXT_TOKEN, tokens(rows=16), torch.device("cpu")) == 16


def test_out_of_memory_halves_the_micro_batch(monkeypatch):
    engine = NativeEngine(decoder(), NEXT_TOKEN, settings(), Machine(micro_batch_size=4))
    unsplit = NativeEngine(decoder(), NEXT_TOKEN, settings(), Machine(micro_batch_size=1))
    forward = NEXT_TOKEN.loss

    def narrow(model, batch):
        if len(batch["tokens"]) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(model, batch)

    monkeypatch.setattr(engine, "objective", type(NEXT_TOKEN)(narrow, NEXT_TOKEN.count))
    assert engine.forward_backward(tokens()) == unsplit.forward_backward(tokens())
    assert engine.micro_batch_size == 1
    assert engine.optimizer_step(1.0) == unsplit.optimizer_step(1.0)

    def none(model, batch):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(engine, "objective", type(NEXT_TOKEN)(none, NEXT_TOKEN.count))
    with pytest.raises(UserError, match="one sequence needs more memory"):
        engine.forward_backward(tokens())


def test_micro_batches_follow_the_length_of_their_batch(tmp_path, monkeypatch):
    """Chosen for the first batch; what is given, stays. A resumed run splits alike, and an error is of the size that failed."""
    monkeypatch.setattr(native_engine, "choose_micro_batch", lambda *_: 2)

    def split(engine, lengths):
        sizes = []
        forward = type(engine).accumulate

        def accumulate(batch, size, *rest):
            sizes.append(size)
            return forward(engine, batch, size, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(engine, "accumulate", accumulate)
            for length in lengths:
                engine.forward_backward({name: rows[:, :length] for name, rows in tokens(rows=8).items()})
        return sizes

    chosen = NativeEngine(decoder(), NEXT_TOKEN, settings(), Machine())
    given = NativeEngine(decoder(), NEXT_TOKEN, settings(), Machine(micro_batch_size=2))
    resumed = NativeEngine(decoder(), NEXT_TOKEN, settings(), Machine())
    assert split(chosen, [16, 8, 2, 32]) == [2, 4, 8, 1]
    assert split(given, [16, 8, 2]) == [2, 2, 2]
    chosen.optimizer_step(1.0)
    chosen.save(tmp_path)()
    resumed.load(tmp_path)
    assert split(resumed, [8]) == [4]

    def narrow(model, batch):
        if len(batch["tokens"]) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return NEXT_TOKEN.loss(model, batch)

    monkeypatch.setattr(chosen, "objective", type(NEXT_TOKEN)(narrow, NEXT_TOKEN.count))
    assert split(chosen, [2]) == [8, 4, 2, 1]


def test_weight_averages_equal_their_definition():
    weight = torch.zeros(3)
    tail, ema = (WeightAverage({"w": weight}, kind, decay=0.5, start_update=2) for kind in ("tail", "ema"))
    expected = 0.0
    for value in (10.0, 20.0, 1.0, 2.0, 6.0):
        weight.fill_(value)
        tail.update()
        ema.update()
    torch.testing.assert_close(tail.tensors["w"], torch.full((3,), 3.0))
    expected = 0.0
    for number, value in enumerate((1.0, 2.0, 6.0), start=1):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.tensors["w"], torch.full((3,), expected))
    with tail.applied():
        assert weight.tolist() == [3.0] * 3
    assert weight.tolist() == [6.0] * 3


@pytest.mark.parametrize("kind", ["ema", "tail"])
def test_evaluation_and_final_model_have_averaged_weights(kind):
    engine = NativeEngine(decoder(), NEXT_TOKEN, settings(weight_averaging=kind, tail_fraction=0.5), Machine())
    for step in range(10):
        engine.forward_backward(tokens(step))
        engine.optimizer_step(1.0)
    weights = dict(engine.module.named_parameters())
    last = {name: weight.detach().clone() for name, weight in weights.items()}
    with engine.eval_model() as model:
        averaged = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    assert all(torch.equal(weights[name], last[name]) for name in last)
    assert not any(torch.equal(averaged[name], last[name]) for name in last)
    trained = dict(engine.finalize().named_parameters())
    assert all(torch.equal(averaged[name], trained[name]) for name in averaged)


def test_muon_with_bfloat16_weights_is_refused():
    with pytest.raises(UserError, match="muon needs float32 weights"):
        NativeEngine(decoder(), NEXT_TOKEN, settings(optimizer="muon", precision="bfloat16-pure"), Machine())
