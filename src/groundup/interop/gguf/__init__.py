"""GGUF, the one-file format of llama.cpp: weights, tokenizer and configuration, import and export.

    gguf_file.py       header, metadata and tensors of a file
    architectures/     metadata keys and tensor names
    gguf_rope.py       RoPE scaling in the metadata
    gguf_metadata.py   the configuration in the metadata
    gguf_pretokenizers.py  the rules behind the names of pretokenizers
    gguf_vocabularies.py   Unigram and WordPiece
    gguf_tokenizer.py      the tokenizer in the metadata
    split_gguf.py      a model in several files
    gguf_import.py     load_gguf
    gguf_export.py     export_gguf

The `gguf` package, which packs and unpacks weights, is an optional dependency.

Deliberately absent: writing k-quants: llama.cpp's `llama-quantize` makes them from a float file.

Sources: the format's specification (ggml-org/ggml docs/gguf.md) and llama.cpp's convert_hf_to_gguf.py.
"""

from groundup.artifacts.errors import UserError

try:
    import gguf as _package  # noqa: F401
except ModuleNotFoundError:
    raise UserError("GGUF files need the package gguf", hint="pip install 'groundup[gguf]'") from None

from groundup.interop.gguf.gguf_export import check_gguf, export_gguf
from groundup.interop.gguf.gguf_import import load_gguf

__all__ = ["check_gguf", "export_gguf", "load_gguf"]
