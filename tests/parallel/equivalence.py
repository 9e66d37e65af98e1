"""The same training run in one process and in any layout: losses, gradient norms, and all gradients of the first step."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from groundup.artifacts.machine import Machine
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.engines.native_engine import NativeEngine
from groundup.train.engines.parallel_engine import ParallelEngine
from groundup.train.objectives import NEXT_TOKEN, UNSHIFTED, with_z_loss

STEPS = 5
TOY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "context_length": 32,
}
MOE = {"num_experts": 8, "experts_per_token": 2, "num_shared_experts": 1, "num_dense_layers": 1}
GROUPS = {
    "num_expert_groups": 4, "experts_groups_per_token": 2, "router_activation": "sigmoid", "routed_scale": 2.5,
    "shared_expert_gate": True, "dense_layers": (2,),
}  # fmt: skip
GEMMA = {
    "norm": "zero_centered_rmsnorm", "norm_placement": "sandwich", "feed_forward": "geglu_tanh",
    "attention_softcap": 4.0, "logit_softcap": 3.0, "sliding_window": 5, "attention_pattern": ("local", "global"),
    "tie_embeddings": True, "qk_norm": True,
}  # fmt: skip
GPT2 = {
    "position_embedding": "learned", "norm": "layernorm", "norm_bias": True, "attention_bias": "all", "num_kv_heads": 4,
    "feed_forward": "gelu_tanh", "feed_forward_bias": True, "tie_embeddings": True,
}  # fmt: skip
BERT = GPT2 | {"architecture": "encoder", "norm_placement": "post", "embedding_norm": True, "num_token_types": 2}
T5 = {
    "architecture": "encoder_decoder", "position_embedding": "relative", "attention_scale": 1.0, "relative_buckets": 8,
    "relative_max_distance": 12, "num_layers": 2, "num_kv_heads": 4,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "deep": {"num_layers": 8},
    "odd": {"num_heads": 8, "num_kv_heads": 1, "head_dim": 4, "qk_norm": True, "attention_bias": "qkv"},
    "gemma": GEMMA,
    "gpt2": GPT2,
    "prime": {"vocab_size": 1009},
    "prime-tied": GPT2 | {"vocab_size": 1009},
    "gptj": {
        "norm_placement": "parallel",
        "shared_norm": True,
        "rotary_dim": 4,
        "feed_forward": "gelu_tanh",
        "feed_forward_bias": True,
        "head_bias": True,
        "norm": "layernorm",
        "norm_bias": True,
    },
    "bloom": GPT2
    | {"position_embedding": "alibi", "embedding_norm": True, "keep_first_norm": True, "tie_embeddings": False},
    "qwen": {"qk_norm": True, "attention_bias": "qkv", "tie_embeddings": True},
    "bert": BERT,
    "bert-deep": BERT | {"num_layers": 8, "tie_embeddings": False},
    "t5": T5,
    "moe": {"moe": MOE | {"load_balancing": "auxiliary_loss", "load_balancing_rate": 0.1}},
    "moe-deep": {"num_layers": 8, "moe": MOE | {"load_balancing": "auxiliary_loss", "load_balancing_rate": 0.1}},
    "moe-unbalanced": {"num_layers": 8, "moe": MOE},
    "moe-bias": {"moe": MOE | GROUPS | {"load_balancing": "bias", "load_balancing_rate": 0.1}},
}


def settings(**knobs: Any) -> TrainConfig:
    fixed = {"learning_rate": 1e-3, "warmup_steps": 1, "steps": STEPS, "precision": "float32", "max_grad_norm": 0.5}
    sizes = {"sequence_length": 32, "batch_tokens": 16 * 32, "evaluate_every": 100}
    return TrainConfig(**(fixed | sizes | knobs))


def batch(name: str, step: int) -> dict[str, Tensor]:
    """Sixteen sequences with unevenly many unpredicted positions."""
    draw = torch.Generator().manual_seed(100 + step)
    tokens = torch.randint(0, config_of(name).vocab_size, (16, 32), generator=draw)
    labels = tokens.clone()
    unpredicted = torch.rand(16, 32, generator=draw) < torch.linspace(0.0, 0.6, 16)[:, None]
    labels[unpredicted] = -100
    if name in ("documents", "packed"):
        return {"tokens": tokens, "labels": labels, "document_ids": torch.arange(32).expand(16, 32) // 11}
    return {"tokens": tokens, "labels": labels}


def objective(config: ModelConfig, z_loss: float = 0.0) -> Any:
    return with_z_loss(NEXT_TOKEN if config.architecture == "decoder" else UNSHIFTED, z_loss)


def config_of(name: str) -> ModelConfig:
    name = {"documents": "gemma", "packed": "llama"}.get(name, name)
    return ModelConfig(**(TOY | MODELS[name]))


def build_toy_model(name: str) -> nn.Module:
    torch.manual_seed(7)
    model = build_model(config_of(name))
    with torch.no_grad():  # so that no gradient is tiny
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return model


@cache
def run_single_process(name: str, train: TrainConfig) -> dict[str, Any]:
    config = config_of(name)
    machine = Machine(micro_batch_size=16)
    return run_steps(NativeEngine(build_toy_model(name), objective(config, train.z_loss), train, machine), name)


def run_steps(engine: Any, name: str, steps: range = range(STEPS)) -> dict[str, Any]:
    losses, norms, gradients = [], [], {}
    for step in steps:
        rows = 16 // engine.data_world_size
        begin = engine.data_rank * rows
        part = {key: value[begin : begin + rows] for key, value in batch(name, step).items()}
        losses.append(engine.forward_backward(part))
        if step == 0:
            gradients = gradients_of(engine)
        norms.append(engine.optimizer_step(1.0))
    return {"losses": losses, "norms": norms, "gradients": gradients}


def gradients_of(engine: Any) -> dict[str, Any]:
    """Full gradients of the parameters on this rank."""
    if hasattr(engine, "state") and hasattr(engine.state, "gradients"):
        return {name: gradient.numpy().copy() for name, gradient in engine.state.gradients().items()}
    parts = engine.parallel_model.model_parts if hasattr(engine, "parallel_model") else [engine.module]
    found = {}
    for part in parts:
        for name, weight in part.named_parameters():
            if weight.grad is None:
                found[name] = np.full(weight.shape, np.nan, np.float32)
                continue
            full = weight.grad.full_tensor() if isinstance(weight.grad, DTensor) else weight.grad
            found[name] = full.detach().float().numpy().copy()
    return found


@dataclass(frozen=True)
class Case:
    """A layout, a model and other settings."""

    layout: dict[str, Any]
    model: str = "llama"
    micro_batch_size: int | None = None
    train: tuple[tuple[str, Any], ...] = ()
    machine: tuple[tuple[str, Any], ...] = ()

    @property
    def settings(self) -> TrainConfig:
        return settings(**dict(self.train))


def run_rank(case: Case) -> dict[str, Any]:
    """The run of one rank, with the gradients of all ranks."""
    engine = build(case)
    result = run_steps(engine, case.model)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, result["gradients"])
    return result | {"gradients": everyone}


def megatron() -> Any:
    import megatron_shim

    megatron_shim.install()
    from groundup.train.engines.megatron_engine import MegatronEngine

    return MegatronEngine


def deepspeed() -> Any:
    from groundup.train.engines.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine


ENGINES = {"native": lambda: ParallelEngine, "deepspeed": deepspeed, "megatron": megatron}


def build(case: Case) -> Any:
    micro = case.micro_batch_size or 16
    config = config_of(case.model)
    machine = Machine(micro_batch_size=micro, **dict(case.machine))
    kind: Any = ENGINES[case.settings.engine]()
    learned = objective(config, case.settings.z_loss)
    return kind(build_toy_model(case.model), learned, case.settings, machine, LayoutConfig(**case.layout))


def differences(case: Case, result: dict[str, Any]) -> dict[str, float]:
    """The largest relative difference to one process in loss, norm and gradient."""
    reference = run_single_process(case.model, case.settings)
    total_norm = reference["norms"][0]
    worst = 0.0
    seen = set()
    for gradients in result["gradients"]:
        for name, gradient in gradients.items():
            right = reference["gradients"][name]
            error = float(np.linalg.norm(gradient - right) / (np.linalg.norm(right) + 1e-4 * total_norm))
            seen.add(name)
            worst = max(worst, error) if error == error else math.inf
    assert seen == set(reference["gradients"]), "every parameter is on some rank"
    loss, norm = (
        max(abs(a / b - 1) for a, b in zip(result[key], reference[key], strict=True)) for key in ("losses", "norms")
    )
    return {"loss": loss, "norm": norm, "gradient": worst}


def bounds(case: Case) -> dict[str, float]:
    """Rounding only. Matrix products in bfloat16, which Muon has too, round 65,000 times coarser."""
    train = case.settings
    if train.precision.startswith("bfloat16"):
        return {"loss": 1e-3, "norm": 3e-2, "gradient": 0.1}
    if train.optimizer == "muon":
        return {"loss": 1e-4, "norm": 5e-3, "gradient": 1e-5}
    return {"loss": 1e-6, "norm": 1e-5, "gradient": 2e-5}
