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

from groundup.model.attention import View
from groundup.model.cache import Cache
from groundup.model.mask import Mask, build_mask, dense, sees
from groundup.model.relative import RelativeBias
from groundup.model.rope import build_rotary
from groundup.recipe import ModelConfig


class PlainSight(nn.Module):
    """The mask alone."""

    def __init__(self, config: ModelConfig, kind: str, causal: bool):
        super().__init__()
        self.causal = causal
        self.window = config.sliding_window if kind == "local" else None

    def forward(
        self,
        positions: Int[Tensor, "*B T"],
        documents: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
    ) -> View:
        return View(self.mask(positions, documents, cache), None)

    def mask(self, positions: Tensor, documents: Tensor | None, cache: Cache | None) -> Mask:
        length = positions.shape[-1]
        if cache is not None:
            return cache.mask(length, self.window)
        return build_mask(
            length, length, positions.device, causal=self.causal, window=self.window, documents=documents
        )


class RotarySight(PlainSight):
    """The mask, and the rotation of each position."""

    def __init__(self, config: ModelConfig, kind: str, causal: bool):
        super().__init__(config, kind, causal)
        self.rotary = build_rotary(config, kind)

    def forward(
        self,
        positions: Int[Tensor, "*B T"],
        documents: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
    ) -> View:
        return View(self.mask(positions, documents, cache), self.rotary(positions))


class RelativeSight(PlainSight):
    """The mask, with a learned bias for each distance written into it."""

    def __init__(self, config: ModelConfig, kind: str, causal: bool):
        super().__init__(config, kind, causal)
        self.bias = RelativeBias(config, causal)

    def forward(
        self,
        positions: Int[Tensor, "*B T"],
        documents: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
    ) -> View:
        length, earlier = positions.shape[-1], 0 if cache is None else cache.length
        index = torch.arange(earlier + length, device=positions.device)
        predicate = sees(self.causal, self.window, documents, documents, earlier)
        batch = 1 if documents is None else documents.shape[0]
        seen = dense(predicate, batch, length, earlier + length, positions.device)
        return View(Mask(dense=torch.where(seen, self.bias(index[earlier:], index), -torch.inf)), None)


SIGHTS = {"rope": RotarySight, "relative": RelativeSight, "learned": PlainSight}


def build_sights(config: ModelConfig, kinds: Sequence[str], causal: bool) -> nn.ModuleDict:
    """One sight for each kind among those of the layers."""
    part = SIGHTS[config.positions]
    return nn.ModuleDict({kind: part(config, kind, causal) for kind in sorted(set(kinds))})
