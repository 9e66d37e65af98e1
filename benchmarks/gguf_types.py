"""Benchmark: types of GGUF files beside llama.cpp's: bytes, and KL divergence from the float model.

    python benchmarks/gguf_types.py --model FOLDER [--ggml libggml-base.so] [--dtypes q4_0 q4_k_m] [--eval-tokens 1536]

FOLDER: a Hugging Face folder of SmolLM2-135M (`groundup export FILE.gguf --out FOLDER --dtype bfloat16`). The library is part of
every build of llama.cpp with BUILD_SHARED_LIBS=ON; its function ggml_quantize_chunk rounds one matrix. Both sides round the same
tensors to the same types, so that the files are of one size; each with and without the importance of the columns, from the
same calibration text. Text: pages of this project's book, every other one for calibration, the rest for the comparison.

Prints a row as soon as it is known. Processor time is of one thread, of the rounding alone.
"""

import argparse
import ctypes
import time
from pathlib import Path

import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor, nn

from groundup.artifacts.progress import Progress
from groundup.interop import open_model
from groundup.interop.gguf import measure_importance
from groundup.interop.gguf.architectures.gguf_architecture import gguf_weight_map
from groundup.interop.gguf.gguf_export import tensor_types
from groundup.interop.gguf.gguf_metadata import select_architecture
from groundup.interop.gguf.types.block_rounding import quantize_rows
from groundup.interop.gguf.types.gguf_blocks import BLOCK_TYPES, dequantize_blocks
from groundup.interop.weight_map import expected_shapes
from groundup.quantize.calibration_windows import evenly_spaced_windows
from groundup.quantize.float_comparison import compare_with_float
from groundup.recipe import ModelConfig

BOOK = Path(__file__).resolve().parents[1] / "book"
WINDOW, CALIBRATION_TOKENS = 256, 4_096
DTYPES = ["q4_0", "q4_k_m", "q5_k_m", "q3_k_m", "q6_k", "q8_0"]


class GGML:
    """llama.cpp's rounding of a matrix."""

    def __init__(self, library: Path):
        self._quantize = ctypes.CDLL(str(library)).ggml_quantize_chunk
        self._quantize.restype = ctypes.c_size_t
        self._quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def __call__(self, rows: Tensor, kind: Kind, importance: Tensor | None) -> Tensor:
        rows, block = rows.float().contiguous(), BLOCK_TYPES[kind]
        columns = None if importance is None else importance[0].float().contiguous()
        packed = torch.empty(len(rows), rows.shape[1] // block.block * block.block_bytes, dtype=torch.uint8)
        weights = None if columns is None else columns.data_ptr()
        self._quantize(int(kind), rows.data_ptr(), packed.data_ptr(), 0, *rows.shape, weights)
        return packed


def ours(rows: Tensor, kind: Kind, importance: Tensor | None) -> Tensor:
    return quantize_rows(rows, BLOCK_TYPES[kind], importance)


def book_windows(tokenizer, part: int, tokens: int) -> Tensor:
    pages = sorted(BOOK.glob("*.md"))[part::2]
    ids = [id for page in pages for id in tokenizer.encode(page.read_text(encoding="utf-8"))]
    return evenly_spaced_windows(ids, WINDOW, tokens)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--ggml", type=Path)
    parser.add_argument("--dtypes", nargs="+", default=DTYPES)
    parser.add_argument("--eval-tokens", type=int, default=1_536)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = open_model(options.model, device="cpu", dtype=torch.float32, verify=False)
    windows = book_windows(tokenizer, 1, options.eval_tokens)
    importance = measure_importance(model, book_windows(tokenizer, 0, CALIBRATION_TOKENS))
    rounded, _ = open_model(options.model, device="cpu", dtype=torch.float32, verify=False)
    weights, config = dict(model.state_dict()), model.config
    assert isinstance(config, ModelConfig)
    weight_map = list(gguf_weight_map(select_architecture(config), config, list(weights)))
    shapes = expected_shapes(weight_map, weights)
    rounders = {"groundup": ours} | ({"llama.cpp": GGML(options.ggml)} if options.ggml else {})
    print("| dtype | MB | rounding | KL to float | same first token | processor seconds |\n|---|---|---|---|---|---|")
    for dtype in options.dtypes:
        types = tensor_types(config, dtype, shapes)
        for weighted in (True, False):
            for name, rounder in rounders.items():
                size, begin = 0, time.process_time()
                for each in weight_map:  # rows of queries and keys keep their order: rounding is by rows
                    native, kind = each.native[0], types[each.foreign[0]]
                    if kind not in BLOCK_TYPES:
                        size += 4 * weights[native].numel()
                        continue
                    columns = importance.get(native) if weighted else None
                    packed = rounder(weights[native], kind, columns)
                    size += packed.numel()
                    _copy(rounded, native, dequantize_blocks(packed, BLOCK_TYPES[kind]))
                seconds = time.process_time() - begin
                with Progress().task("comparing", total=windows.numel(), unit="tokens") as task:
                    found = compare_with_float(model, {"rounded": rounded}, windows, task)["rounded"]
                how = f"{name}, {'importance' if weighted else 'none'}"
                scores = f"{found.kl_divergence:.4f} | {found.top1_agreement:.1%}"
                print(f"| {dtype} | {size / 1e6:.1f} | {how} | {scores} | {seconds:.0f} |", flush=True)


@torch.no_grad()
def _copy(model: nn.Module, name: str, values: Tensor) -> None:
    dict(model.named_parameters())[name].copy_(values)


if __name__ == "__main__":
    main()
