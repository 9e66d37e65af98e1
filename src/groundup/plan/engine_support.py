"""What each engine does not do, refused by name and with the reason before anything is spent.

The native engine does whatever a layout can say. DeepSpeed shards and nothing else; Megatron-Core has a model of its own,
which is some decoders and no other transformer.
"""

from importlib.util import find_spec
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.parallel_layout import ZERO_BUBBLE
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.machine_config import MachineConfig
from groundup.recipe.train_config import EngineName, TrainConfig

ENGINE_PACKAGES: dict[EngineName, tuple[str, str, str]] = {
    "deepspeed": (
        "deepspeed",
        "DeepSpeed",
        "pip install setuptools wheel, then pip install --no-build-isolation 'groundup[deepspeed]'",
    ),
    "megatron": ("megatron", "Megatron-Core", "pip install 'groundup[megatron]'"),
}
"""What an engine needs beside PyTorch: module, name, and how it comes here."""


def check_engine_installed(engine: EngineName) -> None:
    """Raises UserError where what the engine needs is not installed; imports nothing."""
    if engine in ENGINE_PACKAGES:
        module, name, hint = ENGINE_PACKAGES[engine]
        if find_spec(module) is None:
            raise UserError(f"train.engine = {engine!r}: {name} is not installed here", hint=hint)


def check_engine_machine(machine: MachineConfig, train: TrainConfig) -> None:
    """Raises UserError for what `train.engine` does not do with a step."""
    if train.engine != "native" and machine.compile == "always":
        _raise_unsupported(
            train.engine,
            "machine.compile = 'always'",
            "its own code runs between the blocks",
            "set machine.compile=auto",
        )
    late = machine.layout.pipeline > 1 and machine.layout.pipeline_schedule in ZERO_BUBBLE
    if train.engine == "native" and late and machine.activation_checkpointing == "selective":
        raise UserError(
            f"machine.layout.pipeline_schedule = {machine.layout.pipeline_schedule!r} with machine.activation_checkpointing = "
            "'selective': its late weight gradients go back through a block a second time, which PyTorch refuses there",
            hint="set machine.activation_checkpointing=full, or machine.layout.pipeline_schedule=1f1b",
        )
    if train.engine == "megatron" and machine.activation_checkpointing == "selective":
        _raise_unsupported("megatron", "machine.activation_checkpointing = 'selective'", "it has another idea of what to keep",
                "set machine.activation_checkpointing=full")  # fmt: skip


def check_engine_layout(layout: LayoutConfig, config: ModelConfig, train: TrainConfig) -> None:
    """Raises UserError for what `train.engine` cannot compute; `layout` is complete."""
    if train.engine != "deepspeed" and layout.zero_stage is not None:
        _raise_unsupported(train.engine, f"machine.layout.zero_stage = {layout.zero_stage}", "only DeepSpeed has these stages",
                "leave machine.layout.zero_stage out, or set train.engine=deepspeed")  # fmt: skip
    if train.engine == "native" and layout.cpu_offload == "optimizer":
        _raise_unsupported("native", "machine.layout.cpu_offload = 'optimizer'", "PyTorch moves weights and state together",
                "set machine.layout.cpu_offload=all, or train.engine=deepspeed")  # fmt: skip
    if train.engine == "deepspeed":
        _check_training(train)
        _check_deepspeed(layout, config)
    if train.engine == "megatron":
        _check_training(train)
        _check_megatron(layout, train)
        _check_megatron_model(config)
        if config.num_kv_heads % layout.tensor:
            _raise_unsupported("megatron",
                    f"machine.layout.tensor = {layout.tensor} and model.num_kv_heads = {config.num_kv_heads}",
                    "a device has whole groups of heads", f"set machine.layout.tensor={config.num_kv_heads}")  # fmt: skip


def _check_training(train: TrainConfig) -> None:
    """What both foreign engines have in common: an AdamW of float32 state over partitions of their own."""
    for name, value, known, reason in (
        ("optimizer", train.optimizer, ("adamw",), "its partitions are flat, and Muon needs whole matrices"),
        ("precision", train.precision, ("float32", "bfloat16"), "it keeps master weights in float32"),
        (
            "optimizer_state_dtype",
            train.optimizer_state_dtype,
            ("float32",),
            "its optimizer keeps float32 state",
        ),
        ("weight_averaging", train.weight_averaging, ("none",), "no average is kept beside its partitions"),
    ):
        if value not in known:
            _raise_unsupported(train.engine, f"train.{name} = {value!r}", reason,
                    f"set train.{name}={known[-1]}, or train.engine=native")  # fmt: skip


