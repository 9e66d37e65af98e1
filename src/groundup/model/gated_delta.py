"""Linear attention with the gated delta rule (Yang et al. 2024, "Gated Delta Networks"; Qwen3-Next, Qwen3.5).

Each head has a matrix S (K V) that stores values under keys. A token forgets a little of it, and replaces what is stored under
its own key k by its value v (section 3.1):

    S <- a S,   S <- S + k (b (v - S^T k))^T,   y = S^T q        a in (0, 1]: decay; b in (0, 1): strength; k, q of length 1

Queries, keys and values pass through a short causal convolution first. The recurrence is computed in chunks of tokens
(section 3.3): the replacements of a chunk depend on each other through a triangular system, and on those before it through
the state. A chunk of one token is the recurrence itself, which decodes; the tests compare both with a loop over tokens.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.model.causal_convolution import convolve
from groundup.model.kv_cache import KVCache
from groundup.model.matmul_precision import cast_for_matmul
from groundup.model.norm import RMSNorm
from groundup.recipe import ModelConfig
from groundup.recipe.mixer_config import GatedDeltaConfig

CHUNK_LENGTH = 64
"""Tokens per chunk: the work inside one is quadratic, that between them a loop."""
LENGTH_EPS = 1e-6
"""Added to the squared length of queries and keys."""


class GatedDeltaNet(nn.Module):
    """The linear attention of one block."""

    def __init__(self, config: ModelConfig, settings: GatedDeltaConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.num_heads, self.key_dim, self.value_dim = (
            settings.num_value_heads, settings.key_head_dim, settings.value_head_dim,
        )  # fmt: skip
        self.keys, self.values = settings.num_key_heads * self.key_dim, self.num_heads * self.value_dim
        convolved = 2 * self.keys + self.values
        self.qkv_proj = nn.Linear(config.hidden_size, convolved, bias=False)
        self.gate_proj = nn.Linear(config.hidden_size, self.values, bias=False)
        self.strength_proj = nn.Linear(config.hidden_size, self.num_heads, bias=False)
        self.step_proj = nn.Linear(config.hidden_size, self.num_heads, bias=False)
        self.convolution = nn.Conv1d(convolved, convolved, settings.convolution_width, groups=convolved, bias=False)
        self.step_bias = nn.Parameter(torch.empty(self.num_heads))
        self.log_decay = nn.Parameter(torch.empty(self.num_heads))
        self.norm = RMSNorm(self.value_dim, config.norm_eps)
        self.o_proj = nn.Linear(self.values, config.hidden_size, bias=False)

    def reset_parameters(self) -> None:
        """Decays up to 16 and steps of 1, as in the published code."""
        nn.init.ones_(self.step_bias)
        self.log_decay.data.uniform_(1e-3, 16).log_()
        nn.init.normal_(self.convolution.weight, std=self.convolution.kernel_size[0] ** -0.5)

    def forward(self, x: Float[Tensor, "B T D"], cache: KVCache | None = None) -> Float[Tensor, "B T D"]:
        x = cast_for_matmul(x)
        before, state = (None, None) if cache is None else cache.states(self.layer)
        inputs, before = convolve(self.qkv_proj(x), self.convolution, before)
        queries, keys, values = inputs.float().split((self.keys, self.keys, self.values), dim=-1)
        queries, keys = (each.unflatten(-1, (-1, self.key_dim)) for each in (queries, keys))
        strengths = self.strength_proj(x).float().sigmoid()
        rates = -self.log_decay.float().exp() * F.softplus(self.step_proj(x).float() + self.step_bias.float())
        values = values.unflatten(-1, (-1, self.value_dim))
        outputs, state = gated_delta_rule(queries, keys, values, rates, strengths, state)
        if cache is not None:
            cache.keep_states(self.layer, (before, state))
        gate = self.gate_proj(x).unflatten(-1, (-1, self.value_dim))
        return self.o_proj((self.norm(outputs.to(x.dtype)) * F.silu(gate.float())).to(x.dtype).flatten(2))


def gated_delta_rule(
    queries: Float[Tensor, "B T G K"],
    keys: Float[Tensor, "B T G K"],
    values: Float[Tensor, "B T H V"],
    rates: Float[Tensor, "B T H"],
    strengths: Float[Tensor, "B T H"],
    state: Float[Tensor, "B H K V"] | None = None,
    chunk_length: int = CHUNK_LENGTH,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """Outputs of all tokens, and the state after the last; `rates`: log a; queries and keys of any length."""
    heads = values.shape[2]
    queries, keys = (each.repeat_interleave(heads // each.shape[2], dim=2).transpose(1, 2) for each in (queries, keys))
    queries, keys = (each * (each.square().sum(-1, keepdim=True) + LENGTH_EPS).rsqrt() for each in (queries, keys))
    queries = queries * queries.shape[-1] ** -0.5
    values, rates, strengths = values.transpose(1, 2), rates.transpose(1, 2), strengths.transpose(1, 2)
    last = values.new_zeros(*values.shape[:2], keys.shape[-1], values.shape[-1]) if state is None else state
    outputs = []
    parts = (each.split(chunk_length, dim=2) for each in (queries, keys, values, rates, strengths))
    for q, k, v, rate, b in zip(*parts, strict=True):
        decay = rate.cumsum(dim=-1)  # (B H T): log of what is left of the state before the chunk
        later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        since = (decay[..., :, None] - decay[..., None, :]).masked_fill(later, -torch.inf).exp()
        left = decay.exp()[..., None]
        # Each replacement is the value less what the state and the earlier replacements of the chunk hold under its key.
        system = b[..., None] * (k @ k.transpose(-1, -2)) * since
        wanted = b[..., None] * (v - left * k @ last)
        replaced = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
        outputs.append(left * q @ last + (q @ k.transpose(-1, -2) * since) @ replaced)
        rest = (decay[..., -1:] - decay).exp()[..., None]
        last = left[..., -1:, :] * last + (rest * k).transpose(-1, -2) @ replaced
    return torch.cat(outputs, dim=2).transpose(1, 2), last
