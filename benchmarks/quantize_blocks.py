"""Benchmark: methods of quantization on the first blocks of a model, the rest in floating point: minutes in place of an hour.

    python benchmarks/quantize_blocks.py --model FOLDER --calibration FILE --text FILE [--blocks 6] [--rows gptq-3-64-sym ...]

Rows as of quantize.py, without peers and sizes. Prints the KL to the float model over all predicted tokens of FILE's windows, and
the processor time of the rounding, on one thread.
"""

import argparse
import copy
import time
from pathlib import Path

import torch

from groundup import interop
from groundup.artifacts.progress import ProgressTask
from groundup.model import Decoder
from groundup.quantize.block_methods import METHOD_SCHEMES
from groundup.quantize.calibration_windows import evenly_spaced_windows
from groundup.quantize.float_comparison import compare_with_float
from groundup.quantize.quantization_grid import QuantizationScheme
from groundup.quantize.quantizer import QuantizationSettings, quantize_model
from quantize import parse_row

ROWS = [f"{method}-{bits}-64-sym" for bits in (4, 3) for method in ("rtn", "gptq", "awq", "autoround")]


def main() -> None:
    parser = argparse.ArgumentParser(description="quantization of the first blocks")
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", default=ROWS)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=2_048, help="for calibration")
    parser.add_argument("--eval-tokens", type=int, default=4_096)
    parser.add_argument("--window", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = interop.open_model(options.model, "cpu")
    assert isinstance(model, Decoder)
    calibration, held_out = (
        evenly_spaced_windows(tokenizer.encode(path.read_text(encoding="utf-8")), options.window, tokens)
        for path, tokens in ((options.calibration, options.tokens), (options.text, options.eval_tokens))
    )
    print(f"{options.blocks} blocks, {calibration.numel()} calibration tokens, KL on {held_out.numel()} other tokens\n")
    print("| row | KL | 95% | processor s |\n|---|---|---|---|", flush=True)
    for row in options.rows:
        asked = parse_row(row)
        scheme = QuantizationScheme(asked["bits"], asked["group"], asked["grid"] == "sym")
        scheme = METHOD_SCHEMES.get(asked["method"], scheme)
        quantized = copy.deepcopy(model)
        rest = quantized.blocks[options.blocks :]
        quantized.blocks = quantized.blocks[: options.blocks]
        quantized.config = model.config.model_copy(update={"num_layers": options.blocks})
        began = time.process_time()
        quantize_model(quantized, QuantizationSettings(asked["method"], scheme, **asked["options"]), calibration)
        seconds = time.process_time() - began
        quantized.blocks.extend(rest)
        quantized.config = model.config
        found = compare_with_float(model, {row: quantized}, held_out, ProgressTask("comparing", None, "tokens"))[row]
        low, high = found.kl_interval or (0.0, 0.0)
        print(f"| {row} | {found.kl_divergence:.4f} | {low:.3f} to {high:.3f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
