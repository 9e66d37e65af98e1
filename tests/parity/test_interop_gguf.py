"""GGUF against transformers' reader and against the gguf package's own table of names.

What we write is opened by transformers; what we open was written as llama.cpp's script does it: names from
`gguf.get_tensor_name_map`, rows of queries and keys permuted by its formula.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from groundup.interop.gguf import export_gguf, load_gguf
from groundup.interop.gguf.gguf_file import GGUFFile
from groundup.interop.gguf.gguf_tokenizer import read_tokenizer, write_tokenizer
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

LIMIT = 1e-4
VOCABULARY = 288
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "num_layers": 2,
    "num_heads": 3,
    "num_kv_heads": 1,
    "intermediate_size": 64,
    "context_length": 80,
}
# transformers' reader of GGUF takes the head width of Qwen3 and the experts' width of Qwen3-MoE for granted.
OURS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, tied": {"tie_embeddings": True, "rope_theta": 5e5},
    "qwen2": {"attention_bias": "qkv", "rope_theta": 1e6},
    "qwen3": {"qk_norm": True, "head_dim": 128, "tie_embeddings": True, "norm_eps": 1e-6},
    "qwen3moe": {"qk_norm": True, "moe": {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 768}},
}
THEIRS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama, linear RoPE": {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "llama, YaRN": {
        "model_type": "llama",
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 20},
    },
    "llama 3 (scaled RoPE)": {
        "model_type": "llama",
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 32},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 20},
    "qwen3moe": {
        "model_type": "qwen3_moe",
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 28,
        "norm_topk_prob": True,
        "head_dim": 20,
    },
}


def make_tokenizer() -> Tokenizer:
    return train_bpe(["the quick brown fox jumps over the lazy dog and over and over again"] * 9, VOCABULARY - 6)


@torch.no_grad()
def randomize(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.normal_(0.0, 0.4, generator=generator)
        if weight.dim() > 1:
            weight /= weight.shape[-1] ** 0.5 / 4
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    tokens = torch.randint(0, VOCABULARY, (2, 60), generator=torch.Generator().manual_seed(1))
    return model(tokens).logits


def measure_export(name: str, folder: Path, dtype: str = "float32") -> float:
    """Our model, written by us and opened by transformers: the worst difference of a logit."""
    ours = randomize(build_model(ModelConfig(**{**SHAPE, **OURS[name]})))
    export_gguf(ours, make_tokenizer(), folder / "m.gguf", dtype)
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="m.gguf", dtype=torch.float32, experts_implementation="eager"
    )
    return (logits(ours) - logits(reference.eval())).abs().max().item()


def measure_import(name: str, folder: Path) -> float:
    """Their model, written as the conversion script does and opened by us: the worst difference."""
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 60,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "intermediate_size": 44,
        "max_position_embeddings": 80,
    } | THEIRS[name]
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    config._experts_implementation = "eager"
    reference = randomize(transformers.AutoModelForCausalLM.from_config(config))
    convert(reference, name.split(",")[0].split(" ")[0], folder / "m.gguf")
    ours, _ = load_gguf(folder / "m.gguf")
    return (logits(ours) - logits(reference)).abs().max().item()


def convert(model: nn.Module, name: str, path: Path) -> None:
    """What llama.cpp's convert_hf_to_gguf.py writes for these families."""
    c: Any = model.config
    name = {"mistral": "llama", "mixtral": "llama"}.get(name, name)
    writer = gguf.GGUFWriter(path, name)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    writer.add_key_length(head_dim)
    if experts := getattr(c, "num_local_experts", None):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(c.num_experts_per_tok)
    if width := getattr(c, "moe_intermediate_size", None):
        writer.add_expert_feed_forward_length(width)
    rope = c.rope_parameters
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(head_dim, rope))
    for key, value in write_tokenizer(make_tokenizer(), VOCABULARY).items():
        kind = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}
        kind[type(value)](key, value)
    number = next(number for number, text in gguf.MODEL_ARCH_NAMES.items() if text == name)
    names = gguf.get_tensor_name_map(number, c.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and c.tie_word_embeddings:
            continue
        for part, values in split_experts(key, tensor.numpy()):
            stem, suffix = part.rsplit(".", 1)
            for kind, heads in (("q_proj", c.num_attention_heads), ("k_proj", c.num_key_value_heads)):
                if name == "llama" and kind in part:
                    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
                    values = halves.swapaxes(1, 2).reshape(values.shape)
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def split_experts(key: str, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """transformers holds gate and up of all experts in one tensor; GGUF has one of each."""
    if key.endswith("experts.gate_up_proj"):
        gate, up = np.split(values, 2, axis=1)
        stem = key.removesuffix("gate_up_proj")
        return [(f"{stem}gate_proj.weight", gate), (f"{stem}up_proj.weight", up)]
    return [(f"{key}.weight" if key.endswith("experts.down_proj") else key, values)]


def llama3_factors(head_dim: int, rope: dict[str, Any]) -> np.ndarray:
    """The loop of convert_hf_to_gguf.py's generate_extra_tensors."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    length, factor = rope["original_max_position_embeddings"], rope["factor"]
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (i / head_dim)
        if wavelength < length / high:
            factors.append(1.0)
        elif wavelength > length / low:
            factors.append(factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


@pytest.mark.parametrize("name", OURS)
def test_export_has_equal_logits_in_transformers(name: str, tmp_path: Path):
    assert measure_export(name, tmp_path) < LIMIT


@pytest.mark.parametrize("name", THEIRS)
def test_import_has_equal_logits(name: str, tmp_path: Path):
    assert measure_import(name, tmp_path) < LIMIT


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 0.02), ("bfloat16", 0.2), ("q8_0", 0.2), ("q4_0", 2.0)])
def test_quantized_weights_equal_transformers(dtype: str, limit: float, tmp_path: Path):
    exact = randomize(build_model(ModelConfig(**SHAPE)))
    export_gguf(exact, make_tokenizer(), tmp_path / "m.gguf", dtype)
    ours, _ = load_gguf(tmp_path / "m.gguf", dtype="float32")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    assert (logits(ours) - logits(reference.eval())).abs().max().item() < LIMIT
    assert 0 < (logits(ours) - logits(exact)).abs().max().item() < limit


def test_tokenizer_of_export_equals_transformers(tmp_path: Path):
    tokenizer = make_tokenizer()
    export_gguf(build_model(ModelConfig(**SHAPE)), tokenizer, tmp_path / "m.gguf")
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in ("the lazy fox's 12345 dogs\n\n  again", "Füchse 狐 🦊\t", "x  y   z"):
        assert reference.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    messages = [{"role": "user", "content": "over"}]
    rendered = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert rendered == tokenizer.render_chat(messages, add_generation_prompt=True)
    assert read_tokenizer(GGUFFile(tmp_path / "m.gguf").metadata).encode("fox") == tokenizer.encode("fox")
