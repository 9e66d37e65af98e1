"""Every family against transformers, in both directions, at toy size with odd head counts and widths.

`python tests/parity/parity_table.py` runs the same measurements and writes book/parity.md.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from groundup.interop import export_huggingface, load_huggingface
from groundup.interop.families import FAMILIES
from groundup.model import EncoderDecoder, build_model

LIMIT = 1e-4
"""The largest difference of a float32 logit that counts as equal (issue 3)."""

LENGTH = 60
"""Tokens of a text: more than any window or original length below."""


@dataclass(frozen=True)
class Toy:
    """A small model of a family: its transformers configuration and class."""

    config: dict[str, Any]
    model_class: str = "AutoModelForCausalLM"
    written_as: str | None = None

    @property
    def family(self) -> str:
        return self.config["model_type"]


TINY = {"vocab_size": 131, "num_hidden_layers": 3, "max_position_embeddings": 96}
GROUPED = {"hidden_size": 42, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 71}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
MOE = {"num_experts_per_tok": 2, "num_local_experts": 5}

TOYS = {
    "llama": Toy({**TINY, **GROUPED, "model_type": "llama"}),
    "llama, biases, tied": Toy(
        {
            **TINY,
            **GROUPED,
            "model_type": "llama",
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        }
    ),
    "llama 3 (scaled RoPE)": Toy(
        {**TINY, **GROUPED, "model_type": "llama", "rope_theta": 5e5, "rope_scaling": LLAMA3, "head_dim": 20}
    ),
    "llama, linear RoPE": Toy(
        {**TINY, **GROUPED, "model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 3.0}}
    ),
    "llama, dynamic RoPE": Toy(
        {
            **TINY,
            **GROUPED,
            "model_type": "llama",
            "max_position_embeddings": 24,
            "rope_scaling": {"rope_type": "dynamic", "factor": 3.0},
        }
    ),
    "llama, YaRN": Toy({**TINY, **GROUPED, "model_type": "llama", "rope_scaling": YARN}),
    "qwen2": Toy({**TINY, **GROUPED, "model_type": "qwen2", "rope_theta": 1e6, "tie_word_embeddings": True}),
    "qwen2, sliding": Toy(
        {
            **TINY,
            **GROUPED,
            "model_type": "qwen2",
            "use_sliding_window": True,
            "sliding_window": 9,
            "max_window_layers": 1,
        }
    ),
    "qwen3": Toy({**TINY, **GROUPED, "model_type": "qwen3", "head_dim": 22, "rope_theta": 1e6}),
    "mistral": Toy({**TINY, **GROUPED, "model_type": "mistral", "sliding_window": 11, "head_dim": 10}),
    "mixtral": Toy({**TINY, **GROUPED, **MOE, "model_type": "mixtral", "sliding_window": None}),
    "qwen3_moe": Toy(
        {
            **TINY,
            **GROUPED,
            "model_type": "qwen3_moe",
            "head_dim": 18,
            "num_experts_per_tok": 3,
            "num_experts": 7,
            "moe_intermediate_size": 29,
            "norm_topk_prob": True,
            "mlp_only_layers": [0],
        }
    ),
    "qwen3_moe, raw weights": Toy(
        {
            **TINY,
            **GROUPED,
            "model_type": "qwen3_moe",
            "head_dim": 18,
            "num_experts_per_tok": 2,
            "num_experts": 4,
            "moe_intermediate_size": 29,
            "norm_topk_prob": False,
        }
    ),
    "gemma": Toy({**TINY, **GROUPED, "model_type": "gemma", "head_dim": 16}),
    "gemma2": Toy(
        {
            **TINY,
            **GROUPED,
            "model_type": "gemma2",
            "head_dim": 26,
            "query_pre_attn_scalar": 19,
            "sliding_window": 10,
            "attn_logit_softcapping": 4.0,
            "final_logit_softcapping": 3.0,
        }
    ),
    "gemma3_text": Toy(
        {
            **TINY,
            **GROUPED,
            "model_type": "gemma3_text",
            "num_hidden_layers": 7,
            "head_dim": 26,
            "sliding_window": 10,
            "query_pre_attn_scalar": 19,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        }
    ),
    "gpt2": Toy(
        {
            "model_type": "gpt2",
            "vocab_size": 131,
            "n_positions": 96,
            "n_embd": 42,
            "n_layer": 3,
            "n_head": 3,
            "n_inner": 71,
        }
    ),
    "t5 v1.1": Toy(
        {
            "model_type": "t5",
            "vocab_size": 131,
            "d_model": 42,
            "d_kv": 10,
            "d_ff": 71,
            "num_layers": 3,
            "num_decoder_layers": 2,
            "num_heads": 5,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "relative_attention_num_buckets": 14,
            "relative_attention_max_distance": 20,
            "decoder_start_token_id": 0,
        },
        "T5ForConditionalGeneration",
    ),
    "bert": Toy(
        {**TINY, "model_type": "bert", "hidden_size": 42, "num_attention_heads": 3, "intermediate_size": 71},
        "BertForMaskedLM",
    ),
    "modernbert": Toy(
        {
            **TINY,
            "model_type": "modernbert",
            "num_hidden_layers": 5,
            "hidden_size": 42,
            "num_attention_heads": 3,
            "intermediate_size": 71,
            "local_attention": 12,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
        },
        "ModernBertForMaskedLM",
    ),
}


def build_reference(toy: Toy) -> nn.Module:
    """The toy as transformers builds it, with random weights in every tensor, norms and biases too."""
    fields = dict(toy.config)
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    config._experts_implementation = "eager"  # their grouped product wants even widths
    made_by = getattr(transformers, toy.model_class)
    model = made_by.from_config(config) if toy.model_class.startswith("Auto") else made_by(config)
    if isinstance(model, transformers.T5ForConditionalGeneration):  # transformers ties it, v1.1 does not
        model.lm_head.weight = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
    return randomize(model)


@torch.no_grad()
def randomize(model: nn.Module) -> nn.Module:
    """Weights large enough that every part of the model moves the logits."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.normal_(0.0, 0.4, generator=generator)
        if weight.dim() > 1:
            weight /= weight.shape[-1] ** 0.5 / 4
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, vocabulary: int = 131) -> Tensor:
    """Logits of random tokens; of a source and a target where the model has two sides."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, vocabulary, (2, LENGTH), generator=generator)
    if isinstance(model, EncoderDecoder):
        return model(tokens, decoder_tokens=tokens[:, :20].flip(1)).logits
    if isinstance(model, transformers.T5ForConditionalGeneration):
        return model(tokens, decoder_input_ids=tokens[:, :20].flip(1)).logits
    return model(tokens).logits


def max_difference(ours: Tensor, reference: Tensor) -> float:
    return (ours - reference).abs().max().item()


def measure_import(toy: Toy, folder: Path) -> float:
    """Their model, saved by them and opened by us: the max_difference difference of a logit."""
    reference = build_reference(toy)
    reference.save_pretrained(folder)
    return max_difference(logits(load_huggingface(folder)), logits(reference))


def measure_export(toy: Toy, folder: Path) -> float:
    """Our model with our own weights, saved by us and opened by them: the max_difference difference of a logit."""
    build_reference(toy).save_pretrained(folder / "shape")
    ours = randomize(build_model(load_huggingface(folder / "shape").config))
    export_huggingface(ours, None, folder / "export")
    opened_by = getattr(transformers, toy.model_class)
    reference, info = opened_by.from_pretrained(
        folder / "export", output_loading_info=True, experts_implementation="eager"
    )
    assert not any(info.values()), info
    assert reference.config.model_type == (toy.written_as or toy.family)
    return max_difference(logits(ours), logits(reference.eval()))


@pytest.mark.parametrize("name", TOYS)
def test_imported_family_has_equal_logits(name: str, tmp_path: Path):
    assert measure_import(TOYS[name], tmp_path) < LIMIT


@pytest.mark.parametrize("name", TOYS)
def test_exported_family_has_equal_logits(name: str, tmp_path: Path):
    assert measure_export(TOYS[name], tmp_path) < LIMIT


def test_toys_are_families():
    """Every family is compared in test_random_families.py."""
    assert {toy.family for toy in TOYS.values()} <= set(FAMILIES)


def test_toys_have_odd_head_counts():
    heads = [toy.config.get(key, 1) for toy in TOYS.values() for key in ("num_attention_heads", "n_head", "num_heads")]
    assert all(count % 2 for count in heads)


def test_bfloat16_import_has_equal_logits(tmp_path: Path):
    reference = build_reference(TOYS["gemma2"]).bfloat16()
    reference.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path)
    assert {tensor.dtype for tensor in ours.state_dict().values()} == {torch.bfloat16}
    exact = logits(build_reference(TOYS["gemma2"]))
    assert max_difference(logits(ours).float(), exact) < 2 * max_difference(logits(reference).float(), exact)


def test_sharded_export_opens_in_transformers(tmp_path: Path):
    reference = build_reference(TOYS["qwen3"])
    reference.save_pretrained(tmp_path / "reference", max_shard_size="30KB")
    ours = load_huggingface(tmp_path / "reference")
    files = export_huggingface(ours, None, tmp_path / "ours", max_shard_bytes=30_000)
    assert sum(file.suffix == ".safetensors" for file in files) > 2
    reopened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert max_difference(logits(reopened), logits(reference)) == 0


def test_parity_table_is_complete_and_below_the_limit():
    book = (Path(__file__).parents[2] / "book" / "parity.md").read_text(encoding="utf-8")
    families, _ = book.split("GGUF files in float32")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in families.splitlines() if line[:1] == "|"]
    assert [name for name, *_ in rows[2:]] == list(TOYS)
    assert all(float(figure) < LIMIT for _, *figures in rows[2:] for figure in figures)
