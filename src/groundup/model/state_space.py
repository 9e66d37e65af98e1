"""Mamba-2 (Dao & Gu 2024, "Transformers are SSMs"): a state of constant size in place of keys and values.

Each head has a matrix S (K N), from which a token forgets a little and to which it adds its own outer product (section 2):

    S_t = exp(-a dt_t) S_{t-1} + dt_t x_t B_t^T        a > 0: a number per head; dt_t > 0: the step, a number per token and head
    y_t = S_t C_t + D x_t                              B_t, C_t (N): of a token, shared by the heads of a group

x, B and C pass through a short causal convolution first. The recurrence is computed in chunks of tokens (section 6, the SSD
algorithm): inside a chunk as masked attention with scores C_t . B_s exp(-a (dt_{s+1} + ... + dt_t)) dt_s, between chunks by
the state. A chunk of one token is the recurrence itself, which decodes; both are tested against a loop over tokens.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.model.causal_convolution import convolve
from groundup.model.kv_cache import KVCache
from groundup.model.matmul_precision import cast_for_matmul
from groundup.recipe import ModelConfig
from groundup.recipe.mixer_config import StateSpaceConfig

CHUNK_LENGTH = 64
"""Tokens per chunk: the work inside one is quadratic, that between them a loop."""


class StateSpaceMixer(nn.Module):
    """The state-space layer of one block."""

    def __init__(self, config: ModelConfig, settings: StateSpaceConfig, layer: int):
        super().__init__()
        self.layer, self.num_heads, self.head_dim = layer, config.num_heads, config.head_dim
        self.num_groups, self.state_size = settings.num_groups, settings.state_size
        self.inner = config.num_heads * config.head_dim
        self.convolved = self.inner + 2 * settings.num_groups * settings.state_size
        bias = config.attention_bias == "all"
        self.in_proj = nn.Linear(config.hidden_size, self.inner + self.convolved + self.num_heads, bias=bias)
        self.convolution = nn.Conv1d(
            self.convolved,
            self.convolved,
            settings.convolution_width,
            groups=self.convolved,
            bias=settings.convolution_bias,
        )
        self.step_bias = nn.Parameter(torch.empty(self.num_heads))
        self.log_decay = nn.Parameter(torch.empty(self.num_heads))
        self.skip = nn.Parameter(torch.empty(self.num_heads))
        self.norm = GatedGroupNorm(self.inner, settings.num_groups, config.norm_eps)
        self.o_proj = nn.Linear(self.inner, config.hidden_size, bias=bias)

    def reset_parameters(self) -> None:
        """Decays 1 to H, steps from 0.001 to 0.1 (section 7 and the published code)."""
        numbers = torch.arange(1, self.num_heads + 1, device=self.step_bias.device)
        nn.init.ones_(self.skip)
        self.log_decay.data.copy_(numbers.log())
        steps = torch.logspace(-3, -1, self.num_heads, device=self.step_bias.device)
        self.step_bias.data.copy_(steps + torch.log(-torch.expm1(-steps)))  # the inverse of softplus
        nn.init.normal_(self.convolution.weight, std=self.convolution.kernel_size[0] ** -0.5)
        if self.convolution.bias is not None:
            nn.init.zeros_(self.convolution.bias)

    def forward(self, x: Float[Tensor, "B T D"], cache: KVCache | None = None) -> Float[Tensor, "B T D"]:
        x = cast_for_matmul(x)
        gate, inputs, steps = self.in_proj(x).split((self.inner, self.convolved, self.num_heads), dim=-1)
        before, state = (None, None) if cache is None else cache.states(self.layer)
        inputs, before = convolve(inputs, self.convolution, before)
        values, keys, queries = inputs.split(
            (self.inner, *(self.num_groups * self.state_size,) * 2), dim=-1
        )  # x, B and C
        values = values.unflatten(-1, (self.num_heads, self.head_dim)).float()
        keys, queries = (each.unflatten(-1, (self.num_groups, self.state_size)).float() for each in (keys, queries))
        steps = F.softplus(steps.float() + self.step_bias.float())
        outputs, state = scan_chunks(values, steps, -self.log_decay.float().exp(), keys, queries, state)
        if cache is not None:
            cache.keep_states(self.layer, (before, state))
        outputs = outputs + self.skip.float()[:, None] * values
        return self.o_proj(self.norm(outputs.flatten(2).to(x.dtype), gate))


def scan_chunks(
    values: Float[Tensor, "B T H K"],
    steps: Float[Tensor, "B T H"],
    rates: Float[Tensor, " H"],
    keys: Float[Tensor, "B T G N"],
    queries: Float[Tensor, "B T G N"],
    state: Float[Tensor, "B H K N"] | None = None,
    chunk_length: int = CHUNK_LENGTH,
) -> tuple[Float[Tensor, "B T H K"], Float[Tensor, "B H K N"]]:
    """Outputs y - D x of all tokens, and the state after the last; `rates`: -a."""
    heads = values.shape[2]
    keys, queries = (each.repeat_interleave(heads // each.shape[2], dim=2) for each in (keys, queries))
    last = values.new_zeros(values.shape[0], *values.shape[2:], keys.shape[-1]) if state is None else state
    outputs = []
    for x, dt, b, c in zip(*(each.split(chunk_length, dim=1) for each in (values, steps, keys, queries)), strict=True):
        decay = (rates * dt).cumsum(dim=1).transpose(1, 2)  # (B H T): log of what is left of the state before the chunk
        since = decay[..., :, None] - decay[..., None, :]  # (B H T S)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        scores = torch.einsum("bthn,bshn->bhts", c, b) * since.masked_fill(later, -torch.inf).exp()
        stepped = dt[..., None] * x
        outputs.append(
            torch.einsum("bhts,bshk->bthk", scores, stepped)
            + torch.einsum("bthn,bhkn->bthk", c, last) * decay.exp().transpose(1, 2)[..., None]
        )
        rest = (decay[..., -1:] - decay).exp().transpose(1, 2)[..., None]
        last = decay[..., -1].exp()[..., None, None] * last + torch.einsum("bshk,bshn->bhkn", rest * stepped, b)
    return torch.cat(outputs, dim=1), last


class GatedGroupNorm(nn.Module):
    """RMSNorm of x * silu(gate), over each group of elements (section 7.2)."""

    def __init__(self, size: int, num_groups: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.num_groups, self.eps = num_groups, eps

    def forward(self, x: Float[Tensor, "B T C"], gate: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        groups = (x.float() * F.silu(gate.float())).unflatten(-1, (self.num_groups, -1))
        normalised = F.rms_norm(groups, groups.shape[-1:], eps=self.eps).flatten(-2)
        return (normalised * self.weight.float()).to(x.dtype)
