"""Every family against transformers, in both directions, at toy size with odd head counts and widths.

`python tests/parity/test_interop_huggingface.py` runs the same measurements and writes book/parity.md.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig

LIMIT = 1e-4
"""The largest difference of a float32 logit that counts as equal (issue 3); we reach about a hundredth of it."""


@dataclass(frozen=True)
class Toy:
    """A small model of a family: what transformers builds it from."""

    config: dict[str, Any]
    model_class: str = "AutoModelForCausalLM"
    inputs: Callable[[], dict[str, torch.Tensor]] | None = None
    expect: dict[str, Any] = field(default_factory=dict)


TINY = {"vocab_size": 131, "num_hidden_layers": 3, "max_position_embeddings": 96}
GROUPED = {"hidden_size": 42, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 71}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
MOE = {"num_experts_per_tok": 2, "num_local_experts": 5}

TOYS = {
    "llama": Toy({**TINY, **GROUPED, "model_type": "llama"}),
    "llama, biases, tied": Toy(
        {**TINY, **GROUPED, "model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    ),
    "llama 3 (scaled RoPE)": Toy(
        {**TINY, **GROUPED, "model_type": "llama", "rope_theta": 5e5, "rope_scaling": LLAMA3, "head_dim": 20}
    ),
    "llama, linear RoPE": Toy(
        {**TINY, **GROUPED, "model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 3.0}}
    ),
    "llama, YaRN": Toy({**TINY, **GROUPED, "model_type": "llama", "rope_scaling": YARN}),
    "qwen2": Toy({**TINY, **GROUPED, "model_type": "qwen2", "rope_theta": 1e6, "tie_word_embeddings": True}),
    "qwen2, sliding": Toy(
        {**TINY, **GROUPED, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
    ),
    "qwen3": Toy({**TINY, **GROUPED, "model_type": "qwen3", "head_dim": 22, "rope_theta": 1e6}),
    "mistral": Toy({**TINY, **GROUPED, "model_type": "mistral", "sliding_window": 11, "head_dim": 10}),
    "mixtral": Toy({**TINY, **GROUPED, **MOE, "model_type": "mixtral", "sliding_window": None}),
    "qwen3_moe": Toy(
        {**TINY, **GROUPED, "model_type": "qwen3_moe", "head_dim": 18, "num_experts_per_tok": 3, "num_experts": 7,
         "moe_intermediate_size": 29, "norm_topk_prob": True, "mlp_only_layers": [1]}
    ),
    "qwen3_moe, raw weights": Toy(
        {**TINY, **GROUPED, "model_type": "qwen3_moe", "head_dim": 18, "num_experts_per_tok": 2, "num_experts": 4,
         "moe_intermediate_size": 29, "norm_topk_prob": False}
    ),
    "gemma": Toy({**TINY, **GROUPED, "model_type": "gemma", "head_dim": 16}),
    "gemma2": Toy(
        {**TINY, **GROUPED, "model_type": "gemma2", "head_dim": 26, "query_pre_attn_scalar": 19, "sliding_window": 10,
         "attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0}
    ),
    "gemma3_text": Toy(
        {**TINY, **GROUPED, "model_type": "gemma3_text", "num_hidden_layers": 7, "head_dim": 26, "sliding_window": 10,
         "query_pre_attn_scalar": 19, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    ),
    "gpt2": Toy(
        {"model_type": "gpt2", "vocab_size": 131, "n_positions": 96, "n_embd": 42, "n_layer": 3, "n_head": 3, "n_inner": 71}
    ),
    "t5 v1.1": Toy(
        {"model_type": "t5", "vocab_size": 131, "d_model": 42, "d_kv": 10, "d_ff": 71, "num_layers": 3,
         "num_decoder_layers": 2, "num_heads": 5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
         "relative_attention_num_buckets": 14, "relative_attention_max_distance": 20, "decoder_start_token_id": 0},
        "T5ForConditionalGeneration",
    ),
    "bert": Toy(
        {**TINY, "model_type": "bert", "hidden_size": 42, "num_attention_heads": 3, "intermediate_size": 71},
        "BertForMaskedLM",
    ),
    "modernbert": Toy(
        {**TINY, "model_type": "modernbert", "num_hidden_layers": 5, "hidden_size": 42, "num_attention_heads": 3,
         "intermediate_size": 71, "local_attention": 12, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "cls_token_id": 1, "sep_token_id": 2},
        "ModernBertForMaskedLM",
    ),
}  # fmt: skip