def _check_deepspeed(layout: LayoutConfig, config: ModelConfig) -> None:
    _check_axes(
        "deepspeed",
        layout,
        ("replicate", "context", "tensor", "pipeline", "expert"),
        "ZeRO has the shard axis alone",
    )
    if config.moe is not None:
        _raise_unsupported("deepspeed", "model.moe", "experts are balanced over all devices, which ZeRO does not tell them",
                "set train.engine=native, which has machine.layout.expert too")  # fmt: skip
    if layout.cpu_offload == "all" and layout.zero_stage in (1, 2):
        _raise_unsupported("deepspeed", f"machine.layout.cpu_offload = 'all' with zero = {layout.zero_stage}",
                "weights can leave the device only where they are cut",
                "set machine.layout.zero_stage=3, or machine.layout.cpu_offload=optimizer")  # fmt: skip


def _check_megatron(layout: LayoutConfig, train: TrainConfig) -> None:
    _check_axes(
        "megatron",
        layout,
        ("context", "pipeline", "expert"),
        "its local layers are used with tensor and data ranks",
    )
    if layout.replicate > 1 and layout.shard not in (None, 1):
        _raise_unsupported("megatron", f"machine.layout.replicate = {layout.replicate} and shard = {layout.shard}",
                "its optimizer is cut over all data ranks or over none", "set one of them to 1")  # fmt: skip
    if layout.cpu_offload != "none":
        _raise_unsupported("megatron",
                f"machine.layout.cpu_offload = {layout.cpu_offload!r}", "it keeps what it has on the device",
                "leave machine.layout.cpu_offload out, or set train.engine=deepspeed")  # fmt: skip
    if train.z_loss:
        _raise_unsupported("megatron", f"train.z_loss = {train.z_loss}", "its model makes the plain loss",
                "leave train.z_loss out, or set train.engine=native")  # fmt: skip
    if train.document_mask:
        _raise_unsupported("megatron", "train.document_mask", "its local attention is causal and knows no documents",
                "set train.document_mask=false, or train.engine=native")  # fmt: skip


def _check_megatron_model(config: ModelConfig) -> None:
    """Megatron's GPT model has pre-norm blocks, and their parts in fewer kinds."""
    plain = {
        "rope_scaling": None,
        "attention_scale": None,
        "attention_softcap": None,
        "logit_softcap": None,
        "moe": None,
    }
    plain |= {"embedding_scale": 1.0, "logit_scale": 1.0, "embedding_norm": False, "architecture": "decoder"}
    plain |= {"norm_placement": "pre", "mup_base_width": None}
    wrong: dict[str, Any] = {name: value for name in plain if (value := getattr(config, name)) != plain[name]}
    if config.norm == "zero_centered_rmsnorm" or (config.norm == "layernorm" and not config.norm_bias):
        wrong["norm"] = config.norm if config.norm_bias else f"{config.norm}, without norm_bias"
    if config.position_embedding == "relative":
        wrong["position_embedding"] = config.position_embedding
    if "local" in config.layer_types:
        wrong["attention_pattern"] = config.attention_pattern
    if (config.attention_bias == "all") != config.feed_forward_bias:  # it has one word for both
        wrong["attention_bias"] = (
            f"{config.attention_bias}, with feed_forward_bias = {config.feed_forward_bias}"
        )
    for name, value in wrong.items():
        found = value if isinstance(value, int | float | str) else type(value).__name__
        _raise_unsupported(
            "megatron",
            f"model.{name} = {found}",
            "Megatron's GPT model has no such part",
            "set train.engine=native",
        )


def _check_axes(engine: str, layout: LayoutConfig, axes: tuple[str, ...], reason: str) -> None:
    for axis in axes:
        if (size := getattr(layout, axis)) > 1:
            _raise_unsupported(engine, f"machine.layout.{axis} = {size}", reason,
                    f"leave machine.layout.{axis} out, or set train.engine=native")  # fmt: skip


def _raise_unsupported(engine: str, what: str, reason: str, hint: str) -> None:
    raise UserError(f"{what} with train.engine = {engine!r}: {reason}", hint=hint)
