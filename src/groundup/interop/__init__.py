"""6. Foreign weights: models of the families that people use, in and out, with equal logits.

Reading order: `weights` (files of tensors), `deepspeed` (what a ZeRO run leaves), `pairs` (how one layout of weights
becomes another), `families` (who they are), `assemble` (from foreign tensors to a model of ours), `plain` (what others
have no word for), `huggingface` and `gguf` (the two layouts), `export` (either, by name), `open` (whatever a path
holds), `stage`.

Deliberately absent: code that comes with a model, pickles, a hub to download from (paths only), and families
whose parts the model chapter does not have: they are refused by name. Packed weights are unpacked on the way
in; models that stay packed are the matter of `quantize`.
"""

from groundup.interop.huggingface_model import export_huggingface, load_huggingface
from groundup.interop.model_export import EXPORT_FORMATS, export
from groundup.interop.model_loading import open_model, resolve_device, resolve_model_path

__all__ = [
    "EXPORT_FORMATS",
    "export",
    "export_huggingface",
    "load_huggingface",
    "open_model",
    "resolve_device",
    "resolve_model_path",
]
