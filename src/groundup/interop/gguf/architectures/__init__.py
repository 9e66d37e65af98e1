"""Architectures of llama.cpp, one file for each group of similar ones.

Files, in reading order:

    gguf_architecture.py  the description of an architecture
    gguf_llama.py         Llama, Mistral, Mixtral, Qwen2, Qwen3, Qwen3-MoE
    gguf_gemma.py         Gemma 1, 2 and 3
    gguf_gpt2.py          GPT-2
    gguf_encoders.py      BERT, ModernBERT
    gguf_t5.py            T5 v1.1, Flan-T5
"""

from groundup.interop.gguf.architectures.gguf_architecture import GGUFArchitecture
from groundup.interop.gguf.architectures.gguf_encoders import BERT, MODERNBERT
from groundup.interop.gguf.architectures.gguf_gemma import GEMMA, GEMMA2, GEMMA3
from groundup.interop.gguf.architectures.gguf_gpt2 import GPT2
from groundup.interop.gguf.architectures.gguf_llama import LLAMA, QWEN2, QWEN3, QWEN3_MOE
from groundup.interop.gguf.architectures.gguf_t5 import T5

_ALL = (
    QWEN2, QWEN3, QWEN3_MOE, GEMMA, GEMMA2, GEMMA3, GPT2, BERT, MODERNBERT, T5, LLAMA,
)  # fmt: skip
GGUF_ARCHITECTURES: dict[str, GGUFArchitecture] = {architecture.name: architecture for architecture in _ALL}
"""By `general.architecture`; a model is written as the first one of its family that represents it."""

__all__ = ["GGUF_ARCHITECTURES", "GGUFArchitecture"]
