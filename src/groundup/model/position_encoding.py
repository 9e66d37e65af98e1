"""What the layers of one kind see in one pass: which tokens (the mask), and how far away they are (the
positions).

Global layers see all that came before, local ones a sliding window. All layers of a kind share one view, so
it is made once in a pass. Positions reach attention as a rotation of queries and keys (RoPE), as a bias on
their products (T5), or not at all, where the embedding has added them (GPT-2).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from groundup.model.attention import AttentionContext
from groundup.model.attention_mask import AttentionMask, build_dense_mask, build_mask, build_mask_mod
from groundup.model.kv_cache import KVCache
from groundup.model.relative_bias import RelativeBias
from groundup.model.rope import build_rotary_embedding
from groundup.recipe import ModelConfig


class NoPositionEncoding(nn.Module):
    """The mask alone."""

    def __init__(self, config: ModelConfig, kind: str, causal: bool):
        super().__init__()
        self.causal = causal
        self.window = config.sliding_window if kind == "local" else None

    def forward(
        self,
        positions: Int[Tensor, "*B T"],
        document_ids: Int[Tensor, "B T"] | None = None,
        cache: KVCache | None = None,
    ) -> AttentionContext:
        return AttentionContext(self.mask(positions, document_ids, cache), None)

    def mask(self, positions: Tensor, document_ids: Tensor | None, cache: KVCache | None) -> AttentionMask:
        length = positions.shape[-1]
        if cache is not None:
            return cache.mask(length, self.window)
        return build_mask(
            length,
            length,
            positions.device,
            causal=self.causal,
            window=self.window,
            document_ids=document_ids,
        )


class RotaryPositionEncoding(NoPositionEncoding):
    """The mask, and the rotation of each position."""

    def __init__(self, config: ModelConfig, kind: str, causal: bool):
        super().__init__(config, kind, causal)
        self.rotary = build_rotary_embedding(config, kind)

    def forward(
        self,
        positions: Int[Tensor, "*B T"],
        document_ids: Int[Tensor, "B T"] | None = None,
        cache: KVCache | None = None,
    ) -> AttentionContext:
        return AttentionContext(self.mask(positions, document_ids, cache), self.rotary(positions))


class RelativePositionEncoding(NoPositionEncoding):
    """The mask, with a learned bias for each distance written into it."""

    def __init__(self, config: ModelConfig, kind: str, causal: bool):
        super().__init__(config, kind, causal)
        self.bias = RelativeBias(config, causal)

    def forward(
        self,
        positions: Int[Tensor, "*B T"],
        document_ids: Int[Tensor, "B T"] | None = None,
        cache: KVCache | None = None,
    ) -> AttentionContext:
        length, earlier = positions.shape[-1], 0 if cache is None else cache.length
        index = torch.arange(earlier + length, device=positions.device)
        predicate = build_mask_mod(self.causal, self.window, document_ids, document_ids, earlier)
        batch = 1 if document_ids is None else document_ids.shape[0]
        seen = build_dense_mask(predicate, batch, length, earlier + length, positions.device)
        return AttentionContext(
            AttentionMask(dense=torch.where(seen, self.bias(index[earlier:], index), -torch.inf)), None
        )


POSITION_ENCODINGS = {
    "rope": RotaryPositionEncoding,
    "relative": RelativePositionEncoding,
    "learned": NoPositionEncoding,
}


def build_position_encodings(config: ModelConfig, kinds: Sequence[str], causal: bool) -> nn.ModuleDict:
    """One sight for each kind among those of the layers."""
    part = POSITION_ENCODINGS[config.position_embedding]
    return nn.ModuleDict({kind: part(config, kind, causal) for kind in sorted(set(kinds))})
