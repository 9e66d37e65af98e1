"""DeepSeek-V3 and Kimi K2 as they are published: float8 in blocks, a layer of multi-token prediction, another model_type."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from groundup.artifacts.errors import UserError
from groundup.interop import load_huggingface

KIMI_K2 = {
    "vocab_size": 50, "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 6, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 24, "norm_topk_prob": True,
    "routed_scaling_factor": 2.827, "rope_theta": 50_000.0,
    "rope_scaling": {
        "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 16, "beta_fast": 1.0, "beta_slow": 1.0,
        "mscale": 1.0, "mscale_all_dim": 1.0,
    },
}  # fmt: skip
"""Ratios and flags of the published config.json."""
TOKENS = torch.randint(50, (2, 40), generator=torch.Generator().manual_seed(0))
BLOCK = 20


def write_published_files(folder: Path) -> DeepseekV3ForCausalLM:
    """The files, and the model of transformers with the values that they stand for."""
    torch.manual_seed(0)
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**KIMI_K2)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight") or "_proj_with_mqa.weight" in name]:
        scales = torch.rand([-(-size // BLOCK) for size in tensors[name].shape]) / 100 + 0.002
        grid = scales.repeat_interleave(BLOCK, 0)[: len(tensors[name])].repeat_interleave(BLOCK, 1)
        grid = grid[:, : tensors[name].shape[1]]
        values = (tensors[name] / grid).clamp(-448, 448).to(torch.float8_e4m3fn)
        tensors |= {name: values.float() * grid, f"{name}_scale_inv": scales, f"values of {name}": values}
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith("values") and "_scale" not in name}
    save_file({name: tensor.contiguous() for name, tensor in plain.items()}, folder / "model.safetensors")
    reference = DeepseekV3ForCausalLM.from_pretrained(folder, experts_implementation="eager").eval()
    published = {
        name: tensors.get(f"values of {name}", tensor) for name, tensor in tensors.items() if name[:6] != "values"
    }
    published |= {"model.layers.2.eh_proj.weight": torch.ones(96, 192), "model.layers.2.enorm.weight": torch.ones(96)}
    save_file({name: tensor.contiguous() for name, tensor in published.items()}, folder / "model.safetensors")
    change_config(folder, model_type="kimi_k2", quantization_config={
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK],
    })  # fmt: skip
    return reference


def change_config(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_published_files_have_equal_logits(tmp_path: Path):
    reference = write_published_files(tmp_path)
    ours = load_huggingface(tmp_path, dtype="float32")
    with torch.no_grad():
        expected = reference(TOKENS).logits
        torch.testing.assert_close(ours(TOKENS).logits, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert {tensor.dtype for tensor in load_huggingface(tmp_path).state_dict().values()} == {
        torch.bfloat16,
        torch.float32,
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rope_interleave": False}, "rope_interleave = False, expected True in a deepseek_v3 model"),
        (
            {"model_type": "deepseek_v2", "topk_method": "noaux_tc", "norm_topk_prob": False},
            "topk_method = 'noaux_tc' is not supported",
        ),
        ({"model_type": "deepseek_v2", "norm_topk_prob": True}, "norm_topk_prob = True, expected False"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"quantized weights \(bitsandbytes\)"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, fields, words):
    write_published_files(tmp_path)
    change_config(tmp_path, **fields)
    with pytest.raises(UserError, match=words):
        load_huggingface(tmp_path)
