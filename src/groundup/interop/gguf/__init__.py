"""GGUF, the one-file format of llama.cpp: weights, tokenizer and configuration, import and export.

    gguf_file.py       header, metadata and tensors of a file
    architectures/     metadata keys and tensor names
    gguf_rope.py       RoPE scaling in the metadata
    gguf_metadata.py   the configuration in the metadata
    gguf_pretokenizers.py  the rules behind the names of pretokenizers
    gguf_vocabularies.py   Unigram and WordPiece
    gguf_tokenizer.py      the tokenizer in the metadata
    split_gguf.py      a model in several files
    types/             packed types: unpacking, rounding, the type of each tensor
    importance_matrix.py   mean squared inputs, by which rounding weights columns
    gguf_import.py     load_gguf
    gguf_export.py     export_gguf

The `gguf` package, which unpacks the types that are only read, is an optional dependency.

Deliberately absent: writing the IQ types, whose codebooks llama.cpp's `llama-quantize` has.

Sources: the format's specification (ggml-org/ggml docs/gguf.md) and llama.cpp's convert_hf_to_gguf.py.
"""

from groundup.artifacts.errors import UserError

try:
    import gguf as _package  # noqa: F401
except ModuleNotFoundError:
    raise UserError("GGUF files need the package gguf", hint="pip install 'groundup[gguf]'") from None

from groundup.interop.gguf.gguf_export import check_gguf, export_gguf
from groundup.interop.gguf.gguf_import import load_gguf
from groundup.interop.gguf.importance_matrix import measure_importance

__all__ = ["check_gguf", "export_gguf", "load_gguf", "measure_importance"]
