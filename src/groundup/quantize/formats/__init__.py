"""The layouts of quantized weights that other software reads, each written and read exactly.

Reading order: `format` (what one is), `gptq`, `awq`, `compressed_tensors`, `folder` (whole Hugging Face
folders).

Deliberately absent: act-order files, per-row scales, grids of more than one scheme in a model: they would be
read wrong by half of the engines.
"""

from groundup.quantize.formats.awq_format import AWQ
from groundup.quantize.formats.compressed_tensors import COMPRESSED_TENSORS
from groundup.quantize.formats.gptq_format import GPTQ
from groundup.quantize.formats.quantized_format import QuantizedFormat

FORMATS: dict[str, QuantizedFormat] = {format.name: format for format in (GPTQ, AWQ, COMPRESSED_TENSORS)}

__all__ = ["FORMATS", "QuantizedFormat"]
