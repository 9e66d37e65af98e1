"""Layouts to compare with one process, by their names in book/parallel.md."""

from typing import Any

from equivalence import Case

SCHEDULES = ("gpipe", "1f1b", "interleaved-1f1b", "interleaved-zero-bubble", "zero-bubble-v", "dualpipe-v")

FULL_CHECKPOINTING = (("activation_checkpointing", "full"),)
COMPILED = (("compile", "always"),)

PURE_BFLOAT16 = (("precision", "bfloat16-pure"), ("stochastic_rounding", False))
"""Rounded to nearest: stochastic rounding differs between layouts."""

QUICK: dict[str, tuple[int, Case]] = {
    "DDP": (2, Case({"replicate": 2})),
    "FSDP": (2, Case({"shard": 2})),
    "FSDP, 4 micro-batches": (2, Case({"shard": 2}, micro_batch_size=2)),
    "hybrid": (4, Case({"replicate": 2, "shard": 2})),
    "TP": (2, Case({"tensor": 2, "sequence_parallel": False})),
    "TP+SP": (2, Case({"tensor": 2})),
    "FSDP x TP+SP": (4, Case({"shard": 2, "tensor": 2})),
    "TP+SP, 1 key head": (2, Case({"tensor": 2}, "odd")),
    "CP all-gather": (2, Case({"context": 2})),
    "CP ulysses": (2, Case({"context": 2, "context_method": "ulysses"})),
    "CP ring": (2, Case({"context": 2, "context_method": "ring"})),
    "PP 1f1b": (2, Case({"pipeline": 2}, "deep", 4)),
    "PP zero-bubble-v x FSDP": (4, Case({"pipeline": 2, "shard": 2, "pipeline_schedule": "zero-bubble-v"}, "deep", 2)),
    "EP": (2, Case({"shard": 2, "expert": 2}, "moe")),
    "FSDP, pure bfloat16": (2, Case({"shard": 2}, train=PURE_BFLOAT16)),
    "TP+SP, parallel blocks": (2, Case({"tensor": 2}, "gptj")),
    "CP x TP+SP, ALiBi": (4, Case({"context": 2, "tensor": 2}, "bloom")),
    "CP x TP+SP": (4, Case({"context": 2, "tensor": 2}, "gemma")),
    "FSDP x TP+SP, 1009 tokens": (4, Case({"shard": 2, "tensor": 2}, "prime-tied", train=(("z_loss", 0.01),))),
}
"""Run by default: each axis once."""

