"""How wrong plans are: time of steps on this machine after calibration, and time and loss of published runs.

    python benchmarks/plan_accuracy.py published       # seconds; no measurement: reads benchmarks/published_runs.toml
    python benchmarks/plan_accuracy.py time            # 20 minutes on two quiet cores; --only NAME for one configuration

`time`: each of 24 configurations is planned for the cores at hand, calibrated as `groundup plan --calibrate` does, then trained
for some steps in its full size. No peer: no other planner takes these recipes.
"""

import argparse
import math
import statistics
import tomllib
from pathlib import Path
from typing import Any

from groundup.plan.hardware import DEVICES
from groundup.plan.layout.communication import StepSpec
from groundup.plan.layout.layout_search import search_layouts
from groundup.plan.scaling.loss_law import predict_published_loss
from groundup.plan.shape.parameter_count import count_parameters
from groundup.plan.time.run_time import estimate_run_time
from groundup.plan.time.step_time import estimate_step_time
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig

RUNS = tomllib.loads(Path(__file__).with_name("published_runs.toml").read_text(encoding="utf-8"))
CHECKPOINT_SECONDS = 3600.0
"""Between checkpoints of published runs (assumed)."""

SMALL = {"hidden_size": 128, "num_layers": 6, "num_heads": 4, "vocab_size": 4096, "context_length": 256}
CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dense, 64 wide": ({"hidden_size": 64, "num_layers": 4, "num_heads": 2}, {}),
    "dense, 128 wide": ({}, {}),
    "dense, 256 wide": ({"hidden_size": 256, "num_layers": 8}, {}),
    "dense, 512 wide": ({"hidden_size": 512, "num_layers": 6, "num_heads": 8}, {}),
    "sequences of 64": ({}, {"sequence_length": 64}),
    "sequences of 512": ({"context_length": 512}, {"sequence_length": 512}),
    "sequences of 1024": ({"context_length": 1024}, {"sequence_length": 1024}),
    "batches of 1,024": ({}, {"batch_tokens": 1024}),
    "batches of 16,384": ({}, {"batch_tokens": 16_384}),
    "adamw": ({}, {"optimizer": "adamw"}),
    "float32": ({}, {"precision": "float32"}),
    "vocabulary of 512": ({"vocab_size": 512}, {}),
    "vocabulary of 32,000": ({"vocab_size": 32_000}, {}),
    "qk_norm": ({"qk_norm": True}, {}),
    "sandwich norms": ({"norm_placement": "sandwich"}, {}),
    "plain gelu": ({"feed_forward": "gelu"}, {}),
    "grouped queries": ({"num_kv_heads": 2}, {}),
    "tied embeddings": ({"tie_embeddings": True}, {}),
    "experts": ({"moe": {"num_experts": 8, "experts_per_token": 2, "intermediate_size": 256}}, {"optimizer": "adamw"}),
    "state space": ({"state_space": {}, "head_dim": 64}, {"optimizer": "adamw"}),
    "encoder": ({"architecture": "encoder"}, {}),
    "alibi": ({"position_embedding": "alibi"}, {}),
    "wide feed-forward": ({"intermediate_size": 1024}, {}),
    "12 blocks": ({"num_layers": 12}, {}),
}
TRAINING = {"batch_tokens": 4096, "sequence_length": 256, "optimizer": "muon", "precision": "bfloat16"}


def model(name: str, length: int) -> ModelConfig:
    return ModelConfig(**RUNS["models"][name] | {"context_length": length})


