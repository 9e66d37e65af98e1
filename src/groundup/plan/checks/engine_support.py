"""Checks of a recipe against its training engine.

The native engine supports all layouts. DeepSpeed supports the shard axis only; Megatron-Core has its own model, which
supports some decoders, in all axes but context.
"""

import math
from importlib.util import find_spec
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.layout.pipeline_schedule import SCHEDULES
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.machine_config import MachineConfig
from groundup.recipe.model_config import MoEConfig
from groundup.recipe.train_config import EngineName, TrainConfig

ENGINE_PACKAGES: dict[EngineName, tuple[str, str, str]] = {
    "deepspeed": (
        "deepspeed",
        "DeepSpeed",
        "pip install setuptools wheel, then pip install --no-build-isolation 'groundup[deepspeed]'",
    ),
    "megatron": ("megatron", "Megatron-Core", "pip install 'groundup[megatron]'"),
}
"""Requirements beyond PyTorch: module, name, installation."""


def check_engine_installed(engine: EngineName) -> None:
    """Raises UserError if the package of `engine` is not installed; imports nothing."""
    if engine in ENGINE_PACKAGES:
        module, name, hint = ENGINE_PACKAGES[engine]
        if find_spec(module) is None:
            raise UserError(f"train.engine = {engine!r}: {name} is not installed", hint=hint)


def check_engine_machine(machine: MachineConfig, train: TrainConfig) -> None:
    """Raises UserError for knobs of [machine] that `train.engine` does not support."""
    if train.engine != "native" and machine.compile == "always":
        _refuse(train.engine, "machine.compile = 'always'", "not supported", "set machine.compile=auto")
    if machine.activation_checkpointing != "selective":
        return
    selective, hint = ("machine.activation_checkpointing = 'selective'", "set machine.activation_checkpointing=full")
    if train.engine == "megatron":
        _refuse(train.engine, selective, "not supported", hint)
    schedule = machine.layout.pipeline_schedule
    if train.engine == "native" and machine.layout.pipeline > 1 and SCHEDULES[schedule].zero_bubble:
        raise UserError(
            f"machine.layout.pipeline_schedule = {schedule!r} with {selective}: weight gradients need a second backward "
            "pass through each block, which PyTorch does not support",
            hint=f"{hint}, or machine.layout.pipeline_schedule=1f1b",
        )


def check_engine_layout(layout: LayoutConfig, config: ModelConfig, train: TrainConfig) -> None:
    """Raises UserError for what `train.engine` does not support in a complete layout."""
    if train.engine != "deepspeed" and layout.zero_stage is not None:
        _refuse(train.engine, f"machine.layout.zero_stage = {layout.zero_stage}", "ZeRO stages need DeepSpeed",
                "leave machine.layout.zero_stage out, or set train.engine=deepspeed")  # fmt: skip
    if train.engine == "native" and layout.cpu_offload == "optimizer":
        _refuse("native", "machine.layout.cpu_offload = 'optimizer'", "needs DeepSpeed",
                "set machine.layout.cpu_offload=all, or train.engine=deepspeed")  # fmt: skip
    check_optimizer(train)
    if layout.tensor > 1 and config.feed_forward == "xielu":
        raise UserError(
            f"machine.layout.tensor = {layout.tensor} with model.feed_forward = 'xielu': its weights see all of a layer's "
            "outputs, of which each rank has some",
            hint="leave machine.layout.tensor out",
        )
    if layout.tensor > 1 and config.qk_norm and config.qk_norm_type not in ("head", "unweighted"):
        raise UserError(
            f"machine.layout.tensor = {layout.tensor} with model.qk_norm_type = {config.qk_norm_type!r}: the norm needs all "
            "heads, of which each rank has some",
            hint="leave machine.layout.tensor out, or set model.qk_norm_type=head",
        )
    if train.engine != "native":
        _check_training(train)
    elif layout.num_devices > 1:
        _check_several_devices(train)
    if train.engine == "deepspeed":
        _check_deepspeed(layout)
    if train.engine == "megatron":
        _check_megatron(layout, config, train)
        _check_megatron_model(config)
        _check_megatron_tensor(layout.tensor, config)


