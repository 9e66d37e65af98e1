"""LoRA (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models").

A frozen matrix W gets a low-rank update: W x + s B A x, with A (r in), B (out r) and the scale s = alpha / r. B starts as
zeros, so training starts from the unchanged model. After training the product is added to W (section 4.1).

Variants: s = alpha / sqrt(r), rank-stabilized (Kalajdzievski 2023); and DoRA (Liu et al. 2024), which trains the length of
each row of W + s B A apart from its direction.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.model.frozen_linear import PackedLinear, frozen_linear
from groundup.model.moe import Experts, grouped_linear


@dataclass(frozen=True)
class LoRASettings:
    """How a layer is updated.

    Attributes:
        dropout: fraction of the update's inputs that is dropped in training.
        rank_stabilized: s = alpha / sqrt(rank) instead of alpha / rank.
        dora: the length of each row of the updated matrix is trained too.
        bias: B has a bias (extracted adapters have it).
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    rank_stabilized: bool = False
    dora: bool = False
    bias: bool = False

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


class LoRALinear(nn.Module):
    """A frozen linear layer, quantized or not, with a trainable low-rank update.

    Attributes:
        base: the frozen layer, in its own dtype.
        lora_a: (r in), initialized as in PEFT and the paper's code.
        lora_b: (out r), zeros.
        lora_bias: (out), zeros; None without.
        magnitude: (out), the lengths of the rows of W; None without DoRA.
        enabled: False: the layer computes what `base` computes.
    """

    def __init__(self, base: nn.Module, settings: LoRASettings):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.settings, self.scale, self.enabled = settings, settings.scale, True
        self.dropout = nn.Dropout(settings.dropout)
        width, rows = base.in_features, base.out_features
        options = {"device": next(iter(base.state_dict().values())).device, "dtype": torch.float32}
        self.lora_a = nn.Parameter(torch.empty(settings.rank, width, **options))  # type: ignore[arg-type]
        self.lora_b = nn.Parameter(torch.zeros(rows, settings.rank, **options))  # type: ignore[arg-type]
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.lora_bias = nn.Parameter(torch.zeros(rows, **options)) if settings.bias else None  # type: ignore[arg-type]
        self.magnitude = nn.Parameter(dense_weight(base).float().norm(dim=1)) if settings.dora else None
        self._unmerged: Tensor | None = None

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        y = frozen_linear(self.base, x) if type(self.base) is nn.Linear else self.base(x)
        if not self.enabled or self._unmerged is not None:
            return y
        cast = torch.is_autocast_enabled(x.device.type)  # which casts the factors to the dtype of x
        dropped = self.dropout(x if cast else x.to(self.lora_a.dtype))
        update = self.low_rank(dropped)
        if self.magnitude is None:
            return y + update.to(y.dtype)
        # The length is a constant for the gradient (DoRA, section 4.3).
        factor = (self.magnitude / self._updated_weight().detach().norm(dim=1)).to(update.dtype)
        bias: Tensor | None = self.base.bias  # type: ignore[assignment]
        if self.training and self.settings.dropout:
            product = F.linear(dropped, dense_weight(self.base).to(dropped.dtype))
        else:
            product = y if bias is None else y - bias
        return y + ((factor - 1) * product + factor * update).to(y.dtype)

    def low_rank(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        """s B A x, without the lengths of DoRA."""
        return F.linear(F.linear(x, self.lora_a) * self.scale, self.lora_b, self._scaled_bias())

    def updated_weight(self) -> Float[Tensor, "out in"]:
        """The matrix of the layer with its update, in float32."""
        weight = self._updated_weight()
        return weight if self.magnitude is None else (self.magnitude / weight.norm(dim=1))[:, None] * weight

    @torch.no_grad()
    def merge(self, *, keep: bool = False) -> None:
        """Write the update into the base's weight; `keep`: with a copy of the original, for `unmerge`.

        A packed base becomes a linear layer of its dequantized weight, on which the update was trained. Raises UserError where
        that could not be undone, and for a bias that the base has no place for.
        """
        if isinstance(self.base, PackedLinear) and not keep:
            self.base = self.base.to_linear()
        if type(self.base) is not nn.Linear:
            raise UserError("the layer is quantized: a merged update would be rounded away", hint="dequantize it first")
        if self.lora_bias is not None and self.base.bias is None:
            raise UserError(
                "lora_bias = true on a layer without a bias: merging has no place for it", hint="use it unmerged"
            )
        original, bias = self.base.weight.data, None if self.base.bias is None else self.base.bias.data
        self.base.weight.data = self.updated_weight().to(original.dtype)
        if bias is not None and self.lora_bias is not None:
            self.base.bias.data = bias + self._scaled_bias().to(bias.dtype)  # type: ignore[union-attr]
        self._unmerged, self._unmerged_bias = (original, bias) if keep else (None, None)

    def unmerge(self) -> None:
        """Put the original weight back, bit for bit; nothing if the layer is not merged."""
        if self._unmerged is not None:
            self.base.weight.data = self._unmerged  # type: ignore[union-attr]
            if self._unmerged_bias is not None:
                self.base.bias.data = self._unmerged_bias  # type: ignore[union-attr]
            self._unmerged = self._unmerged_bias = None

    def _updated_weight(self) -> Tensor:
        return dense_weight(self.base).float() + self.scale * (self.lora_b @ self.lora_a)

    def _scaled_bias(self) -> Tensor | None:
        return None if self.lora_bias is None else self.scale * self.lora_bias


class LoRAExperts(nn.Module):
    """Frozen experts of a mixture, each matrix of each expert with a trainable low-rank update.

    Attributes:
        base: the frozen experts.
        lora_a: (E r in) of gate_proj, up_proj and down_proj.
        lora_b: (E out r) of them, zeros.
        enabled: False: the experts as they are.
    """

    def __init__(self, base: Experts, settings: LoRASettings):
        super().__init__()
        if settings.dora or settings.bias:
            raise UserError("DoRA of experts: not supported", hint="leave lora_dora out, or take other lora_targets")
        self.base = base.requires_grad_(False)
        self.settings, self.scale, self.enabled = settings, settings.scale, True
        self.dropout = nn.Dropout(settings.dropout)
        self.lora_a, self.lora_b = nn.ParameterDict(), nn.ParameterDict()
        for name in EXPERT_MATRICES:
            count, rows, width = base.get_parameter(name).shape
            options = {"device": base.gate_proj.device, "dtype": torch.float32}
            self.lora_a[name] = torch.empty(count, settings.rank, width, **options)  # type: ignore[arg-type]
            self.lora_b[name] = torch.zeros(count, rows, settings.rank, **options)  # type: ignore[arg-type]
            for matrix in self.lora_a[name]:
                nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))

    def forward(self, x: Float[Tensor, "M D"], ends: Int[Tensor, " E"]) -> Float[Tensor, "M D"]:
        """As `Experts`: rows of `x` are sorted by expert."""
        base = self.base
        if not self.enabled:
            return base(x, ends)
        gate = self._linear("gate_proj", x, ends, base.gate_bias)
        up = self._linear("up_proj", x, ends, base.up_bias)
        return self._linear("down_proj", base.gating(gate, up), ends, base.down_bias)

    def merge(self) -> None:
        """Write the updates into the experts' matrices."""
        for name in EXPERT_MATRICES:
            weight = self.base.get_parameter(name)
            update = self.scale * (self.lora_b[name] @ self.lora_a[name]).detach()
            weight.data = (weight.data.float() + update).to(weight.dtype)

    def _linear(self, name: str, x: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
        y = grouped_linear(x, self.base.get_parameter(name), ends, bias)
        inner = grouped_linear(self.dropout(x), self.lora_a[name], ends) * self.scale
        return y + grouped_linear(inner, self.lora_b[name], ends)


EXPERT_MATRICES = ("gate_proj", "up_proj", "down_proj")


def dense_weight(layer: nn.Module) -> Float[Tensor, "out in"]:
    """The weight of a linear layer, unpacked if it is quantized."""
    return layer.weight if isinstance(layer, nn.Linear) else layer.dequantize()  # type: ignore[return-value,operator]


def merge_lora(model: nn.Module, *, keep: bool = False) -> nn.Module:
    """Add every update to its weight and restore linear layers, in place. All parameters become trainable.

    `keep`: the layers stay, with a copy of the original weights, so that `unmerge_lora` can put these back.
    """
    for name, layer in lora_layers(model).items():
        layer.merge(keep=keep)
        if not keep:
            model.set_submodule(name, layer.base)
    experts = lora_experts(model)
    if keep and experts:
        raise UserError("experts with LoRA: merging cannot be undone", hint="merge_lora(model) without keep")
    for name, layer in experts.items():
        layer.merge()
        model.set_submodule(name, layer.base)
    return model if keep else model.requires_grad_(True)


def unmerge_lora(model: nn.Module) -> nn.Module:
    """Undo `merge_lora(model, keep=True)`, bit for bit."""
    for layer in lora_layers(model).values():
        layer.unmerge()
    return model


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The linear layers with LoRA, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def lora_experts(model: nn.Module) -> dict[str, LoRAExperts]:
    """The experts with LoRA, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRAExperts)}


@contextmanager
def adapter_disabled(model: nn.Module) -> Iterator[None]:
    """The model without its adapter: the reference model of DPO and GRPO, for instance.

    with adapter_disabled(model):
        reference = model(tokens).logits
    """
    switches = [module for module in model.modules() if isinstance(getattr(module, "enabled", None), bool)]
    before = [module.enabled for module in switches]
    try:
        for module in switches:
            module.enabled = False  # type: ignore[assignment]
        yield
    finally:
        for module, value in zip(switches, before, strict=True):
            module.enabled = value