def planned_step(run: dict[str, Any]) -> float:
    """Tokens per second and device that are planned for a published step."""
    config, device = model(run["model"], run["length"]), DEVICES[run["device"]]
    axes = run.get("layout", {})
    data = run["devices"] // math.prod(axes.values())
    # FSDP, and copies with one gradient exchange a step where other axes shard the weights
    layout = LayoutConfig(**axes, shard=1, replicate=data) if axes else LayoutConfig(shard=data)
    sequences = max(1, run["sequences"] // data)
    spec = StepSpec(sequences, run["length"], max(1, sequences // run["micro_batch"]), 2, run["checkpointing"])
    step = estimate_step_time(config, layout, spec, device, run.get("precision", "bfloat16"))
    return run["sequences"] * run["length"] / step.total / run["devices"]


def published_step(run: dict[str, Any]) -> float:
    """Tokens per second and device as published, or from operations as the Megatron-LM paper counts them (section 5.1)."""
    if "tokens_per_second" in run:
        return run["tokens_per_second"]
    shape = RUNS["models"][run["model"]]
    width, layers = shape["hidden_size"], shape["num_layers"]
    factor = 1 + run["length"] / (6 * width) + shape["vocab_size"] / (16 * layers * width)
    return run["teraflops"] * 1e12 / (96 * layers * width**2 * factor)


def planned_hours(run: dict[str, Any]) -> tuple[float, str]:
    """Device hours that are planned for a whole training, on the layout that the search finds, and that layout."""
    config, device = model(run["model"], run["length"]), DEVICES[run["device"]]
    train = TrainConfig(batch_tokens=run["batch"], sequence_length=run["length"])
    search = search_layouts(config, train, device, run["devices"])
    steps = int(run["tokens"] / run["batch"])
    time = estimate_run_time(
        search.best.seconds, steps, run["batch"], run["devices"], count_parameters(config).total,
        evaluate_every=max(1, steps // 100), checkpoint_seconds=CHECKPOINT_SECONDS,
        machines=-(-run["devices"] // device.devices_per_machine),
    )  # fmt: skip
    return time.total / 3600 * run["devices"], f"{search.best.describe()}, {search.best.activation_checkpointing}"


def published_rows() -> tuple[list[str], dict[str, list[float]]]:
    """Markdown of all published runs, and the ratios of planned to published time by kind."""
    head = "| run | device | devices | sequences | published | planned | planned time / published |"
    lines = [head, "|---|---|---:|---:|---:|---:|---:|"]
    ratios: dict[str, list[float]] = {"steps": [], "whole": []}
    for name, table in RUNS["steps"].items():
        for run in table["runs"]:
            planned, published = planned_step(run), published_step(run)
            ratios["steps"].append(published / planned)
            how = f"{run['checkpointing']} checkpointing" + (f", {run['precision']}" if "precision" in run else "")
            axes = "".join(f", {axis} {size}" for axis, size in run.get("layout", {}).items())
            lines.append(
                f"| {name}: {run['model']}, {how}{axes} | {run['device']} | {run['devices']:,} | {run['length']:,} | "
                f"{published:,.0f} tokens/s | {planned:,.0f} | {published / planned:.2f} |"
            )
    for name, table in RUNS["whole"].items():
        for run in table["runs"]:
            hours, layout = planned_hours(run)
            ratios["whole"].append(hours / run["hours"])
            lines.append(
                f"| {name}: {run['model']}, {run['tokens'] / 1e12:g}T tokens ({layout}) | {run['device']} | {run['devices']:,} | "
                f"{run['length']:,} | {run['hours']:,.0f} h | {hours:,.0f} h | {hours / run['hours']:.2f} |"
            )
    return lines, ratios


def loss_rows() -> list[str]:
    """Markdown of published losses beside the published laws."""
    lines = ["| run | tokens | published loss | planned | interval |", "|---|---:|---:|---:|---|"]
    for name, run in RUNS["losses"].items():
        parameters = count_parameters(model(run["model"], 1024)).total
        loss = predict_published_loss(parameters, run["tokens"])
        inside = "inside" if loss["low"] <= run["loss"] <= loss["high"] else "outside"
        lines.append(
            f"| {name}: {run['model']} | {run['tokens']:.3g} | {run['loss']} | {loss['loss']:.2f} | {loss['low']:.2f} to "
            f"{loss['high']:.2f}: {inside} |"
        )
    return lines


def describe(ratios: list[float]) -> str:
    errors = sorted(abs(math.log(ratio)) for ratio in ratios)
    inside = [sum(error <= math.log(1 + bound) for error in errors) for bound in (0.1, 0.2, 0.3)]
    return (
        f"{len(ratios)} runs: median ratio {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}; "
        f"{inside[0]} within 10%, {inside[1]} within 20%, {inside[2]} within 30%"
    )


def measure_time(only: str | None) -> None:
    """The table of step times on this machine: planned, calibrated and measured."""
    import torch

    from groundup.model import build_model
    from groundup.recipe import build_model_config
    from groundup.train.speed_calibration import calibrate_speed
    from groundup.train.training_loop import train

    print("| configuration | measured | planned | error | calibrated | error |\n|---|---:|---:|---:|---:|---:|")
    errors = []
    for name, (shape, knobs) in CONFIGURATIONS.items():
        if only is not None and only != name:
            continue
        config = build_model_config(SMALL | shape)
        training = TrainConfig(**TRAINING | knobs)
        length, batch = training.sequence_length, training.batch_tokens
        assert length is not None
        assert batch is not None
        found = calibrate_speed("this-machine", config, training)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(config.vocab_size, (batch // length, length), generator=generator)
        batches, options = [{"tokens": tokens, "labels": tokens}], {"evaluate_every": 1_000_000, "device": "cpu"}
        options |= {"optimizer": training.optimizer, "precision": training.precision}
        result = train(build_model(config), batches, steps=14, **options)
        measured = statistics.median(record["seconds"] for record in result.records[4:])
        errors.append(found.measured / measured - 1)
        print(
            f"| {name} | {measured:.3f} s | {found.planned:.3f} s | {found.planned / measured - 1:+.0%} | "
            f"{found.measured:.3f} s | {errors[-1]:+.0%} |", flush=True,
        )  # fmt: skip
    worst, mean, good = max(map(abs, errors)), statistics.mean(map(abs, errors)), sum(abs(e) <= 0.1 for e in errors)
    print(f"\ncalibrated: mean error {mean:.1%}, largest {worst:.0%}, {good} of {len(errors)} within 10%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("published", "time"))
    parser.add_argument("--only", help="name of one configuration")
    arguments = parser.parse_args()
    if arguments.part == "time":
        measure_time(arguments.only)
        return
    lines, ratios = published_rows()
    print(
        "\n".join(
            [*lines, "", "steps: " + describe(ratios["steps"]), "whole trainings: " + describe(ratios["whole"]), ""]
        )
    )
    print("\n".join(loss_rows()))


if __name__ == "__main__":
    main()