def check_optimizer(train: TrainConfig) -> None:
    """Raises UserError for Muon with bfloat16 weights, whose rounding would lose its small updates."""
    if train.optimizer == "muon" and train.precision == "bfloat16-pure":
        raise UserError(
            "train.optimizer = muon needs float32 weights, but train.precision = bfloat16-pure has bfloat16 weights",
            hint="set train.precision=bfloat16",
        )


def _check_several_devices(train: TrainConfig) -> None:
    """Limits of the native engine on several devices."""
    for name, supported in (
        ("precision", ("float32", "bfloat16", "bfloat16-pure")),
        ("optimizer_state_dtype", ("float32",)),
    ):
        if (value := getattr(train, name)) not in supported:
            raise UserError(
                f"train.{name} = {value!r} on several devices: expected {' or '.join(supported)}",
                hint=f"leave train.{name} out, or train on one device",
            )


def _check_megatron_tensor(tensor: int, config: ModelConfig) -> None:
    """Megatron-Core splits key/value heads and vocabulary evenly."""
    for name in ("num_kv_heads", "vocab_size"):
        if (value := getattr(config, name)) % tensor:
            _refuse("megatron", f"machine.layout.tensor = {tensor} and model.{name} = {value}",
                    f"tensor must divide {name}", f"set machine.layout.tensor={math.gcd(tensor, value)}")  # fmt: skip


def _check_training(train: TrainConfig) -> None:
    """Limits of DeepSpeed and Megatron-Core: AdamW with float32 state over their own partitions."""
    for name, supported, reason in (
        ("optimizer", ("adamw",), "its partitions are flat, but Muon needs whole matrices"),
        ("precision", ("float32", "bfloat16"), "master weights are float32"),
        ("optimizer_state_dtype", ("float32",), "optimizer state is float32"),
        ("weight_averaging", ("none",), "not supported for its partitions"),
    ):
        if (value := getattr(train, name)) not in supported:
            hint = f"set train.{name}={supported[-1]}, or train.engine=native"
            _refuse(train.engine, f"train.{name} = {value!r}", reason, hint)


def _check_deepspeed(layout: LayoutConfig) -> None:
    axes = ("replicate", "context", "tensor", "pipeline", "expert")
    _check_axes("deepspeed", layout, axes, "ZeRO has the shard axis only")
    if layout.cpu_offload == "all" and layout.zero_stage in (1, 2):
        _refuse("deepspeed", f"machine.layout.cpu_offload = 'all' with zero_stage = {layout.zero_stage}",
                "offload of weights needs sharded weights",
                "set machine.layout.zero_stage=3, or machine.layout.cpu_offload=optimizer")  # fmt: skip


def _check_megatron(layout: LayoutConfig, config: ModelConfig, train: TrainConfig) -> None:
    _check_axes("megatron", layout, ("context",), "Megatron-Core has it in the attention of TransformerEngine only")
    if layout.pipeline > 1 and layout.pipeline_schedule != "1f1b":
        _refuse("megatron", f"machine.layout.pipeline_schedule = {layout.pipeline_schedule!r}", "not supported",
                "set machine.layout.pipeline_schedule=1f1b, or train.engine=native")  # fmt: skip
    if config.num_layers % layout.pipeline:
        _refuse("megatron", f"machine.layout.pipeline = {layout.pipeline} and model.num_layers = {config.num_layers}",
                "pipeline must divide num_layers", "choose another machine.layout.pipeline")  # fmt: skip
    if config.moe is not None:
        _check_megatron_experts(layout, config.moe)
    if layout.replicate > 1 and layout.shard not in (None, 1):
        _refuse("megatron", f"machine.layout.replicate = {layout.replicate} and shard = {layout.shard}",
                "its optimizer is sharded over all data ranks or none", "set one of them to 1")  # fmt: skip
    if layout.cpu_offload != "none":
        _refuse("megatron", f"machine.layout.cpu_offload = {layout.cpu_offload!r}", "not supported",
                "leave machine.layout.cpu_offload out, or set train.engine=deepspeed")  # fmt: skip
    for name in ("z_loss", "document_mask"):
        if value := getattr(train, name):
            _refuse("megatron", f"train.{name} = {value}", "not supported",
                    f"leave train.{name} out, or set train.engine=native")  # fmt: skip


