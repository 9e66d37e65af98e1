"""DeepSeek-V2 and V3."""

from family_draws.draw import Draw, DrawnModel
from family_draws.sigmoid_moe import sigmoid_experts
from family_draws.youtu import latent_attention


def draw_deepseek_v3(draw: Draw) -> DrawnModel:
    return DrawnModel({**sigmoid_experts(draw), **latent_attention(draw), "model_type": "deepseek_v3"})


def draw_deepseek_v2(draw: Draw) -> DrawnModel:
    """Even widths, because transformers views pairs of elements as complex numbers."""
    even = {
        "hidden_size": draw.choice((30, 90)),
        "kv_lora_rank": draw.choice((10, 24)),
        "qk_nope_head_dim": draw.choice((6, 16, 64)),
    }
    fields = {**sigmoid_experts(draw), **latent_attention(draw), **even, "norm_topk_prob": False}
    method = "group_limited_greedy" if fields["n_group"] > 1 or draw.chance() else "greedy"
    return DrawnModel(
        {**fields, "model_type": "deepseek_v2", "topk_method": method, "first_k_dense_replace": draw.choice((0, 1))}
    )


def draw_glm4_moe_lite(draw: Draw) -> DrawnModel:
    fields = {**sigmoid_experts(draw), **latent_attention(draw)}
    if draw.chance():
        fields["mlp_layer_types"] = [draw.choice(("dense", "sparse")) for _ in range(fields["num_hidden_layers"])]
    return DrawnModel({**fields, "model_type": "glm4_moe_lite"})


def draw_sarvam_mla(draw: Draw) -> DrawnModel:
    return DrawnModel({**draw_deepseek_v3(draw).config, "model_type": "sarvam_mla"})


DRAWS = {
    "deepseek_v3": draw_deepseek_v3,
    "deepseek_v2": draw_deepseek_v2,
    "glm4_moe_lite": draw_glm4_moe_lite,
    "sarvam_mla": draw_sarvam_mla,
}
