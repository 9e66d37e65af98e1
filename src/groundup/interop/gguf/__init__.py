"""GGUF, the one-file format of llama.cpp: weights, tokenizer and configuration together.

Reading order: `file` (the bytes), `architectures` (what the metadata and the tensor names mean),
`vocabulary` (the tokenizer in it), `read`, `write`. The `gguf` package, which packs and
unpacks weights, is an optional dependency.

Deliberately absent: architectures beyond the Llama-like ones, and writing the k-quants, which llama.cpp's own
`llama-quantize` makes from a float file.

Source: the format's specification (ggml-org/ggml docs/gguf.md) and llama.cpp's convert_hf_to_gguf.py.
"""

from groundup.artifacts.errors import UserError

try:
    import gguf as _package  # noqa: F401
except ModuleNotFoundError:
    raise UserError("GGUF files need the package gguf", hint="pip install 'groundup[gguf]'") from None

from groundup.interop.gguf.gguf_export import export_gguf
from groundup.interop.gguf.gguf_import import load_gguf

__all__ = ["export_gguf", "load_gguf"]
