"""Predicted step times against published runs: writes book/thousand-devices.md.

    python benchmarks/thousand_devices.py [--simulate]

Nothing is measured here. The first run of each table calibrates the kernel efficiency (fraction of the peak that kernels
reach in that software); the other runs are predicted. `--simulate` also builds one rank of the 7B and the 70B recipe on
1,024 fake devices (two CPU minutes each); otherwise those rows are copied from the page.
"""

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groundup.plan import derive
from groundup.plan.derive import resolved_model_config
from groundup.plan.hardware import DEVICES, DeviceSpec
from groundup.plan.layout.communication import StepSpec, communication_bytes
from groundup.plan.time.step_time import HOP_SECONDS, StepTime, estimate_step_time
from groundup.recipe import ModelConfig, load_recipe
from groundup.recipe.layout_config import LayoutConfig

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "thousand-devices.md"


def llama(**sizes: Any) -> ModelConfig:
    return ModelConfig(**{"num_kv_heads": 8, "context_length": 8192, "vocab_size": 128_256, **sizes})


MODELS = {
    "Llama 3 8B": llama(hidden_size=4096, num_layers=32, num_heads=32, intermediate_size=14_336),
    "Llama 3 70B": llama(hidden_size=8192, num_layers=80, num_heads=64, intermediate_size=28_672),
    "Llama 3.1 405B": llama(hidden_size=16_384, num_layers=126, num_heads=128, intermediate_size=53_248),
    "Llama 2 13B": llama(
        hidden_size=5120, num_layers=40, num_heads=40, num_kv_heads=40, intermediate_size=13_824, vocab_size=32_000,
        context_length=4096,
    ),
    "Llama 2 70B": llama(
        hidden_size=8192, num_layers=80, num_heads=64, intermediate_size=28_672, vocab_size=32_000, context_length=4096,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PublishedRun:
    """A published run; `tokens_per_second` per device."""

    model: str
    devices: int
    layout: dict[str, Any]
    sequences: int
    micro_batches: int
    recompute: Any
    tokens_per_second: float
    label: str = ""


@dataclass(frozen=True)
class BenchmarkTable:
    name: str
    source: str
    device: str
    product_bytes: int
    remark: str
    runs: tuple[PublishedRun, ...]


TITAN = "https://github.com/pytorch/torchtitan/blob/main/"
NVIDIA = "https://github.com/NVIDIA-NeMo/Megatron-Bridge/blob/main/docs/performance-summary.md"
TABLES = (
    BenchmarkTable(
        "torchtitan, H100, compiled", TITAN + "benchmarks/llama3_h100_202412_torchtitan.md", "h100", 2,
        "Tables 1 and 3: bfloat16, FSDP, selective checkpointing, 500 W per device. The first run calibrates.",
        (
            PublishedRun("Llama 3 8B", 8, {"shard": 8}, 2, 1, "none", 6667),
            PublishedRun("Llama 3 8B", 128, {"shard": 128}, 2, 1, "none", 6514),
        ),
    ),
    BenchmarkTable(
        "torchtitan, H100, not compiled", TITAN + "benchmarks/llama3_h100_202412_torchtitan.md", "h100", 2,
        "The same tables, without torch.compile.",
        (
            PublishedRun("Llama 3 8B", 8, {"shard": 8}, 2, 1, "none", 5762),
            PublishedRun("Llama 3 8B", 128, {"shard": 128}, 2, 1, "none", 5605),
        ),
    ),
    BenchmarkTable(
        "torchtitan, A100", "https://github.com/pytorch/torchtitan/blob/041336434916bdc0f88c1f89fda176fd3c2092e4/docs/performance.md",
        "a100", 2,
        "Bfloat16, FSDP over 64 devices. Network not stated; 200 Gb/s per device are assumed.",
        (
            PublishedRun("Llama 2 13B", 64, {"shard": 64}, 2, 1, "none", 2162),
            PublishedRun("Llama 2 13B", 64, {"shard": 64}, 2, 1, "selective", 1904, "selective checkpointing"),
            PublishedRun("Llama 2 70B", 64, {"shard": 64}, 2, 1, "full", 353, "full checkpointing"),
            PublishedRun("Llama 3 8B", 64, {"shard": 64}, 1, 1, "selective", 2973, "selective checkpointing"),
            PublishedRun("Llama 3 70B", 64, {"shard": 64}, 1, 1, "full", 331, "full checkpointing"),
        ),
    ),
    BenchmarkTable(
        "Megatron (Megatron-Bridge 25.11), H100, FP8", NVIDIA, "h100", 1,
        "FP8 with current scaling; the peak is twice that of bfloat16. Replicated weights (their FSDP = 0) with a sharded "
        "optimizer, which sends as much as an all-reduce of gradients.",
        (
            PublishedRun("Llama 3 8B", 8, {"shard": 8}, 16, 16, "none", 14_451, "FSDP"),
            PublishedRun("Llama 3 70B", 64,
                {"replicate": 2, "shard": 1, "tensor": 4, "pipeline": 8, "pipeline_schedule": "interleaved-1f1b",
                 "stages_per_device": 5},
                64, 64, "none", 1602, "TP 4, PP 8, 5 stages per device"),
            PublishedRun("Llama 3.1 405B", 1024,
                {"replicate": 8, "shard": 1, "tensor": 8, "pipeline": 8, "context": 2, "pipeline_schedule": "interleaved-1f1b",
                 "stages_per_device": 8},
                64, 64, "none", 292, "TP 8, PP 8, CP 2, 8 stages per device"),
        ),
    ),
)  # fmt: skip


def predict(run: PublishedRun, device: DeviceSpec, product: int) -> tuple[StepTime, float]:
    """Step time, and tokens per second and device."""
    config, layout = MODELS[run.model], LayoutConfig(**run.layout)
    spec = StepSpec(run.sequences, config.context_length, run.micro_batches, product, run.recompute)
    step = estimate_step_time(config, layout, spec, device, "float8" if product == 1 else "bfloat16")
    ranks = layout.context * layout.tensor * layout.pipeline
    return step, run.sequences * config.context_length / step.total / ranks


def calibrate(table: BenchmarkTable) -> DeviceSpec:
    """The device with the kernel efficiency of the first run of the table."""
    device, run = DEVICES[table.device], table.runs[0]
    low, high = 0.05, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        _, tokens = predict(run, replace(device, utilization=middle), table.product_bytes)
        low, high = (middle, high) if tokens < run.tokens_per_second else (low, middle)
    return replace(device, utilization=low)


def table_rows(table: BenchmarkTable) -> tuple[list[str], float, list[float]]:
    """Markdown, the calibrated kernel efficiency, and the relative errors of the predictions."""
    device = calibrate(table)
    lines = [
        "| model | devices | layout | published tokens/s | predicted | error | compute | communication | bubble |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    errors = []
    for number, run in enumerate(table.runs):
        step, tokens = predict(run, device, table.product_bytes)
        error = tokens / run.tokens_per_second - 1
        if number:
            errors.append(error)
        communication = step.communication
        lines.append(
            f"| {run.model} | {run.devices:,} | {run.label or 'FSDP'} | {run.tokens_per_second:,.0f} | {tokens:,.0f} | "
            f"{f'{error:+.0%}' if number else 'calibrates'} | {step.compute / step.total:.0%} | "
            f"{communication / step.total:.1%} | {step.pipeline / step.total:.1%} |"
        )
    return lines, device.utilization, errors


def recipe_rows() -> list[str]:
    """Predictions for the recipes of this project on 1,024 devices."""
    lines = [
        "| recipe | layout | step | compute | tensor communication | data communication | MFU | tensor bytes | data bytes |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, sets in (("llama-7b", ("budget.devices=1024",)), ("llama-70b", ())):
        plan = derive(load_recipe(ROOT / "recipes" / f"{name}.toml", sets))
        config, layout, train = resolved_model_config(plan.recipe), plan.layout, plan.recipe.train
        assert train is not None
        assert train.sequence_length is not None
        assert train.batch_tokens is not None
        replicas = layout.replicate * (layout.shard or 1)
        sequences = train.batch_tokens // train.sequence_length // replicas
        spec = StepSpec(
            sequences, train.sequence_length, sequences // plan.micro_batch, 2, plan.activation_checkpointing
        )
        step = estimate_step_time(config, layout, spec, DEVICES["h100"])
        sent = communication_bytes(config, layout, spec)
        lines.append(
            f"| {name} | tensor {layout.tensor}, shard {layout.shard} | {step.total:.2f} s | {step.compute:.2f} s | "
            f"{step.tensor:.2f} s | {step.data:.2f} s | {step.utilization:.0%} | {sent['tensor'] / 1e9:.1f} GB | "
            f"{sent['data'] / 1e9:.1f} GB |"
        )
    return lines


def simulated_rows(simulate: bool) -> list[str]:
    """Counts of the simulation; copied from the page without --simulate."""
    head = [
        "| recipe | layout | peak memory | estimate | tensor bytes | estimate | data bytes | estimate |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    if not simulate:
        found = re.findall(r"^\| llama-[^|]*, simulated \|.*$", PAGE.read_text(), re.M) if PAGE.exists() else []
        return head + found
    lines = []
    for name, layout, sets in (
        ("llama-7b", "shard 1,024", ("budget.devices=1024",)),
        ("llama-70b", "tensor 8, shard 128, full checkpointing", ()),
    ):
        command = [sys.executable, "-m", "groundup.cli", "plan", f"recipes/{name}.toml", "--json", "--simulate"]
        command += [argument for knob in sets for argument in ("--set", knob)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        found = json.loads(done.stdout)["simulation"]
        pairs = [found["memory"]["peak"], found["sent"].get("tensor"), found["sent"]["data"]]
        cells = [
            f"{both['simulated'] / 1e9:.2f} GB | {both['planned'] / 1e9:.2f} GB" if both else "- | -" for both in pairs
        ]
        lines.append(f"| {name}, simulated | {layout} | " + " | ".join(cells) + " |")
    return head + lines


HEADER = """# A thousand devices: simulation and prediction

This project has not run on a thousand devices. This page simulates one rank of such a layout, predicts its step time, and
compares predictions with published runs. Written by `python benchmarks/thousand_devices.py --simulate`.

## Memory and communication of one rank

`groundup plan RECIPE --simulate` applies the layout to a model on the meta device with PyTorch's fake process group of 1,024
ranks, runs one micro-batch forward and backward, and counts memory and communication. The estimates are those of
`plan/memory/memory_estimate.py` and `plan/layout/communication.py`. They differ by padding, where 1,024 does not divide a
dimension, and by activations: CPU kernels save other tensors than those of accelerators may.

{simulated}

The communication estimates are also compared, byte for byte, with counts on gloo ranks: `tests/parallel/test_comm_bytes.py`.

## Step time

`plan/time/step_time.py` adds compute, at one kernel efficiency, and the communication that it does not hide. Bandwidths are
those of data sheets: H100 link 450 GB/s one way and network 400 Gb/s, A100 300 GB/s and 200 Gb/s. A hop between two ranks is
assumed to
take {hop:.0f} microseconds. Real collectives are slower; the errors below show by how much that matters.

{recipes}

Kernel efficiency of an H100: {h100:.0%} in the table of the plan; {low:.0%} to {high:.0%} in the published runs below.

## Published runs

The first run of each table calibrates the kernel efficiency of that software and hardware; the others are predicted. So errors
are those of communication, of recomputation, and of the change of kernel efficiency with the model.

{tables}

Mean error of {number} predictions: {mean:.0%}; largest: {worst:.0%}, with selective checkpointing, whose recomputation the
estimate counts as free.

Not compared, because layouts are not published: Megatron-LM trains GPT-3 175B with a batch of 1,152 sequences at 47% MFU on 96
H100 and at 42% on 4,608, and models of 2 to 462 billion parameters at 41% to 48% (<https://github.com/NVIDIA/Megatron-LM>,
README). torchtitan's runs of 70B and 405B (tables 4 to 6) mix FP8 with bfloat16 products, without a stated peak.
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--simulate", action="store_true")
    simulate = arguments.parse_args().simulate
    parts, errors, efficiencies = [], [], []
    for table in TABLES:
        lines, efficiency, missed = table_rows(table)
        errors += missed
        efficiencies.append(efficiency)
        parts.append(
            f"### {table.name}\n\n<{table.source}>. {table.remark} Kernel efficiency: {efficiency:.0%}.\n\n"
            + "\n".join(lines)
        )
    PAGE.write_text(
        HEADER.format(
            simulated="\n".join(simulated_rows(simulate)), recipes="\n".join(recipe_rows()), tables="\n\n".join(parts),
            hop=HOP_SECONDS * 1e6, h100=DEVICES["h100"].utilization,
            low=min(s for t, s in zip(TABLES, efficiencies, strict=True) if t.device == "h100"),
            high=max(s for t, s in zip(TABLES, efficiencies, strict=True) if t.device == "h100"), number=len(errors),
            mean=sum(map(abs, errors)) / len(errors), worst=max(map(abs, errors)),
        ),
        encoding="utf-8",
    )  # fmt: skip
    print(
        f"wrote {PAGE.relative_to(ROOT)}; kernel efficiencies {', '.join(f'{efficiency:.3f}' for efficiency in efficiencies)}"
    )


if __name__ == "__main__":
    main()
