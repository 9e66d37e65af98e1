"""Whether the format of [export] can represent the model of a recipe and its tokenizer."""

from groundup.plan.derive import resolved_model_config
from groundup.recipe import ModelConfig, Recipe

PLAIN_KNOBS = {
    "vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size", "context_length",
    "tie_embeddings", "qk_norm",
}  # fmt: skip
"""Of a Llama or a Qwen3, which every format has: its other knobs have their defaults."""


def check_export(recipe: Recipe) -> None:
    """Raises UserError if the format of recipe.export cannot represent recipe.model or its tokenizer.

    Plain models of a format's default data type need no families of models, whose import takes longer than a whole plan.
    """
    assert recipe.export is not None
    config, tokenizer = resolved_model_config(recipe), recipe.tokenizer
    trains_tokenizer = tokenizer is not None and tokenizer.pretrained is None
    if is_plain(config) and recipe.export.dtype is None and recipe.export.format == "huggingface":
        return
    from groundup.interop.model_export import EXPORT_CHECKS

    EXPORT_CHECKS[recipe.export.format](config, recipe.export.dtype or "float32")
    if recipe.export.format == "gguf" and tokenizer is not None and trains_tokenizer:
        from groundup.interop.gguf.gguf_tokenizer import check_bpe

        check_bpe(tokenizer.algorithm)


def is_plain(config: ModelConfig) -> bool:
    """Whether all knobs but those of PLAIN_KNOBS have their defaults."""
    sizes = {name: getattr(config, name) for name in PLAIN_KNOBS}
    return config == ModelConfig(**sizes)
