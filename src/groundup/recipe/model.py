"""[model]: the transformer's shape and parts."""

from typing import Any, Literal

from pydantic import create_model, model_validator

from groundup.recipe.section import Section, knob


class ModelConfig(Section):
    """A transformer, completely described. `groundup.Decoder(ModelConfig(...))` builds it.

    What a smaller number of knobs implies is filled in: num_kv_heads = num_heads, head_dim = hidden_size / num_heads,
    intermediate_size = 8/3 hidden_size rounded up to a multiple of 64.
    """

    architecture: Literal["decoder", "encoder", "encoder_decoder"] = knob("decoder", "which of the three transformers")
    vocab_size: int = knob(meaning="entries of the token embedding", ge=1)
    hidden_size: int = knob(meaning="width of the residual stream", ge=1)
    num_layers: int = knob(meaning="transformer blocks", ge=1)
    num_heads: int = knob(meaning="query heads", ge=1)
    num_kv_heads: int = knob(0, "key and value heads; 0: as many as query heads", ge=0)
    head_dim: int = knob(0, "width of one head; 0: hidden_size / num_heads", ge=0)
    intermediate_size: int = knob(0, "width of the feed-forward layer; 0: 8/3 of hidden_size, in steps of 64", ge=0)
    context_length: int = knob(1024, "longest sequence", ge=1)
    norm: Literal["rmsnorm", "layernorm"] = knob("rmsnorm", "which normalisation")
    norm_eps: float = knob(1e-5, "added to the variance before the root", gt=0)
    feed_forward: Literal["swiglu", "geglu", "gelu", "relu2"] = knob("swiglu", "activation of the feed-forward layer")
    qk_norm: bool = knob(False, "normalise queries and keys of each head before RoPE (as Qwen3 does)")
    rope_theta: float = knob(10_000.0, "base of the rotary frequencies (Su et al. 2021)", gt=0)
    tie_embeddings: bool = knob(False, "the head reuses the token embedding")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not all(isinstance(values.get(k), int) for k in ("hidden_size", "num_heads")):
            return values
        values = dict(values)
        hidden_size, num_heads = values["hidden_size"], max(values["num_heads"], 1)
        values["num_kv_heads"] = values.get("num_kv_heads") or num_heads
        values["head_dim"] = values.get("head_dim") or hidden_size // num_heads
        values["intermediate_size"] = values.get("intermediate_size") or -(-hidden_size * 8 // 3 // 64) * 64
        return values

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads = {self.num_kv_heads} must divide num_heads = {self.num_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim} must be even, because RoPE turns pairs")
        return self


# In a recipe every knob of the model may be left out: the plan derives sizes from the budget, the rest has defaults.
ModelSection: Any = create_model(
    "ModelSection",
    __base__=Section,
    **{  # type: ignore[arg-type]
        name: (field.annotation | None, knob(None, field.description or ""))
        for name, field in ModelConfig.model_fields.items()
    },
)