SLOW: dict[str, tuple[int, Case]] = {
    "FSDP, parallel blocks": (2, Case({"shard": 2}, "gptj")),
    "CP ulysses, ALiBi": (2, Case({"context": 2, "context_method": "ulysses"}, "bloom")),
    "PP 1f1b, ALiBi": (2, Case({"pipeline": 2}, "bloom", 4)),
    "FSDP 4": (4, Case({})),
    "FSDP 8": (8, Case({})),
    "DDP 4": (4, Case({"replicate": 4})),
    "DDP 8": (8, Case({"replicate": 8})),
    "hybrid 4 x 2": (8, Case({"replicate": 4, "shard": 2})),
    "FSDP, CPU offload": (2, Case({"shard": 2, "cpu_offload": "all"})),
    "FSDP, checkpointing": (2, Case({"shard": 2}, machine=FULL_CHECKPOINTING)),
    "FSDP, selective checkpointing": (2, Case({"shard": 2}, machine=(("activation_checkpointing", "selective"),))),
    "FSDP, weights kept": (2, Case({"shard": 2, "reshard_after_forward": False})),
    "FSDP, compiled": (2, Case({"shard": 2}, machine=COMPILED)),
    "TP+SP, compiled, checkpointing": (2, Case({"tensor": 2}, machine=COMPILED + FULL_CHECKPOINTING)),
    "TP+SP 4": (4, Case({"tensor": 4})),
    "TP+SP 4, 1009 tokens": (4, Case({"tensor": 4}, "prime")),
    "TP 4, 1009 tokens": (4, Case({"tensor": 4, "sequence_parallel": False}, "prime-tied")),
    "PP x TP+SP, 1009 tokens": (4, Case({"pipeline": 2, "tensor": 2}, "prime", 2)),
    "TP+SP, 1009 tokens, pure bfloat16": (2, Case({"tensor": 2}, "prime", train=PURE_BFLOAT16)),
    "TP+SP 8, 1 key head": (8, Case({"tensor": 8}, "odd")),
    "FSDP x TP+SP 4 x 2": (8, Case({"shard": 4, "tensor": 2})),
    "FSDP x TP+SP 2 x 4": (8, Case({"shard": 2, "tensor": 4}, "gpt2")),
    "hybrid x TP+SP": (8, Case({"replicate": 2, "shard": 2, "tensor": 2})),
    "CP all-gather 4": (4, Case({"context": 4})),
    "CP ulysses 4": (4, Case({"context": 4, "context_method": "ulysses"})),
    "CP ring 4": (4, Case({"context": 4, "context_method": "ring"})),
    "FSDP x CP": (4, Case({"shard": 2, "context": 2})),
    "FSDP x CP x TP+SP": (8, Case({"shard": 2, "context": 2, "tensor": 2})),
    "CP ring, documents": (2, Case({"context": 2, "context_method": "ring"}, "packed")),
    "CP all-gather x TP+SP, documents": (4, Case({"context": 2, "tensor": 2}, "documents")),
    "EP 4": (4, Case({"expert": 4}, "moe")),
    "EP x FSDP": (4, Case({"expert": 2}, "moe")),
    "hybrid x EP": (4, Case({"replicate": 2, "shard": 2, "expert": 2}, "moe")),
    "EP over CP": (4, Case({"shard": 2, "context": 2, "expert": 4}, "moe")),
    "EP x FSDP x TP+SP": (8, Case({"shard": 4, "expert": 2, "tensor": 2}, "moe")),
    "EP, 2 sequences each": (2, Case({"shard": 2, "expert": 2}, "moe", 2)),
    "hybrid x CP, experts": (4, Case({"replicate": 2, "context": 2}, "moe", 2)),
    "CP x TP+SP, experts": (4, Case({"context": 2, "tensor": 2}, "moe", 4)),
    "EP, bias": (2, Case({"expert": 2}, "moe-bias")),
    "PP x CP x EP": (4, Case({"pipeline": 2, "context": 2, "expert": 2}, "moe-deep", 2)),
    "PP zero-bubble-v x CP x EP": (
        4, Case({"pipeline": 2, "context": 2, "expert": 2, "pipeline_schedule": "zero-bubble-v"}, "moe-deep", 2)
    ),
    "PP zero-bubble-v x hybrid": (
        8, Case({"pipeline": 2, "replicate": 2, "shard": 2, "pipeline_schedule": "zero-bubble-v"}, "deep", 1)
    ),
    "PP interleaved-zero-bubble x DDP": (
        4,
        Case({"pipeline": 2, "replicate": 2, "pipeline_schedule": "interleaved-zero-bubble"}, "deep", 2),
    ),
    "PP zero-bubble-v x DDP": (4, Case({"pipeline": 2, "replicate": 2, "pipeline_schedule": "zero-bubble-v"}, "deep", 2)),
    "PP dualpipe-v x DDP": (4, Case({"pipeline": 2, "replicate": 2, "pipeline_schedule": "dualpipe-v"}, "deep", 2)),
    "PP zero-bubble-v, compiled": (2, Case({"pipeline": 2, "pipeline_schedule": "zero-bubble-v"}, "deep", 4, machine=COMPILED)),
    "PP 1f1b x FSDP, weights dropped": (4, Case({"pipeline": 2, "shard": 2, "reshard_after_forward": True}, "deep", 2)),
    "PP, checkpointing": (2, Case({"pipeline": 2}, "deep", 4, machine=FULL_CHECKPOINTING)),
    "PP zero-bubble-v, checkpointing": (
        2, Case({"pipeline": 2, "pipeline_schedule": "zero-bubble-v"}, "deep", 4, machine=FULL_CHECKPOINTING)
    ),
    "PP, compiled": (2, Case({"pipeline": 2}, "deep", 4, machine=COMPILED)),
    "PP x DDP": (4, Case({"pipeline": 2, "replicate": 2}, "deep", 2)),
    "PP, encoder": (2, Case({"pipeline": 2}, "bert-deep", 4)),
    **{f"PP {name}": (2, Case({"pipeline": 2, "pipeline_schedule": name}, "deep", 4)) for name in SCHEDULES if name != "1f1b"},
    **{f"PP {name} 4": (4, Case({"pipeline": 4, "pipeline_schedule": name}, "deep", 2)) for name in SCHEDULES},
    **{
        f"PP {name} x FSDP": (4, Case({"pipeline": 2, "pipeline_schedule": name}, "deep", 2))
        for name in SCHEDULES if name != "zero-bubble-v"
    },
    **{
        f"PP {name} x FSDP x TP+SP": (8, Case({"pipeline": 2, "tensor": 2, "pipeline_schedule": name}, "deep", 2))
        for name in SCHEDULES
    },
    **{
        f"{axis}, {model}": (2, Case(layout, model))
        for axis, layout in {
            "FSDP": {"shard": 2}, "TP": {"tensor": 2, "sequence_parallel": False}, "TP+SP": {"tensor": 2},
            "CP all-gather": {"context": 2}, "CP ulysses": {"context": 2, "context_method": "ulysses"},
        }.items()
        for model in ("odd", "gemma", "gpt2", "bert", "t5", "moe")
    },
    "TP+SP, z-loss": (2, Case({"tensor": 2}, train=(("z_loss", 0.01),))),
    "CP x PP, z-loss": (4, Case({"context": 2, "pipeline": 2}, "deep", 4, train=(("z_loss", 0.01),))),
    "DDP, Muon": (2, Case({"replicate": 2}, train=(("optimizer", "muon"),))),
    "FSDP, Muon": (2, Case({"shard": 2}, train=(("optimizer", "muon"),))),
    "TP+SP, Muon": (2, Case({"tensor": 2}, train=(("optimizer", "muon"),))),
    "FSDP x TP+SP, Muon": (4, Case({"tensor": 2}, train=(("optimizer", "muon"),))),
    "PP, Muon": (2, Case({"pipeline": 2}, "deep", 4, train=(("optimizer", "muon"),))),
    "FSDP, bfloat16": (2, Case({"shard": 2}, train=(("precision", "bfloat16"),))),
    "DDP, bfloat16": (2, Case({"replicate": 2}, train=(("precision", "bfloat16"),))),
    "TP+SP, bfloat16": (2, Case({"tensor": 2}, train=(("precision", "bfloat16"),))),
    **{
        f"{axis}, pure bfloat16": (ranks, Case(layout, "deep" if "PP" in axis else "llama", micro, train=PURE_BFLOAT16))
        for axis, ranks, layout, micro in (
            ("DDP", 2, {"replicate": 2}, None), ("FSDP x TP+SP", 4, {"tensor": 2}, None), ("CP", 2, {"context": 2}, None),
            ("PP x FSDP", 4, {"pipeline": 2}, 2),
        )
    },
    "EP, pure bfloat16": (2, Case({"expert": 2}, "moe", train=PURE_BFLOAT16)),
    "PP x FSDP x TP+SP, bfloat16": (8, Case({"pipeline": 2, "tensor": 2}, "deep", 2, train=(("precision", "bfloat16"),))),
}  # fmt: skip
"""The rest of the table."""


