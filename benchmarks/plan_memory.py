"""Planned against measured memory of training: one process for each configuration.

    python benchmarks/plan_memory.py [--only WORD] [--simulated] [--output FILE]

On a CPU the measured value is the peak of the resident memory of the whole process over four steps, with a checkpoint after
each; on a GPU the peak of PyTorch's allocations; with --simulated that of one accelerator on fake tensors
(train/simulation.py), of decoders. About 30 s for each configuration on one core.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SMALL = {"vocab_size": 8192, "hidden_size": 384, "num_layers": 6, "num_heads": 6, "context_length": 2048}
LARGE = SMALL | {"vocab_size": 16_384, "hidden_size": 768, "num_layers": 8, "num_heads": 12}
EXPERTS = {"moe": {"num_experts": 8, "experts_per_token": 2, "intermediate_size": 512}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int, int, str]] = {
    # model, [train], sequences, length, checkpointing
    "dense": (SMALL, {}, 8, 256, "none"),
    "dense, float32": (SMALL, {"precision": "float32"}, 8, 256, "none"),
    "dense, 16 sequences": (SMALL, {}, 16, 256, "none"),
    "dense, length 1024": (SMALL, {}, 4, 1024, "none"),
    "dense, two micro-batches": (SMALL, {"batch_tokens": 4096}, 8, 256, "none"),
    "dense, full checkpointing": (SMALL, {}, 16, 512, "full"),
    "dense, selective checkpointing": (SMALL, {}, 16, 512, "selective"),
    "dense, Muon": (SMALL, {"optimizer": "muon"}, 8, 256, "none"),
    "dense, float8 moments": (SMALL, {"optimizer_state_dtype": "float8"}, 8, 256, "none"),
    "dense, bfloat16 weights": (SMALL, {"precision": "bfloat16-pure"}, 8, 256, "none"),
    "dense, moving average": (SMALL, {"weight_averaging": "ema"}, 8, 256, "none"),
    "tied": (SMALL | {"tie_embeddings": True}, {}, 8, 256, "none"),
    "qk_norm": (SMALL | {"qk_norm": True}, {}, 8, 256, "none"),
    "sandwich": (SMALL | {"norm_placement": "sandwich"}, {}, 8, 512, "none"),
    "grouped queries": (SMALL | {"num_kv_heads": 2}, {}, 8, 512, "none"),
    "GPT-2": (
        SMALL | {"norm": "layernorm", "norm_bias": True, "feed_forward": "gelu_tanh", "position_embedding": "learned",
                 "attention_bias": "all", "feed_forward_bias": True, "tie_embeddings": True},
        {}, 8, 512, "none",
    ),
    "Gemma, local layers": (
        SMALL | {"sliding_window": 128, "attention_pattern": ("local", "local", "global"), "feed_forward": "geglu_tanh",
                 "norm": "zero_centered_rmsnorm", "norm_placement": "sandwich"},
        {}, 4, 1024, "none",
    ),
    "experts": (SMALL | EXPERTS, {}, 8, 256, "none"),
    "latent attention": (
        SMALL | {"head_dim": 64,
                 "latent_attention": {"kv_rank": 128, "rope_head_dim": 32, "value_head_dim": 64}}, {}, 8, 256, "none",
    ),
    "state space": (SMALL | {"num_heads": 12, "head_dim": 64, "state_space": {"state_size": 64}}, {}, 4, 256, "none"),
    "encoder": (SMALL | {"architecture": "encoder"}, {}, 8, 256, "none"),
    "encoder-decoder": (SMALL | {"architecture": "encoder_decoder", "position_embedding": "relative"}, {}, 8, 256, "none"),
    "124M shape, 8 blocks": (LARGE, {}, 8, 256, "none"),
    "124M shape, full checkpointing": (LARGE, {}, 8, 512, "full"),
    "124M shape, Muon": (LARGE, {"optimizer": "muon"}, 4, 512, "none"),
    "124M shape, qk_norm, tied": (LARGE | {"qk_norm": True, "tie_embeddings": True}, {}, 4, 1024, "none"),
}  # fmt: skip


def train_settings(train: dict[str, Any], rows: int, length: int) -> Any:
    from groundup.recipe.train_config import TrainConfig

    defaults = {"steps": 4, "warmup_steps": 1, "evaluate_every": 100, "learning_rate": 1e-4, "sequence_length": length}
    return TrainConfig(**defaults | {"batch_tokens": rows * length} | train)


def measure(name: str) -> dict[str, float]:
    """Bytes of the process before the model is built, and at the peak."""
    import torch

    from groundup.artifacts.machine import Machine
    from groundup.model import build_model
    from groundup.plan.shape.masked_spans import corrupted_lengths
    from groundup.recipe import ModelConfig
    from groundup.train.device import setup_device
    from groundup.train.engines import build_engine
    from groundup.train.objectives import default_objective
    from groundup.train.throughput import peak_memory_bytes
    from groundup.train.training_loop import run_training_loop

    knobs, train, rows, length, checkpointing = CASES[name]
    settings = train_settings(train, rows, length)
    machine = Machine(
        micro_batch_size=rows,
        activation_checkpointing=checkpointing,
        checkpoint_every_seconds=0.0,
        threads=1,  # type: ignore[arg-type]
    )
    device = setup_device(machine)
    before = peak_memory_bytes(device)
    torch.manual_seed(0)
    config = ModelConfig(**knobs)
    model = build_model(config).to(device)
    engine = build_engine(model, default_objective(model), settings, machine)
    sequences = settings.batch_tokens // length
    tokens = torch.randint(config.vocab_size, (sequences, length))
    batch = {"tokens": tokens, "labels": tokens}
    if config.architecture == "encoder":
        batch["labels"] = tokens.masked_fill(torch.rand(tokens.shape) > settings.mask_rate, -100)
    if config.architecture == "encoder_decoder":
        source, target = corrupted_lengths(length, settings.mask_rate, settings.mean_span_length)
        batch = {"tokens": tokens[:, :source], "labels": tokens[:, :target]}

    class Batches:
        def batch(self, step: int) -> dict[str, torch.Tensor]:
            return batch

    with tempfile.TemporaryDirectory() as folder:
        run_training_loop(engine, Batches(), settings, Path(folder), machine)
    return {"before": before, "peak": peak_memory_bytes(device), "cuda": float(device.type == "cuda")}


def plan(name: str, kind: str) -> Any:
    from groundup.plan.memory.memory_estimate import estimate_training_memory
    from groundup.recipe import ModelConfig

    knobs, train, rows, length, checkpointing = CASES[name]
    return estimate_training_memory(
        ModelConfig(**knobs), length, rows, activation_checkpointing=checkpointing,  # type: ignore[arg-type]
        train=train_settings(train, rows, length), kind=kind,  # type: ignore[arg-type]
    )  # fmt: skip


def simulated(name: str) -> float:
    from groundup.recipe import ModelConfig
    from groundup.train.simulation import simulate_device

    knobs, train, rows, length, checkpointing = CASES[name]
    return simulate_device(ModelConfig(**knobs), train_settings(train, rows, length), rows, length, checkpointing)[
        "peak"
    ]  # type: ignore[arg-type]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--simulated", action="store_true")
    arguments.add_argument("--output", type=Path)
    arguments.add_argument("--case", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.case:
        print(json.dumps({"peak": simulated(options.case)} if options.simulated else measure(options.case)))
        return
    lines = ["| configuration | planned MB | measured MB | planned / measured |", "|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    ratios = []
    for name in CASES:
        if options.only not in name:
            continue
        command = [sys.executable, __file__, "--case", name, *(["--simulated"] if options.simulated else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["?"])[-1][:60]
            print(f"| {name} | | {reason} | |", flush=True)
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        memory = plan(name, "cuda" if options.simulated or found["cuda"] else "cpu")
        planned = memory.total - (memory.process + memory.slack if options.simulated or found["cuda"] else 0)
        ratios.append(planned / found["peak"])
        lines.append(f"| {name} | {planned / 1e6:,.0f} | {found['peak'] / 1e6:,.0f} | {ratios[-1]:.3f} |")
        print(lines[-1], file=sys.stdout, flush=True)
    within = sum(abs(ratio - 1) <= 0.05 for ratio in ratios)
    lines.append(f"\n{within} of {len(ratios)} within 5%; from {min(ratios):.3f} to {max(ratios):.3f}.")
    print(lines[-1])
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
