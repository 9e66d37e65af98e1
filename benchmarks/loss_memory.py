"""Memory of the loss over a vocabulary of 128,000: the chunked loss, an unchunked one, and transformers'.

    python benchmarks/loss_memory.py [--device cuda] [--tokens 4096] [--vocabulary 128000] [--width 512]

Each in its own process, forward and backward, bfloat16 products of float32 weights. Memory is counted beyond the hidden
states, the head and their gradients, which every form needs.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.nn import functional as F


def chunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from groundup.model import linear_cross_entropy

    return linear_cross_entropy(hidden, weight, labels)


def compiled(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from groundup.model import linear_cross_entropy

    return linear_cross_entropy(hidden, weight, labels, compiled=True)


def unchunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), labels)


def transformers(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits = F.linear(hidden, weight)
    return ForCausalLMLoss(logits, labels, vocab_size=weight.shape[0], shift_labels=labels)


LOSSES = {"chunked": chunked, "compiled": compiled, "unchunked": unchunked, "transformers": transformers}


def measure(name: str, device: str, tokens: int, vocabulary: int, width: int) -> dict[str, float]:
    """Loss, seconds of the best pass, and peak bytes beyond inputs and gradients."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, device=device, requires_grad=True)
    weight = (torch.randn(vocabulary, width, device=device) * 0.02).requires_grad_()
    labels = torch.randint(vocabulary, (tokens,), device=device)
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    LOSSES[name](hidden[:2], weight[:8].detach(), labels[:2] % 8).backward()  # warm-up
    before, seconds, loss = peak_bytes(device), [], torch.zeros(())
    for _ in range(3):
        began = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = LOSSES[name](hidden, weight, labels)
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {"loss": loss.item(), "seconds": min(seconds), "bytes": peak_bytes(device) - before}


def peak_bytes(device: str) -> float:
    """Peak memory so far, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [options.device, options.tokens, options.vocabulary, options.width]
    if options.one:
        print(json.dumps(measure(options.one, *sizes)))
        return

    flags = ["--device", options.device, "--tokens", str(options.tokens)]
    flags += ["--vocabulary", str(options.vocabulary), "--width", str(options.width)]
    rows = {}
    for name in LOSSES:
        result = subprocess.run(
            [sys.executable, __file__, "--one", name, *flags], capture_output=True, text=True, check=False
        )
        if result.returncode:
            print(f"{name}: failed: {(result.stderr.strip().splitlines() or ['killed'])[-1]}", file=sys.stderr)
            continue
        rows[name] = json.loads(result.stdout.splitlines()[-1])
    print(f"{options.tokens:,} tokens, vocabulary {options.vocabulary:,}, width {options.width}, on {options.device}")
    print(f"{'':14} {'loss':>9} {'MB':>8} {'seconds':>8}   relative to chunked: memory, seconds")
    for name, row in rows.items():
        ours = rows["chunked"]
        memory, seconds = row["bytes"] / ours["bytes"], row["seconds"] / ours["seconds"]
        print(
            f"{name:14} {row['loss']:>9.5f} {row['bytes'] / 1e6:>8,.0f} {row['seconds']:>8.2f}   {memory:.1f}, {seconds:.2f}"
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"tokens": options.tokens, "vocabulary": options.vocabulary, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
