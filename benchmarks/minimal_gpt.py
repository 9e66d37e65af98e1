"""A minimal GPT-2 in the style of nanoGPT: a peer for the training benchmarks.

Learned positions, LayerNorm without bias, fused queries, keys and values, SDPA, GELU, an unchunked loss. The feed-forward has as
many weights as the gated one of the other models.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width: int, heads: int, feed_forward: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = (nn.Linear(width, feed_forward, bias=False), nn.Linear(feed_forward, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm_1(x)).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class MinimalGPT(nn.Module):
    def __init__(self, shape: dict[str, int]):
        super().__init__()
        width = shape["width"]
        self.tokens = nn.Embedding(shape["vocab"], width)
        self.positions = nn.Embedding(shape["length"], width)
        self.blocks = nn.ModuleList(
            Block(width, shape["heads"], shape["feed_forward"] * 3 // 2) for _ in range(shape["layers"])
        )
        self.norm = nn.LayerNorm(width, bias=False)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean loss of predicting each token from those before it."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
