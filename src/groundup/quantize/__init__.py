"""11. Quantization: weights of 2 to 8 bits for linear layers and experts, and inputs in 8 bits.

    quantization_grid.py     scales, zeros and codes of a weight matrix; round to nearest (RTN), the baseline
    calibration.py           statistics of layer inputs, block by block
    calibration_windows.py   token windows for calibration
    calibration_text.py      the text of a run for calibration and comparison
    bit_packing.py           codes packed into words
    layers/                  layers with packed weights
    methods/                 GPTQ, AWQ, AutoRound, SmoothQuant
    block_methods.py         all methods, applied to a block
    quantizer.py             quantization of a whole model
    block_checkpoint.py      finished blocks on disk, from which a killed quantization goes on
    kernels/                 layers in the layouts of fast kernels
    quantized_folder.py      groundup's folder layout
    formats/                 GPTQ, AWQ and compressed-tensors files
    model_loader.py          open models at any path
    gguf_calibration.py      text and importance for GGUF's types
    model_exporter.py        export models, and compare with the source
    comparison_inputs.py     what is predicted, by architecture
    float_comparison.py      loss, KL divergence and agreement with the float model
    model_scores.py          these, and a task
    process_measurement.py   memory and speed in a process of its own
    weight_check.py          weights that cannot be quantized
    standalone.py            quantization without a recipe
    method_comparison.py     all methods side by side
    price_table.py           the comparison as text
    stage.py                 stages 09-quantized and 10-export

Deliberately absent: quantization-aware training; the KV cache in 8 bits is in chapter 7. On GPUs,
layers dequantize and multiply: the kernels are those of a CPU.
"""

from groundup.quantize.layers.quantized_linear import QuantizedLinear
from groundup.quantize.model_exporter import ModelExport, export_model
from groundup.quantize.model_loader import open_model
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight
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
    "ModelExport",
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
