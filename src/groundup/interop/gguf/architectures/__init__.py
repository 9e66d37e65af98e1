"""Architectures of llama.cpp, one file for each group of similar ones.

Files, in reading order:

    gguf_architecture.py  the description of an architecture
    gguf_llama.py         Llama, Mistral, Mixtral, Qwen2, Qwen3, Qwen3-MoE
    gguf_gemma.py         Gemma 1, 2 and 3
    gguf_llama_variants.py  OLMo 1 to 3, SmolLM3, EXAONE 4, Granite, Seed-OSS, Arcee, GLM 1 and 4, Phi-3, StableLM, ...
    gguf_gpt2.py          GPT-2, GPT-NeoX, Phi, Falcon, StarCoder 1 and 2, BLOOM, MPT
    gguf_experts.py       Qwen2-MoE, OLMoE, gpt-oss, GLM-4.5, dots.llm1, MiniMax-M2, Granite-MoE, Hunyuan, ERNIE 4.5
    gguf_latent.py        DeepSeek-V2 and V3, Youtu
    gguf_encoders.py      BERT, NomicBERT, ModernBERT
    gguf_t5.py            T5 v1.1, Flan-T5
"""

from groundup.interop.gguf.architectures.gguf_architecture import GGUFArchitecture
from groundup.interop.gguf.architectures.gguf_encoders import BERT, MODERNBERT, NOMIC_BERT
from groundup.interop.gguf.architectures.gguf_experts import (
    DOTS1,
    ERNIE_MOE,
    GLM4_MOE,
    GPT_OSS,
    GRANITE_MOE,
    HUNYUAN_MOE,
    MINIMAX_M2,
    OLMOE,
    QWEN2_MOE,
)
from groundup.interop.gguf.architectures.gguf_gemma import GEMMA, GEMMA2, GEMMA3
from groundup.interop.gguf.architectures.gguf_gpt2 import (
    BLOOM,
    FALCON,
    GPT2,
    GPT_NEOX,
    MPT,
    PHI2,
    STARCODER,
    STARCODER2,
)
from groundup.interop.gguf.architectures.gguf_latent import DEEPSEEK2
from groundup.interop.gguf.architectures.gguf_llama import LLAMA, QWEN2, QWEN3, QWEN3_MOE
from groundup.interop.gguf.architectures.gguf_llama_variants import (
    ARCEE,
    CHATGLM,
    COHERE,
    COHERE2,
    ERNIE,
    EXAONE4,
    GLM4,
    GRANITE,
    HUNYUAN_DENSE,
    NEMOTRON,
    OLMO,
    OLMO2,
    PHI3,
    SEED_OSS,
    SMOLLM3,
    STABLELM,
)  # fmt: skip
from groundup.interop.gguf.architectures.gguf_t5 import T5

_ALL = (
    QWEN2, QWEN3, QWEN3_MOE, GEMMA, GEMMA2, GEMMA3, GPT2, BERT, NOMIC_BERT, MODERNBERT, T5, LLAMA,
    OLMO2, SMOLLM3, EXAONE4, GRANITE, SEED_OSS, ARCEE, GLM4, PHI3, STABLELM, NEMOTRON, COHERE, COHERE2,
    GPT_NEOX, QWEN2_MOE, OLMOE, GPT_OSS, GLM4_MOE, DOTS1, MINIMAX_M2, PHI2, FALCON, STARCODER, STARCODER2, DEEPSEEK2,
    OLMO, HUNYUAN_DENSE, HUNYUAN_MOE, ERNIE, ERNIE_MOE, GRANITE_MOE, CHATGLM, BLOOM, MPT,
)  # fmt: skip
GGUF_ARCHITECTURES: dict[str, GGUFArchitecture] = {architecture.name: architecture for architecture in _ALL}
"""By `general.architecture`; a model is written as the first one of its family that represents it."""

__all__ = ["GGUF_ARCHITECTURES", "GGUFArchitecture"]
