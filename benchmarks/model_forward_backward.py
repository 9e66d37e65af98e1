"""Training steps of a Llama model in groundup, transformers and litgpt: tokens per second, memory, fraction of peak FLOP/s.

    python benchmarks/model_forward_backward.py                              # the quickstart's shape, on the CPU
    python benchmarks/model_forward_backward.py --shape 30m --compiled
    python benchmarks/model_forward_backward.py --device cuda --shape 124m --compiled --steps 20

Same shape, dtype (bfloat16 autocast over float32 weights), batch and optimizer (fused AdamW) for all. Each library
runs in its own process, in alternating rounds, and its best step counts, which other load on the machine disturbs least. Missing
libraries are skipped; litgpt may be in another environment (--litgpt-python).
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

SHAPES = {
    "tiny": {"vocab": 512, "width": 64, "layers": 2, "heads": 2, "feed_forward": 176, "length": 64, "batch": 2},
    "6m": {"vocab": 4096, "width": 256, "layers": 8, "heads": 4, "feed_forward": 704, "length": 256, "batch": 8},
    "30m": {"vocab": 8192, "width": 512, "layers": 8, "heads": 8, "feed_forward": 1408, "length": 512, "batch": 8},
    "124m": {
        "vocab": 50_304,
        "width": 768,
        "layers": 12,
        "heads": 12,
        "feed_forward": 2048,
        "length": 1024,
        "batch": 16,
    },
    "1.3b": {
        "vocab": 32_000,
        "width": 2048,
        "layers": 24,
        "heads": 16,
        "feed_forward": 5632,
        "length": 2048,
        "batch": 8,
    },
}
"""Llama shapes with tied embeddings: 6m is the quickstart's, 124m has GPT-2's size, 1.3b GPT-3 XL's."""
LIBRARIES = ("groundup", "transformers", "litgpt")

Loss = Callable[[Tensor], Tensor]


def groundup(shape: dict[str, int]) -> tuple[nn.Module, Loss]:
    from groundup import Decoder, ModelConfig

    config = ModelConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["width"],
        num_layers=shape["layers"],
        num_heads=shape["heads"],
        intermediate_size=shape["feed_forward"],
        context_length=shape["length"],
        tie_embeddings=True,
    )
    model = Decoder(config)
    return model, lambda tokens: model(tokens, labels=tokens).loss


def transformers(shape: dict[str, int]) -> tuple[nn.Module, Loss]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["width"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=shape["feed_forward"],
        max_position_embeddings=shape["length"],
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    return model, lambda tokens: model(tokens, labels=tokens).loss


def litgpt(shape: dict[str, int]) -> tuple[nn.Module, Loss]:
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        block_size=shape["length"],
        padded_vocab_size=shape["vocab"],
        vocab_size=shape["vocab"],
        n_embd=shape["width"],
        n_layer=shape["layers"],
        n_head=shape["heads"],
        head_size=shape["width"] // shape["heads"],
        intermediate_size=shape["feed_forward"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    model = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight
    # Without chunks, which is the faster of its two forms here.
    return model, lambda tokens: chunked_cross_entropy(model(tokens)[:, :-1], tokens[:, 1:], chunk_size=0)


def measure(name: str, compiled: bool, device: str, shape: dict[str, int], steps: int) -> dict[str, float]:
    """The best step of one library, in this process."""
    torch.manual_seed(0)
    model, loss = {"groundup": groundup, "transformers": transformers, "litgpt": litgpt}[name](shape)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(shape["vocab"], (shape["batch"], shape["length"]), device=device)
    before = peak_bytes(device)

    def forward(tokens: Tensor) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return loss(tokens)

    if compiled:
        forward = torch.compile(forward)
    seconds, cpu_seconds = [], []
    for _ in range(steps + 2):
        began, worked = time.perf_counter(), time.process_time()
        forward(tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - worked)
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "seconds": min(seconds[2:]),
        "cpu_seconds": min(cpu_seconds[2:]),
        "memory": peak_bytes(device) - before,
    }


def peak_bytes(device: str) -> float:
    """Peak memory so far, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matmul_peak(device: str, threads: int) -> float:
    """FLOP/s of a large bfloat16 matrix product."""
    torch.set_num_threads(threads)
    size = 8192 if device == "cuda" else 1536
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def flops(shape: dict[str, int]) -> float:
    """FLOPs of the matrix products of a step: 6 per weight and token, plus causal attention (PaLM, app. B)."""
    width, tokens = shape["width"], shape["batch"] * shape["length"]
    weights = shape["layers"] * (4 * width**2 + 3 * width * shape["feed_forward"]) + shape["vocab"] * width
    return tokens * (6 * weights + 6 * shape["layers"] * width * shape["length"])


def is_missing(name: str, python: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec(name) is None
    return subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False).returncode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=list(SHAPES), default="6m")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile (minutes on a CPU)")
    parser.add_argument("--litgpt-python", default=sys.executable, help="Python of an environment that has litgpt")
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape, best = SHAPES[options.shape], {}
    if options.one:
        torch.set_num_threads(options.threads)
        name, mode = options.one
        print(json.dumps(measure(name, mode == "compiled", options.device, shape, options.steps)))
        return

    pythons = {name: options.litgpt_python if name == "litgpt" else sys.executable for name in LIBRARIES}
    present = [name for name in LIBRARIES if not is_missing(name, pythons[name])]
    for _ in range(options.rounds):
        for mode in ("eager", "compiled") if options.compiled else ("eager",):
            for name in present:
                command = [pythons[name], __file__, "--one", name, mode]
                command += ["--device", options.device, "--shape", options.shape]
                command += ["--steps", str(options.steps), "--threads", str(options.threads)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"{name} {mode}: failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                    continue
                found = json.loads(done.stdout.splitlines()[-1])
                known = best.setdefault((mode, name), found)
                best[mode, name] = {key: min(found[key], known[key]) for key in found}

    peak, tokens = matmul_peak(options.device, options.threads), shape["batch"] * shape["length"]
    print(f"{shape} on {options.device}, {options.threads} threads, matmul peak {peak / 1e9:,.0f} GFLOP/s")
    print(f"{'':22} {'tokens/s':>10} {'of peak':>8} {'CPU s/step':>11} {'peak MB':>8}   ours is faster by")
    rows = []
    for (mode, name), figures in best.items():
        ours = best.get((mode, "groundup"), figures)
        row = {
            "name": name,
            "mode": mode,
            "tokens_per_second": tokens / figures["seconds"],
            "fraction_of_peak": flops(shape) / figures["seconds"] / peak,
            "cpu_seconds": figures["cpu_seconds"],
            "memory_bytes": figures["memory"],
            "ratio": figures["seconds"] / ours["seconds"],
        }
        rows.append(row)
        print(
            f"{name + ', ' + mode:22} {row['tokens_per_second']:>10,.0f} {row['fraction_of_peak']:>8.0%} "
            f"{row['cpu_seconds']:>11.3f} {row['memory_bytes'] / 1e6:>8,.0f}   {row['ratio']:.2f}"
        )
    for name in set(LIBRARIES) - set(present):
        print(f"{name}: not installed in {pythons[name]}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"shape": shape, "device": options.device, "matmul_peak": peak, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
