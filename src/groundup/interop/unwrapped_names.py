"""Weights saved from a wrapped model: the wrapper's part of each tensor name is left out.

torch.compile puts `_orig_mod.` before the names of what it compiled, data parallel training `module.`, peft
`base_model.model.` and, at layers with LoRA, `base_layer.`. Adapters that are not merged into the weights are refused.
"""

from pathlib import Path

from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.safetensors_files import TensorSource

PREFIXES = ("module.", "base_model.model.")
ANYWHERE = ("_orig_mod.", "base_layer.")
ADAPTERS = (".lora_", ".modules_to_save.", ".original_module.", ".token_adapter.", ".trainable_tokens_", ".ia3_l")


class UnwrappedNames:
    """`source` with the names that the model itself has. Raises UserError for adapters, and for two tensors of one name.

    Attributes:
        shapes: shape by name without the wrapper's part.
    """

    def __init__(self, source: TensorSource):
        self.path: Path = source.path
        self._source = source
        if adapters := sorted(name for name in source.shapes if any(part in name for part in ADAPTERS)):
            raise UserError(
                f"{source.path}: tensor {adapters[0]} belongs to an adapter, expected weights with the adapter merged",
                hint="in Python: peft_model.merge_and_unload().save_pretrained(FOLDER); an adapter of groundup: --adapter",
            )
        self._names: dict[str, str] = {}
        for name in source.shapes:
            unwrapped = unwrap(name)
            if unwrapped in self._names:
                raise UserError(
                    f"{source.path}: tensors {self._names[unwrapped]} and {name} are both {unwrapped}, expected one",
                    hint="save the model itself, not the wrapped one",
                )
            self._names[unwrapped] = name
        self.shapes = {unwrapped: source.shapes[name] for unwrapped, name in self._names.items()}

    def read(self, name: str) -> Tensor:
        return self._source.read(self._names[name])


def unwrap(name: str) -> str:
    """`name` without the parts that wrappers add.

    >>> unwrap("module._orig_mod.model.layers.0.mlp.up_proj.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    for part in ANYWHERE:
        name = name.replace(part, "")
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name
