"""File formats of quantized weights that other software reads.

    quantized_format.py     the interface of a format
    gptq_format.py          GPTQ
    awq_format.py           AWQ
    compressed_tensors.py   compressed-tensors
    bitsandbytes_format.py  bitsandbytes
    packed_source.py        the tensors of a folder with quantized layers
    mapped_weights.py       maps of float weights, applied to quantized ones
    huggingface_folder.py   export and import of whole folders
    bitsandbytes_folder.py  export of whole folders in NF4
    gguf_layers.py          layers of GGUF files that stay packed

What a layer is, its tensors say: bits, groups, symmetry. Deliberately absent: writing of layers with different bits, which few
engines read.
"""

from groundup.quantize.formats.awq_format import AWQ
from groundup.quantize.formats.bitsandbytes_format import BITSANDBYTES
from groundup.quantize.formats.compressed_tensors import COMPRESSED_TENSORS
from groundup.quantize.formats.gptq_format import GPTQ
from groundup.quantize.formats.quantized_format import QuantizedFormat

FORMATS: dict[str, QuantizedFormat] = {format.name: format for format in (GPTQ, AWQ, COMPRESSED_TENSORS, BITSANDBYTES)}

__all__ = ["FORMATS", "QuantizedFormat"]
