"""Options that every method of teaching a model shares, as the knobs of [finetune], [preference] and [reinforcement]."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import nn

from groundup.finetune.lora import LoRAOptions, lora_options, prepare_lora
from groundup.quantize.layers.nf4_linear import pack_nf4
from groundup.recipe.tuning_config import TuningConfig

DEFAULT_LORA = LoRAOptions()


@dataclass(frozen=True)
class TuningOptions:
    """What is trained, on how much at once, and for how long. What is None is derived from the size of model and data.

    Attributes:
        method: "lora"; "qlora", which first packs the model in 4 bits; or "full" to train all weights.
        lora_rank, lora_alpha: of the adapters.
        lora: further options of LoRA: target layers, dropout, DoRA ...
        epochs: passes over the data.
        batch_tokens: tokens of an optimizer step.
        sequence_length: tokens of a row at most.
        learning_rate: peak learning rate.
        optimizer: "adamw" or "muon".
        precision: of matrix products: "float32" or "bfloat16".

    Raises ValueError for another method.
    """

    method: str = "lora"
    lora_rank: int | None = None
    lora_alpha: float = 32.0
    lora: LoRAOptions = DEFAULT_LORA
    epochs: float | None = None
    batch_tokens: int | None = None
    sequence_length: int | None = None
    learning_rate: float | None = None
    optimizer: str | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r}: expected {' or '.join(METHODS)}")

    @classmethod
    def from_config(cls, config: TuningConfig, *, trained_tokens: bool = False, new_tokens: Iterable[int] = ()) -> Self:
        """The options of a recipe's table; `trained_tokens`, `new_tokens`: see `lora_options`."""
        values = {field.name: getattr(config, field.name) for field in fields(cls) if field.name != "lora"}
        lora = lora_options(config, trained_tokens=trained_tokens, new_tokens=new_tokens)
        return cls(lora=lora, **values)

    def as_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the functions that train."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def with_defaults(self, defaults: dict[str, Any]) -> dict[str, Any]:
        """`defaults`, with the value of each that is given here."""
        given = {name: getattr(self, name, None) for name in defaults}
        return defaults | {name: value for name, value in given.items() if value is not None}

    def prepare(self, model: nn.Module, token_ids: Iterable[int], rank: int) -> None:
        """Make trainable what `method` trains, in place; `token_ids`: tokens whose embeddings LoRA trains too."""
        METHODS[self.method](model, token_ids, rank, self)


def _prepare_lora(model: nn.Module, token_ids: Iterable[int], rank: int, options: TuningOptions) -> None:
    """Freeze the model; add LoRA to its linear layers, and train the embeddings of control tokens and of new ones."""
    prepare_lora(model, rank, options.lora_alpha, options.lora, token_ids)


def _prepare_full(model: nn.Module, token_ids: Iterable[int], rank: int, options: TuningOptions) -> None:
    model.requires_grad_(True)


def _prepare_qlora(model: nn.Module, token_ids: Iterable[int], rank: int, options: TuningOptions) -> None:
    """The same over a base in NF4; layers that are packed already stay as they are."""
    pack_nf4(model)
    _prepare_lora(model, token_ids, rank, options)


METHODS: dict[str, Callable[[nn.Module, Iterable[int], int, TuningOptions], None]] = {
    "lora": _prepare_lora,
    "qlora": _prepare_qlora,
    "full": _prepare_full,
}