def _check_megatron_experts(layout: LayoutConfig, moe: MoEConfig) -> None:
    """Limits of Megatron's router, and of experts with tensor parallelism."""
    if layout.tensor > 1:
        _refuse("megatron", f"machine.layout.tensor = {layout.tensor} with model.moe",
                "Megatron-Core computes experts on sequence parallel tensor ranks only, which is not supported",
                "leave machine.layout.tensor out, or set train.engine=native")  # fmt: skip
    if (
        moe.load_balancing != "none"
    ):  # auxiliary loss: of the ranks' micro-batches; bias: updated after skipped batches, too
        _refuse("megatron", f"model.moe.load_balancing = {moe.load_balancing!r}", "Megatron-Core balances over other tokens",
                "set model.moe.load_balancing=none, or train.engine=native")  # fmt: skip
    for name, supported in {
        "shared_expert_gate": False, "scale_inputs": False, "routed_scale": 1.0, "num_expert_groups": 1,
    }.items():  # fmt: skip
        if (value := getattr(moe, name)) != supported:
            _refuse("megatron", f"model.moe.{name} = {value}", "not supported",
                    f"leave model.moe.{name} out, or set train.engine=native")  # fmt: skip
    if moe.router_activation == "sparsemixer":
        _refuse("megatron", "model.moe.router_activation = 'sparsemixer'", "not supported")
    normalized = moe.experts_per_token > 1 if moe.router_activation == "sigmoid" else moe.normalize_scores
    if normalized != moe.normalize_scores or (normalized and moe.experts_per_token == 1):
        _refuse("megatron", f"model.moe.normalize_scores = {moe.normalize_scores} with {moe.experts_per_token} experts "
                f"per token and router_activation = {moe.router_activation!r}", "not supported by Megatron-Core's router",
                f"set model.moe.normalize_scores={str(not moe.normalize_scores).lower()}, or train.engine=native")  # fmt: skip


def _check_megatron_model(config: ModelConfig) -> None:
    """Limits of Megatron's GPT model: pre-norm blocks, and fewer options."""
    supported = {
        "rope_scaling": None, "attention_scale": None, "attention_softcap": None, "logit_softcap": None,
        "embedding_scale": 1.0, "logit_scale": 1.0, "embedding_norm": False, "architecture": "decoder",
        "norm_placement": "pre", "mup_base_width": None, "attention_sinks": False, "rotary_dim": None,
        "latent_attention": None, "residual_scale": 1.0, "rope_pattern": (True,), "qk_norm_type": "head",
        "qk_norm_after_rope": False, "state_space": None, "gated_delta": None, "attention_gate": False,
        "head_bias": False,
    }  # fmt: skip
    unsupported: dict[str, Any] = {
        name: value for name in supported if (value := getattr(config, name)) != supported[name]
    }
    if config.norm not in ("rmsnorm", "layernorm") or (config.norm == "layernorm" and not config.norm_bias):
        unsupported["norm"] = config.norm if config.norm_bias else f"{config.norm}, without norm_bias"
    if config.feed_forward in ("swiglu_clamped", "xielu"):
        unsupported["feed_forward"] = config.feed_forward
    if config.moe is not None and (config.moe.expert_bias or config.moe.router_bias):
        unsupported["moe"] = "biases in router or experts"
    if config.position_embedding not in ("rope", "learned"):
        unsupported["position_embedding"] = config.position_embedding
    if "local" in config.layer_types:
        unsupported["attention_pattern"] = config.attention_pattern
    if (
        config.attention_bias == "output" or (config.attention_bias == "all") != config.feed_forward_bias
    ):  # one option in Megatron
        unsupported["attention_bias"] = f"{config.attention_bias}, with feed_forward_bias = {config.feed_forward_bias}"
    for name, value in unsupported.items():
        text = value if isinstance(value, int | float | str) else type(value).__name__
        _refuse("megatron", f"model.{name} = {text}", "not supported by Megatron's GPT model")


def _check_axes(engine: EngineName, layout: LayoutConfig, axes: tuple[str, ...], reason: str) -> None:
    for axis in axes:
        if (size := getattr(layout, axis)) > 1:
            hint = f"leave machine.layout.{axis} out, or set train.engine=native"
            _refuse(engine, f"machine.layout.{axis} = {size}", reason, hint)


def _refuse(engine: EngineName, setting: str, reason: str, hint: str = "set train.engine=native") -> None:
    raise UserError(f"{setting} with train.engine = {engine!r}: {reason}", hint=hint)
