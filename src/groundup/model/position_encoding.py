"""Position encodings: the attention mask and positions of one layer type (global or local) in a forward pass.

Global layers attend to all earlier tokens, local layers to a sliding window. The result is computed once per layer type
and pass. Positions enter attention as a rotation of queries and keys (RoPE), as a bias of the scores (T5), or not at all,
where the embedding adds them (GPT-2).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from groundup.model.attention import AttentionContext
from groundup.model.attention_mask import AttentionMask, build_dense_mask, build_mask, build_mask_mod
from groundup.model.kv_cache import KVCache
from groundup.model.relative_bias import RelativeBias
from groundup.model.rope import Rotation, build_rotary_embedding
from groundup.recipe import ModelConfig


class NoPositionEncoding(nn.Module):
    """The mask alone."""

    def __init__(self, config: ModelConfig, layer_type: str, causal: bool):
        super().__init__()
        self.causal = causal
        self.window = config.sliding_window if layer_type == "local" else None

    def forward(
        self,
        positions: Int[Tensor, "*B T"],
        document_ids: Int[Tensor, "B T"] | None = None,
        cache: KVCache | None = None,
    ) -> AttentionContext:
        return AttentionContext(self.mask(positions, document_ids, cache), self.rotation(positions))

    def mask(self, positions: Tensor, document_ids: Tensor | None, cache: KVCache | None) -> AttentionMask:
        length = positions.shape[-1]
        if cache is not None:
            return cache.mask(length, self.window)
        return build_mask(
            length, length, positions.device, causal=self.causal, window=self.window, document_ids=document_ids
        )

    def rotation(self, positions: Tensor) -> Rotation | None:
        return None


class RotaryPositionEncoding(NoPositionEncoding):
    """The mask and the rotation of each position (RoPE)."""

    def __init__(self, config: ModelConfig, layer_type: str, causal: bool):
        super().__init__(config, layer_type, causal)
        self.rotary = build_rotary_embedding(config, layer_type)

    def rotation(self, positions: Tensor) -> Rotation:
        return self.rotary(positions)


class RelativePositionEncoding(NoPositionEncoding):
    """The mask, as a dense tensor that includes a learned bias for each distance (T5)."""

    def __init__(self, config: ModelConfig, layer_type: str, causal: bool):
        super().__init__(config, layer_type, causal)
        self.bias = RelativeBias(config, causal)

    def mask(self, positions: Tensor, document_ids: Tensor | None, cache: KVCache | None) -> AttentionMask:
        length, cached = positions.shape[-1], 0 if cache is None else cache.length
        index = torch.arange(cached + length, device=positions.device)
        mask_mod = build_mask_mod(self.causal, self.window, document_ids, document_ids, cached)
        batch = 1 if document_ids is None else document_ids.shape[0]
        attends = build_dense_mask(mask_mod, batch, length, cached + length, positions.device)
        return AttentionMask(dense=torch.where(attends, self.bias(index[cached:], index), -torch.inf))


POSITION_ENCODINGS = {
    "rope": RotaryPositionEncoding,
    "relative": RelativePositionEncoding,
    "learned": NoPositionEncoding,
}


def build_position_encodings(config: ModelConfig, layer_types: Sequence[str], causal: bool) -> nn.ModuleDict:
    """One position encoding for each of the layer types."""
    encoding = POSITION_ENCODINGS[config.position_embedding]
    return nn.ModuleDict({name: encoding(config, name, causal) for name in sorted(set(layer_types))})
