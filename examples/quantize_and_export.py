"""Quantize a model to 4 bits with GPTQ, score it before and after, and export it for transformers and llama.cpp.

python examples/quantize_and_export.py MODEL TEXT_FILE OUT      MODEL: a run, a Hugging Face folder or a .gguf file
"""

import sys
from pathlib import Path

import groundup
from groundup.interop import export
from groundup.quantize import dequantize_model, quantize


def main(path: str, text_file: str, out: str, group_size: int = 64) -> tuple[float, float]:
    """Returns the bits per byte of the second half of the text before and after; writes OUT/huggingface and OUT/gguf."""
    model, tokenizer = groundup.open_model(path, device="cpu")
    text = Path(text_file).read_text(encoding="utf-8")
    calibration, held_out = text[: len(text) // 2], text[len(text) // 2 :]

    before = groundup.bits_per_byte(model, tokenizer, held_out)
    quantize(model, tokenizer, [calibration], method="gptq", bits=4, group_size=group_size)
    after = groundup.bits_per_byte(model, tokenizer, held_out)
    print(f"bits per byte: {before:.4f} before, {after:.4f} with 4-bit weights")

    dequantize_model(model)
    for format in ("huggingface", "gguf"):
        files = export(model, tokenizer, Path(out) / format, format=format, dtype="float32")
        print(*files, sep="\n")
    return before, after


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
