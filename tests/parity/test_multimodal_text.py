"""The text part of small multimodal models against transformers: logits of texts without images."""

import sys
from pathlib import Path

import pytest
import torch
import transformers

from groundup.interop import load_huggingface

sys.path.insert(0, str(Path(__file__).parent))
from family_draws.draw import VOCABULARY
from test_random_families import LIMIT, difference, logits, randomize

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 71,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
QWEN_VISION = {"depth": 1, "embed_dim": 32, "hidden_size": 48, "num_heads": 2, "intermediate_size": 40}
MROPE = {"type": "mrope", "mrope_section": [2, 3, 3]}
MODELS = {
    "gemma3": (
        {"text_config": {**SIZES, "head_dim": 26, "sliding_window": 9}, "vision_config": VISION},
        "Gemma3ForConditionalGeneration",
    ),
    "mistral3": (
        {"text_config": {**SIZES, "model_type": "mistral", "head_dim": 22}, "vision_config": VISION},
        "Mistral3ForConditionalGeneration",
    ),
    "llava": (
        {
            "text_config": {**SIZES, "model_type": "llama"},
            "vision_config": {**VISION, "model_type": "clip_vision_model"},
        },
        "LlavaForConditionalGeneration",
    ),
    "qwen2_vl": (
        {"text_config": {**SIZES, "rope_scaling": MROPE}, "vision_config": {**QWEN_VISION, "hidden_size": 48}},
        "Qwen2VLForConditionalGeneration",
    ),
    "qwen2_5_vl": (
        {"text_config": {**SIZES, "rope_scaling": MROPE}, "vision_config": {**QWEN_VISION, "out_hidden_size": 48}},
        "Qwen2_5_VLForConditionalGeneration",
    ),
    "qwen3_vl": (
        {
            "text_config": {
                **SIZES,
                "head_dim": 16,
                "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
            },
            "vision_config": {**QWEN_VISION, "out_hidden_size": 48, "deepstack_visual_indexes": [0]},
        },
        "Qwen3VLForConditionalGeneration",
    ),
    "smolvlm": (
        {"text_config": {**SIZES, "model_type": "llama"}, "vision_config": VISION},
        "SmolVLMForConditionalGeneration",
    ),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_text_of_a_multimodal_model(kind: str, tied: bool, tmp_path: Path):
    fields, model_class = MODELS[kind]
    config = transformers.AutoConfig.for_model(kind, **fields, tie_word_embeddings=tied)
    reference = randomize(getattr(transformers, model_class)(config))
    reference.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="only the text is read; left out: .*vis"):
        model = load_huggingface(tmp_path)
    assert model.config.tie_embeddings == tied
    assert difference(logits(model), logits(reference)) < LIMIT


def test_unknown_text_of_a_multimodal_model_is_named(tmp_path: Path):
    from groundup.artifacts.errors import UserError

    (tmp_path / "config.json").write_text('{"model_type": "llava", "text_config": {"model_type": "rwkv"}}')
    with pytest.raises(UserError, match="model_type = 'rwkv' is not supported"):
        load_huggingface(tmp_path, dtype=torch.float32)
