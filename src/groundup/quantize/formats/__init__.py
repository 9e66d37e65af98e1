"""File formats of quantized weights that other software reads.

    quantized_format.py     the interface of a format
    gptq_format.py          GPTQ
    awq_format.py           AWQ
    compressed_tensors.py   compressed-tensors
    huggingface_folder.py   export and import of whole folders

Deliberately absent: act-order files, per-row scales and mixed schemes, which many engines read wrongly.
"""

from groundup.quantize.formats.awq_format import AWQ
from groundup.quantize.formats.compressed_tensors import COMPRESSED_TENSORS
from groundup.quantize.formats.gptq_format import GPTQ
from groundup.quantize.formats.quantized_format import QuantizedFormat

FORMATS: dict[str, QuantizedFormat] = {format.name: format for format in (GPTQ, AWQ, COMPRESSED_TENSORS)}

__all__ = ["FORMATS", "QuantizedFormat"]
