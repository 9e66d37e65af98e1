"""What `--deterministic` costs: one stream, sixteen together and a prompt, with and without, on the same weights in one run.

    python benchmarks/deterministic.py MODEL [--dtype bfloat16] [--threads 1] [--modules] [--save]

Processor seconds of all threads. `--modules`: without the step in C on the deterministic side, as for models that it does not
know.
"""

import argparse
import time
from pathlib import Path

import torch
from dated_results import saved_output

from groundup.generate import GREEDY, BatchingEngine, Request, generation, make_deterministic
from groundup.quantize import open_model


def seconds(model: torch.nn.Module, prompts: list[list[int]], max_tokens: int) -> float:
    """Processor seconds to answer all prompts together."""
    engine = BatchingEngine(model, max_batch=len(prompts))
    for prompt in prompts:
        engine.submit(Request(prompt, max_tokens, GREEDY))
    begin = time.process_time()
    while engine.busy:
        engine.step()
    return time.process_time() - begin


def measure(model: torch.nn.Module, vocab_size: int, args: argparse.Namespace) -> dict[str, float]:
    """Tokens per processor second of each load."""
    torch.manual_seed(0)
    prompt = torch.randint(vocab_size, (args.prompt,)).tolist()
    short = [prompt[i : i + 8] for i in range(16)]
    loads = {
        "one stream": (short[:1], args.tokens, args.tokens),
        "sixteen": (short, args.tokens, 16 * args.tokens),
        "prompt": ([prompt], 1, args.prompt),
    }
    best = {}
    for name, (prompts, max_tokens, tokens) in loads.items():
        seconds(model, prompts, max_tokens)  # compiled kernels, trials of products
        best[name] = tokens / min(seconds(model, prompts, max_tokens) for _ in range(args.repeats))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="What --deterministic costs.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--modules", action="store_true")
    parser.add_argument("--save", action="store_true", help="write the results to benchmarks/results")
    args = parser.parse_args()
    with saved_output("deterministic", "What --deterministic costs", save=args.save):
        run(args)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    model, tokenizer = open_model(args.model, "cpu", dtype=args.dtype)
    plain = measure(model, tokenizer.vocab_size, args)
    make_deterministic(model)
    if args.modules:
        generation.all_steps_in_c = lambda *_: None
    fixed = measure(model, tokenizer.vocab_size, args)
    for name, rate in plain.items():
        print(
            f"{name:12} {rate:8.1f} tokens/s   deterministic {fixed[name]:8.1f}   {rate / fixed[name]:.2f} times the time"
        )


if __name__ == "__main__":
    main()
