"""6. Foreign weights: models of the families that people use, in and out, with equal logits.

Reading order: `weights` (files of tensors), `pairs` (how one layout of weights becomes another), `families`
(who they are), `assemble` (from foreign tensors to a model of ours), `huggingface`, `gguf` ..., `open`
(whatever a path holds), `stage`.
"""

from groundup.interop.export import export
from groundup.interop.huggingface import export_huggingface, load_huggingface
from groundup.interop.open import choose_device, find_model, open_model

__all__ = ["choose_device", "export", "export_huggingface", "find_model", "load_huggingface", "open_model"]
