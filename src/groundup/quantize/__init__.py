"""11. Quantization: 4-bit and 8-bit weights for linear layers.

    quantization_grid.py     scales, zeros and codes of a weight matrix; round to nearest (RTN), the baseline
    calibration.py           statistics of layer inputs, block by block
    calibration_windows.py   token windows for calibration
    calibration_text.py      the text of a run for calibration and comparison
    gptq.py                  GPTQ: error-compensating rounding
    awq.py                   AWQ: activation-aware scales
    bit_packing.py           codes packed into words
    quantized_linear.py      the linear layer with a packed weight
    nf4.py                   NF4 with double quantization
    nf4_linear.py            the linear layer with a weight in NF4, the base of QLoRA
    quantizer.py             quantization of a whole model
    int4_cpu.py              PyTorch's int4 kernel for small batches on a CPU
    quantized_folder.py      groundup's folder layout
    formats/                 GPTQ, AWQ and compressed-tensors files
    model_loader.py          open and export models at any path
    float_comparison.py      loss, KL divergence and agreement with the float model
    standalone.py            quantization without a recipe
    stage.py                 stage 09-quantized

Deliberately absent: quantized activations and KV caches, quantization-aware training, and quantized embeddings, output
heads and experts. On GPUs, layers dequantize and multiply; there are no custom kernels.
"""

from groundup.quantize.model_loader import export_model, open_model
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight
from groundup.quantize.quantized_linear import QuantizedLinear
from groundup.quantize.quantizer import (
    METHODS,
    LayerQuantizationError,
    QuantizationSettings,
    dequantize_model,
    quantize_model,
)
from groundup.quantize.standalone import quantize, quantize_folder

__all__ = [
    "METHODS",
    "LayerQuantizationError",
    "QuantizationScheme",
    "QuantizationSettings",
    "QuantizedLinear",
    "QuantizedWeight",
    "dequantize_model",
    "export_model",
    "open_model",
    "quantize",
    "quantize_folder",
    "quantize_model",
]