def _engine_case(engine: str, layout: dict, model: str = "llama", micro: int | None = None, **more: Any) -> Case:
    train = (("engine", engine), *more.pop("train", {}).items())
    return Case(layout, model, micro, train=train, machine=tuple(more.pop("machine", {}).items()))


BFLOAT16 = {"precision": "bfloat16"}

OTHER_ENGINES: dict[str, dict[str, tuple[int, Case]]] = {
    "deepspeed": {
        "DeepSpeed, alone": (1, _engine_case("deepspeed", {})),
        "DeepSpeed ZeRO-1": (2, _engine_case("deepspeed", {"zero_stage": 1})),
        "DeepSpeed ZeRO-2": (2, _engine_case("deepspeed", {"zero_stage": 2})),
        "DeepSpeed ZeRO-3": (2, _engine_case("deepspeed", {"zero_stage": 3})),
        "DeepSpeed ZeRO-3, 4 ranks": (4, _engine_case("deepspeed", {"zero_stage": 3})),
        **{
            f"DeepSpeed ZeRO-{stage}, 4 micro-batches": (2, _engine_case("deepspeed", {"zero_stage": stage}, micro=2))
            for stage in (1, 2, 3)
        },
        "DeepSpeed ZeRO-2, optimizer offload": (2, _engine_case("deepspeed", {"zero_stage": 2, "cpu_offload": "optimizer"})),
        "DeepSpeed ZeRO-2, optimizer offload, 4 micro-batches": (
            2, _engine_case("deepspeed", {"zero_stage": 2, "cpu_offload": "optimizer"}, micro=2)
        ),
        "DeepSpeed ZeRO-3, optimizer offload": (2, _engine_case("deepspeed", {"zero_stage": 3, "cpu_offload": "optimizer"})),
        "DeepSpeed ZeRO-3, parameter offload": (2, _engine_case("deepspeed", {"zero_stage": 3, "cpu_offload": "all"})),
        "DeepSpeed ZeRO-3, checkpointing": (
            2, _engine_case("deepspeed", {"zero_stage": 3}, machine={"activation_checkpointing": "full"})
        ),
        **{
            f"DeepSpeed ZeRO-{stage}, {model}": (2, _engine_case("deepspeed", {"zero_stage": stage}, model))
            for stage in (1, 3) for model in ("odd", "gemma", "gpt2", "bert", "t5", "moe", "moe-bias")
        },
        "DeepSpeed ZeRO-3, z-loss": (2, _engine_case("deepspeed", {"zero_stage": 3}, train={"z_loss": 0.01})),
        **{
            f"DeepSpeed ZeRO-{stage}, bfloat16": (2, _engine_case("deepspeed", {"zero_stage": stage}, train=BFLOAT16))
            for stage in (1, 2, 3)
        },
        "DeepSpeed ZeRO-2, optimizer offload, moe": (
            2, _engine_case("deepspeed", {"zero_stage": 2, "cpu_offload": "optimizer"}, "moe")
        ),
    },
    "megatron": {
        "Megatron, alone": (1, _engine_case("megatron", {})),
        "Megatron tp=2": (2, _engine_case("megatron", {"tensor": 2})),
        "Megatron dp=2": (2, _engine_case("megatron", {"replicate": 2})),
        "Megatron dp=2, distributed optimizer": (2, _engine_case("megatron", {"shard": 2})),
        "Megatron tp=2, dp=2": (4, _engine_case("megatron", {"tensor": 2, "replicate": 2})),
        "Megatron tp=2, dp=2, distributed optimizer": (4, _engine_case("megatron", {"tensor": 2})),
        "Megatron tp=2, 4 micro-batches": (2, _engine_case("megatron", {"tensor": 2}, micro=4)),
        "Megatron tp=2, checkpointing": (
            2, _engine_case("megatron", {"tensor": 2}, machine={"activation_checkpointing": "full"})
        ),
        "Megatron tp=4, gpt2": (4, _engine_case("megatron", {"tensor": 4}, "gpt2")),
        "Megatron tp=2, gpt2": (2, _engine_case("megatron", {"tensor": 2}, "gpt2")),
        "Megatron tp=2, qwen": (2, _engine_case("megatron", {"tensor": 2}, "qwen")),
        "Megatron pp=2": (2, _engine_case("megatron", {"pipeline": 2}, "deep", 4)),
        "Megatron pp=4, 8 micro-batches": (4, _engine_case("megatron", {"pipeline": 4}, "deep", 2)),
        "Megatron pp=2, dp=2": (4, _engine_case("megatron", {"pipeline": 2, "replicate": 2}, "deep", 2)),
        "Megatron pp=2, dp=2, distributed optimizer": (4, _engine_case("megatron", {"pipeline": 2}, "deep", 2)),
        "Megatron pp=2, tp=2": (4, _engine_case("megatron", {"pipeline": 2, "tensor": 2}, "deep", 4)),
        "Megatron pp=2, checkpointing": (
            2, _engine_case("megatron", {"pipeline": 2}, "deep", 4, machine={"activation_checkpointing": "full"})
        ),
        "Megatron, experts": (1, _engine_case("megatron", {}, "moe-unbalanced")),
        "Megatron dp=2, experts": (2, _engine_case("megatron", {"replicate": 2}, "moe-unbalanced")),
        "Megatron ep=2, distributed optimizer": (2, _engine_case("megatron", {"expert": 2}, "moe-unbalanced")),
        "Megatron ep=2, dp=4, distributed optimizer": (4, _engine_case("megatron", {"expert": 2}, "moe-unbalanced")),
        "Megatron ep=2, pp=2, distributed optimizer": (
            4, _engine_case("megatron", {"pipeline": 2, "expert": 2}, "moe-unbalanced", 2)
        ),
        "Megatron pp=2, experts": (2, _engine_case("megatron", {"pipeline": 2}, "moe-unbalanced", 2)),
        "Megatron tp=2, bfloat16": (2, _engine_case("megatron", {"tensor": 2}, train=BFLOAT16)),
        "Megatron pp=2, bfloat16": (2, _engine_case("megatron", {"pipeline": 2}, "deep", 4, train=BFLOAT16)),
        "Megatron dp=2, distributed optimizer, bfloat16": (2, _engine_case("megatron", {"shard": 2}, train=BFLOAT16)),
    },
}  # fmt: skip
"""DeepSpeed and Megatron, each in an environment where it is installed."""
