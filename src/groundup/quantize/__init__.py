"""12. Shrinking: eight or four bits for a weight that had sixteen or thirty-two.

Reading order: `grid` (what a weight is rounded to), `rtn` (the plain way), `calibrate` (what a layer's inputs
look like), `gptq` and `awq` (two better ways), `packing`, `linear` (the layer that results), `quantize` (a
whole model), `cpu` (the fast way of few rows), `empty`, `folder` (our files), `formats` (those of others),
`load`, `compare`, `alone` (one model, outside of a run), `stage`.

Deliberately absent: quantized activations and caches, formats that need training, and the embedding, the head
and a mixture's experts, which stay as they are. Kernels for GPUs are a later chapter's work: there, layers
de-quantize and multiply.
"""

from groundup.quantize.model_loader import export_model, open_model
from groundup.quantize.quantizer import METHODS, QuantizationSettings, quantize_model
from groundup.quantize.standalone import quantize_folder

__all__ = [
    "METHODS",
    "QuantizationSettings",
    "export_model",
    "open_model",
    "quantize_folder",
    "quantize_model",
]
