"""GPT-2 in GGUF: queries, keys and values are one tensor.

Source: llama.cpp, src/models/gpt2.cpp.
"""

from groundup.interop.gguf.architectures.gguf_architecture import EPSILON, QKV, SIZES, TENSORS, GGUFArchitecture

GPT2 = GGUFArchitecture(
    "gpt2",
    ("gpt2",),
    knobs={"norm": "layernorm", "norm_bias": True, "position_embedding": "learned", "feed_forward": "gelu_tanh"},
    keys={**SIZES, "norm_eps": EPSILON},
    biases=None,
    tensors={"embedding.positions.": "position_embd.", **TENSORS},
    fused={"attn_qkv": tuple(f"attention.{part}" for part in QKV)},
)
