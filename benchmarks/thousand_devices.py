"""The plan's prediction of a step beside published runs: writes book/thousand-devices.md.

    python benchmarks/thousand_devices.py [--simulate]

Nothing is measured here. Each table's first run sets one number, the share of a device's peak that its products reach in
that software; all others of the table are predicted from it, the layout and the links. `--simulate` also builds one rank of
the 7B and the 70B recipe on 1,024 fake devices (two minutes of processor time each); without it those rows stay as they are.
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
from groundup.plan.communication import StepSpec, communication_bytes
from groundup.plan.derive import resolved_model_config
from groundup.plan.hardware import DEVICES, DeviceSpec
from groundup.plan.step_time import HOP_SECONDS, StepTime, estimate_step_time
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
    """A published run: what it was, and the tokens a second and device that it reached."""

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
        "Tables 1 and 3: bfloat16, FSDP, selective checkpointing, 500 W a device. The first run sets the share.",
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
        "Bfloat16, FSDP over 64 devices. The page does not name the network; 200 Gb/s a device is assumed.",
        (
            PublishedRun("Llama 2 13B", 64, {"shard": 64}, 2, 1, "none", 2162),
            PublishedRun("Llama 2 13B", 64, {"shard": 64}, 2, 1, "selective", 1904, "selective checkpointing"),
            PublishedRun("Llama 2 70B", 64, {"shard": 64}, 2, 1, "full", 353, "full checkpointing"),
            PublishedRun("Llama 3 8B", 64, {"shard": 64}, 1, 1, "selective", 2973, "selective checkpointing"),
            PublishedRun("Llama 3 70B", 64, {"shard": 64}, 1, 1, "full", 331, "full checkpointing"),
        ),
    ),
    BenchmarkTable(
        "Megatron (Megatron-Bridge 25.11), H100, 8-bit products", NVIDIA, "h100", 1,
        "FP8 with current scaling; the peak is twice that of bfloat16. Copies of the weights (their FSDP = 0) with the optimizer "
        "spread over them, which sends as much as a sum of gradients.",
        (
            PublishedRun("Llama 3 8B", 8, {"shard": 8}, 16, 16, "none", 14_451, "FSDP"),
            PublishedRun("Llama 3 70B", 64,
                {"replicate": 2, "shard": 1, "tensor": 4, "pipeline": 8, "pipeline_schedule": "interleaved-1f1b",
                 "stages_per_device": 5},
                64, 64, "none", 1602, "TP 4, PP 8, 5 pieces a device"),
            PublishedRun("Llama 3.1 405B", 1024,
                {"replicate": 8, "shard": 1, "tensor": 8, "pipeline": 8, "context": 2, "pipeline_schedule": "interleaved-1f1b",
                 "stages_per_device": 8},
                64, 64, "none", 292, "TP 8, PP 8, CP 2, 8 pieces a device"),
        ),
    ),
)  # fmt: skip


def predict(run: PublishedRun, device: DeviceSpec, product: int) -> tuple[StepTime, float]:
    """The step, and its tokens a second and device."""
    config, layout = MODELS[run.model], LayoutConfig(**run.layout)
    work = StepSpec(run.sequences, config.context_length, run.micro_batches, product, run.recompute)
    step = estimate_step_time(config, layout, work, device)
    sharing = layout.context * layout.tensor * layout.pipeline
    return step, run.sequences * config.context_length / step.total / sharing


def calibrate(table: BenchmarkTable) -> DeviceSpec:
    """The device with the share of its peak at which the table's first run is met."""
    device, run = DEVICES[table.device], table.runs[0]
    low, high = 0.05, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        _, tokens = predict(run, replace(device, kernel_efficiency=middle), table.product_bytes)
        low, high = (middle, high) if tokens < run.tokens_per_second else (low, middle)
    return replace(device, kernel_efficiency=low)


def table_rows(table: BenchmarkTable) -> tuple[list[str], float, list[float]]:
    """Markdown, the calibrated share, and the errors of what was predicted."""
    device = calibrate(table)
    lines = [
        "| model | devices | layout | published tokens/s | predicted | error | of it products | links | bubble |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    errors = []
    for number, run in enumerate(table.runs):
        step, tokens = predict(run, device, table.product_bytes)
        error = tokens / run.tokens_per_second - 1
        if number:
            errors.append(error)
        links = step.tensor + step.context + step.data + step.replicate
        lines.append(
            f"| {run.model} | {run.devices:,} | {run.label or 'FSDP'} | {run.tokens_per_second:,.0f} | {tokens:,.0f} | "
            f"{f'{error:+.0%}' if number else 'sets the share'} | {step.compute / step.total:.0%} | "
            f"{links / step.total:.1%} | {step.pipeline / step.total:.1%} |"
        )
    return lines, device.kernel_efficiency, errors


def recipe_rows() -> list[str]:
    """The project's own recipes on 1,024 devices, as the plan predicts them."""
    lines = [
        "| recipe | layout | a step | products | waiting for tensor | data | utilization | sent a step and rank: tensor | data |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, sets in (("llama-7b", ("budget.devices=1024",)), ("llama-70b", ())):
        plan = derive(load_recipe(ROOT / "recipes" / f"{name}.toml", sets))
        config, layout, train = resolved_model_config(plan.recipe), plan.layout, plan.recipe.train
        assert train is not None
        assert train.sequence_length is not None
        assert train.batch_tokens is not None
        assert layout.shard is not None
        sequences = train.batch_tokens // train.sequence_length // (layout.replicate * layout.shard)
        work = StepSpec(
            sequences, train.sequence_length, sequences // plan.micro_batch, 2, plan.activation_checkpointing
        )
        step = estimate_step_time(config, layout, work, DEVICES["h100"])
        sent = communication_bytes(config, layout, work)
        lines.append(
            f"| {name} | tensor {layout.tensor}, weights over {layout.shard} | {step.total:.2f} s | {step.compute:.2f} s | "
            f"{step.tensor:.2f} s | {step.data:.2f} s | {step.utilization:.0%} | {sent['tensor'] / 1e9:.1f} GB | "
            f"{sent['data'] / 1e9:.1f} GB |"
        )
    return lines


def simulated_rows(simulate: bool) -> list[str]:
    """Counted on fake devices; from the page as it is, unless asked to build them again."""
    head = [
        "| recipe | layout | most held | by formula | sent along tensor | by formula | sent along data | by formula |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    if not simulate:
        found = re.findall(r"^\| llama-[^|]*, built \|.*$", PAGE.read_text(), re.M) if PAGE.exists() else []
        return head + found
    lines = []
    for name, layout, sets in (
        ("llama-7b", "weights over 1,024", ("budget.devices=1024",)),
        ("llama-70b", "tensor 8, weights over 128, full checkpointing", ()),
    ):
        command = [
            sys.executable,
            "-m",
            "groundup.cli",
            "plan",
            f"recipes/{name}.toml",
            "--json",
            "--simulate",
        ]
        command += [word for knob in sets for word in ("--set", knob)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        found = json.loads(done.stdout)["simulation"]
        pairs = [found["memory"]["peak"], found["sent"].get("tensor"), found["sent"]["data"]]
        cells = [
            f"{both['simulated'] / 1e9:.2f} GB | {both['planned'] / 1e9:.2f} GB" if both else "- | -"
            for both in pairs
        ]
        lines.append(f"| {name}, built | {layout} | " + " | ".join(cells) + " |")
    return head + lines


HEADER = """# Toward a thousand devices, on paper

Nobody has run this project on a thousand devices. What can be done without them is done here: build one rank of the layout
on devices that are not there, count what it holds and sends, predict the step from the links, and hold the prediction
against what others published. Written by `python benchmarks/thousand_devices.py --simulate`.

## What a rank holds and sends

`groundup plan RECIPE --simulate` applies the layout to a model without memory on PyTorch's fake process group of 1,024 ranks,
runs one micro-batch forward and back with tensors that have shapes and no numbers, and counts. Beside it stands what
`plan/memory_estimate.py` and `plan/communication.py` say without
building anything. What differs is padding where 1,024 does not divide a
dimension, and activations, of which a CPU's kernels keep other things than an accelerator's may.

{simulated}

The traffic formulas are also held against counted bytes on real ranks of gloo, byte for byte:
`tests/parallel/test_comm_bytes.py`.

## What a step takes

`plan/step_time.py` adds the products' time, at one share of the peak for all, and what of the links is not hidden behind them.
An H100's link is taken as 450 GB/s one way and its network as 400 Gb/s, an A100's as 300 GB/s and 200 Gb/s, of which the plan
assumes all; a hop between two ranks as {hop:.0f} microseconds, which is an assumption. These are data sheet figures: what real
collectives reach is less, and the errors below say by how much that matters.

{recipes}

At the share of {h100:.0%} that the plan's table gives an H100; the published runs below were made at {low:.0%} to {high:.0%}.

## Beside published runs

For each table the first run sets the share of the peak at which products run in that software and on those machines; the others
are predicted. So an error is one of the links, of recomputation and of how the share changes with the model, and not of how
good the kernels are: that is what the plan cannot know.

{tables}

Of {number} runs predicted, the mean error is {mean:.0%} and the largest {worst:.0%}. The largest are those with selective
checkpointing, whose second pass through what is not a product the prediction counts as free.

Said elsewhere, and not compared run by run because the layouts are not published beside them: Megatron-LM trains GPT-3 175B with
a batch of 1,152 sequences at 47% of an H100's peak on 96 devices and at 42% on 4,608, and models of 2 to 462 billion parameters
at 41% to 48% (<https://github.com/NVIDIA/Megatron-LM>, README). torchtitan's runs of the 70B and the 405B (its tables 4 to 6)
mix 8-bit with bfloat16 products, for which it states no peak.
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--simulate", action="store_true")
    simulate = arguments.parse_args().simulate
    parts, errors, shares = [], [], []
    for table in TABLES:
        lines, share, missed = table_rows(table)
        errors += missed
        shares.append(share)
        parts.append(
            f"### {table.name}\n\n<{table.source}>. {table.remark} Products at {share:.0%} of the peak.\n\n"
            + "\n".join(lines)
        )
    PAGE.write_text(
        HEADER.format(
            simulated="\n".join(simulated_rows(simulate)), recipes="\n".join(recipe_rows()), tables="\n\n".join(parts),
            hop=HOP_SECONDS * 1e6, h100=DEVICES["h100"].kernel_efficiency,
            low=min(s for t, s in zip(TABLES, shares, strict=True) if t.device == "h100"),
            high=max(s for t, s in zip(TABLES, shares, strict=True) if t.device == "h100"), number=len(errors),
            mean=sum(map(abs, errors)) / len(errors), worst=max(map(abs, errors)),
        ),
        encoding="utf-8",
    )  # fmt: skip
    print(f"wrote {PAGE.relative_to(ROOT)}; shares {', '.join(f'{share:.3f}' for share in shares)}")


if __name__ == "__main__":
    main()
