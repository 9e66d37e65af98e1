"""Opening an adapter of PEFT on its base model.

Linear layers and experts get LoRA layers. What cannot be one (updates of the embedding, the head or a router, whole tensors of
`modules_to_save`, biases) is written into a copy of the weight, so that other holders of the base's tensors keep theirs.
"""

from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.run_record import check_artifact
from groundup.interop.adapters.adapter_config import CONVERSION, AdapterConfig, read_adapter_config
from groundup.interop.adapters.adapter_folder import PREFIX, TOKEN_ROWS_SUFFIX
from groundup.interop.adapters.base_fingerprint import check_base_model
from groundup.interop.adapters.foreign_updates import (
    ForeignLayout,
    LowRankUpdate,
    candidate_families,
    plain_weights,
    replace_weight,
)
from groundup.interop.adapters.lora_layer import LoRAExperts, LoRALinear, LoRASettings, lora_experts, lora_layers
from groundup.interop.adapters.trainable_tokens import train_rows
from groundup.interop.safetensors_files import SafetensorsFolder
from groundup.model.frozen_linear import PackedLinear
from groundup.model.head import TiedHead, UntiedHead
from groundup.model.moe import Experts

FACTORS = {
    ".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_B.bias": "bias", ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude", ".lora_embedding_A": "embedding_a", ".lora_embedding_B": "embedding_b",
}  # fmt: skip
OTHER_BASE = "use the base model that the adapter was trained on"


def load_adapter(model: nn.Module, folder: Path, *, verify: bool = True) -> nn.Module:
    """Add the adapter in `folder` to the base model, in place.

    `verify`: compare the files of a run's adapter with their SHA-256, and the base with the fingerprint in the folder, first.
    Raises UserError for an adapter of another model, and for what is not supported.
    """
    if verify:
        check_artifact(folder)
    config = read_adapter_config(folder)
    if lora_layers(model) or lora_experts(model):
        raise UserError("the model already has LoRA layers", hint="merge_lora(model) first, or take another copy of it")
    if verify:
        check_base_model(model, folder)
    AdapterReader(model, config, folder).apply()
    return model


class AdapterReader:
    """The tensors of an adapter, sorted by what they do.

    Attributes:
        factors: by module, and by the names in FACTORS.
        rows: trained token rows by module.
        replaced: whole tensors by name.
    """

    def __init__(self, model: nn.Module, config: AdapterConfig, folder: Path):
        self.model, self.config, self.folder = model, config, folder
        file = SafetensorsFolder(folder)
        self.factors: dict[str, dict[str, Tensor]] = defaultdict(dict)
        self.rows: dict[str, Tensor] = {}
        self.replaced: dict[str, Tensor] = {}
        for key in file.shapes:
            name, tensor = key.removeprefix(PREFIX), file.read(key)
            if not tensor.is_floating_point() or not tensor.float().sum().isfinite():
                raise UserError(f"{folder}: tensor {key} is not of finite numbers", hint="the adapter is damaged")
            suffix = next((suffix for suffix in FACTORS if name.endswith(suffix)), None)
            if suffix is not None:
                self.factors[name.removesuffix(suffix)][FACTORS[suffix]] = tensor.float()
            elif name.endswith(TOKEN_ROWS_SUFFIX):
                self.rows[name.removesuffix(TOKEN_ROWS_SUFFIX)] = tensor
            else:
                self.replaced[name.replace(".base_layer.", ".")] = tensor
        if not (self.factors or self.rows or self.replaced):
            raise UserError(f"{folder}: the adapter has no tensors", hint="saving failed: copy or download it again")
        self.tied = isinstance(getattr(model, "head", None), TiedHead)
        self.layout = self._layout()

    @torch.no_grad()
    def apply(self) -> None:
        """Change the model; nothing is changed if a tensor does not fit."""
        updates = {name: self._update(name, factors) for name, factors in self.factors.items()}
        residuals = self._replacements()
        native, settings = self._native(updates)
        rows = dict(self._rows(name, tensor) for name, tensor in self.rows.items())
        self._untie({*residuals, *native})
        for name, tensor in residuals.items():
            replace_weight(self.model, name, tensor)
        if self.config.init is not None:
            self._subtract_initial(updates)
        for name, update in native.items():
            _add_update(self.model, name, update, settings[name])
        for name, (ids, values) in rows.items():
            table = self.model.get_submodule(name.removesuffix(".weight"))
            weight: Tensor = table.weight  # type: ignore[assignment]
            addition = train_rows(table, ids)
            addition.delta.copy_(values.to(weight.device) - weight[addition.token_indices])

    def _layout(self) -> ForeignLayout:
        """The layout with all tensors of the adapter. Raises UserError naming a tensor that the nearest one lacks."""
        wanted = [f"{name}.weight" for name in (*self.factors, *self.rows)] + list(self.replaced)
        missing: list[list[str]] = []
        for family in (*candidate_families(self.model.config), None):
            try:
                layout = ForeignLayout(self.model, family)
            except UserError:
                continue
            missing.append([name for name in wanted if not self._known(layout, name)])
            if not missing[-1]:
                return layout
        first = min(missing, key=len)[0]
        raise UserError(
            f"{self.folder}: tensor {PREFIX}{first} is missing or unexpected for this model", hint=OTHER_BASE
        )

    def _known(self, layout: ForeignLayout, name: str) -> bool:
        is_head = name in ("lm_head.weight", "embed_out.weight", "head.weight")
        return layout.tensor_name(name) is not None or self._is_expert(layout, name) or (is_head and self.tied)

    def _is_expert(self, layout: ForeignLayout, name: str) -> bool:
        owner, _, last = name.removesuffix(".weight").rpartition(".")
        return layout.family is None and last.isdigit() and owner in layout.by_native

    def _update(self, name: str, factors: dict[str, Tensor]) -> LowRankUpdate:
        if set(factors) == {"embedding_a", "embedding_b"}:  # (r V) and (D r), of the transposed weight
            return LowRankUpdate(factors["embedding_b"].T, factors["embedding_a"].T)
        if not {"a", "b"} <= set(factors) or "embedding_a" in factors or "embedding_b" in factors:
            raise UserError(f"{self.folder}: {PREFIX}{name}: lora_A or lora_B is missing or unexpected for this model")
        a, b = factors["a"], factors["b"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise UserError(
                f"{self.folder}: {name}: lora_A has shape {list(a.shape)}, lora_B {list(b.shape)}, "
                "expected (r in) and (out r)"
            )
        return LowRankUpdate(a, b, factors.get("bias"), factors.get("magnitude"))

    def _native(self, updates: dict[str, LowRankUpdate]) -> tuple[dict[str, LowRankUpdate], dict[str, LoRASettings]]:
        """Updates of our tensors, and how they are scaled."""
        native: dict[str, LowRankUpdate] = {}
        settings: dict[str, LoRASettings] = {}
        stacks: dict[str, dict[int, LowRankUpdate]] = defaultdict(dict)
        for module, update in updates.items():
            how = self.config.settings(
                module, update.a.shape[0], dora=update.magnitude is not None, bias=update.bias is not None
            )
            name = f"{module}.weight"
            foreign = self.layout.tensor_name(name)
            if foreign is None and self._is_expert(self.layout, name):
                owner, _, index = module.rpartition(".")
                stacks[owner][int(index)] = update
                settings[owner] = how
                continue
            if foreign is None:  # a tied head
                native["head.weight"], settings["head.weight"] = update, how
                continue
            tensor_map = self.layout.maps[foreign]
            if len(tensor_map.foreign) > 1:
                if not self.layout.is_stack(tensor_map):
                    raise UserError(
                        f"{self.folder}: {module} is a part of {tensor_map.native[0]}: an update is not supported"
                    )
                stacks[tensor_map.native[0]][tensor_map.foreign.index(foreign)] = update
                settings[tensor_map.native[0]] = how
                continue
            try:
                parts = self.layout.to_native(foreign, update)
            except UserError as error:
                raise UserError(f"{self.folder}: {error.message}", hint=OTHER_BASE) from None
            native |= parts
            settings |= dict.fromkeys(parts, how)
        for name, parts in stacks.items():
            native[name] = self._stack(name, parts)
        return native, settings

    def _stack(self, name: str, parts: dict[int, LowRankUpdate]) -> LowRankUpdate:
        """Factors of all experts; of those without an update, zeros."""
        count, rows, width = self.layout.shapes[name]
        some = next(iter(parts.values()))
        if any(part.magnitude is not None or part.bias is not None for part in parts.values()):
            raise UserError(f"{self.folder}: {name}: DoRA of experts: not supported")
        empty = LowRankUpdate(some.a.new_zeros(some.a.shape), some.b.new_zeros(some.b.shape))
        stacked = LowRankUpdate(
            torch.stack([parts.get(e, empty).a for e in range(count)]),
            torch.stack([parts.get(e, empty).b for e in range(count)]),
        )
        if stacked.a.shape[2] != width or stacked.b.shape[1] != rows:
            raise UserError(f"{self.folder}: {name}: the shapes of experts do not fit", hint=OTHER_BASE)
        return stacked

    def _replacements(self) -> dict[str, Tensor]:
        """Our tensors that whole tensors of the adapter replace."""
        foreign: dict[str, Tensor] = {}
        native: dict[str, Tensor] = {}
        for name, tensor in self.replaced.items():
            if (known := self.layout.tensor_name(name)) is not None:
                foreign[known] = tensor
            else:
                native["head.weight"] = tensor
        current = plain_weights(self.model)
        for tensor_map in {id(each): each for each in map(self.layout.maps.__getitem__, foreign)}.values():
            before = tensor_map.to_foreign([current[name] for name in tensor_map.native])
            tensors = [foreign.get(name, tensor) for name, tensor in zip(tensor_map.foreign, before, strict=True)]
            for name, new, old in zip(tensor_map.foreign, tensors, before, strict=True):
                if new.shape != old.shape:
                    raise UserError(
                        f"{self.folder}: tensor {PREFIX}{name} has shape {list(new.shape)}, expected {list(old.shape)}",
                        hint=OTHER_BASE,
                    )
            tensors = [new.to(old.dtype) for new, old in zip(tensors, before, strict=True)]
            native |= dict(zip(tensor_map.native, tensor_map.to_native(tensors), strict=True))
        return native

    def _rows(self, module: str, values: Tensor) -> tuple[str, tuple[list[int], Tensor]]:
        """(our tensor, (token ids, rows))."""
        ids = self.config.token_ids.get(module.rpartition(".")[2], self.config.token_ids.get(None, []))
        vocab_size = self.model.config.vocab_size  # type: ignore[union-attr]
        if outside := [id for id in ids if id >= vocab_size]:  # type: ignore[operator]
            raise UserError(f"{self.config.path}: token {outside[0]}, expected ids below {vocab_size}", hint=OTHER_BASE)
        foreign = self.layout.tensor_name(f"{module}.weight")
        if foreign is None:
            raise UserError(f"{self.folder}: {module} has token rows, but this model's head is tied", hint=OTHER_BASE)
        native = self.layout.maps[foreign].native[0]
        width = self.layout.shapes[native][1]
        if values.shape != (len(ids), width):
            raise UserError(
                f"{self.folder}: {module} has token rows of shape {list(values.shape)}, expected {[len(ids), width]}: "
                f"trainable_token_indices of {self.config.path.name} names {len(ids)} tokens",
                hint=OTHER_BASE,
            )
        return native, (ids, values)

    def _untie(self, changed: set[str]) -> None:
        """A head of its own, where the adapter changes the embedding or the head alone, as in PEFT.

        Token rows of a tied embedding are those of the head too; whole matrices only with ensure_weight_tying.
        """
        if not self.tied or not changed & {"embedding.tokens.weight", "head.weight"}:
            return
        if self.config.tied and "head.weight" not in changed:
            return
        untie_head(self.model)

    def _subtract_initial(self, updates: dict[str, LowRankUpdate]) -> None:
        """PiSSA (Meng et al. 2024) and OLoRA: take the factors that training began with out of the base's weights."""
        for module, update in updates.items():
            foreign = self.layout.tensor_name(f"{module}.weight")
            tensor_map = self.layout.maps[foreign] if foreign else None
            current = plain_weights(self.model)
            if (
                tensor_map is None
                or len(tensor_map.foreign) > 1
                or any(current[name].is_meta for name in tensor_map.native)
            ):
                raise UserError(
                    f"{self.config.path}: init_lora_weights = {self.config.init!r}, which changed the weights of the base: "
                    f"not supported for {module} of this model",
                    hint=CONVERSION,
                )
            (weight,) = tensor_map.to_foreign([current[name] for name in tensor_map.native])
            how = self.config.settings(module, update.a.shape[0], dora=False, bias=False)
            rest = weight.float() - initial_update(weight.float(), how, self.config.init)
            for name, tensor in zip(tensor_map.native, tensor_map.to_native([rest]), strict=True):
                replace_weight(self.model, name, tensor)


def initial_update(weight: Tensor, settings: LoRASettings, init: str | None) -> Tensor:
    """s B A as PiSSA or OLoRA begin: the largest singular values of the matrix, or the first columns of its QR."""
    if init == "pissa":
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        return (left[:, : settings.rank] * values[: settings.rank]) @ right[: settings.rank]
    q, r = torch.linalg.qr(weight)
    return settings.scale * q[:, : settings.rank] @ r[: settings.rank]


def untie_head(model: nn.Module) -> None:
    """Give a tied head a matrix of its own, with the values of the embedding. In place."""
    head: TiedHead = model.head  # type: ignore[assignment]
    model.config = model.config.model_copy(update={"tie_embeddings": False})  # type: ignore[union-attr,operator]
    with torch.device("meta"):
        untied = UntiedHead(model.config, bias=head.bias is not None)  # type: ignore[arg-type]
    untied.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    untied.bias, untied.compiled = head.bias, head.compiled
    model.head = untied


def _add_update(model: nn.Module, name: str, update: LowRankUpdate, settings: LoRASettings) -> None:
    """Put a low-rank update on the matrix `name`."""
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(module, Experts):
        module = LoRAExperts(module, settings)
        model.set_submodule(owner, module)
    if isinstance(module, LoRAExperts):
        if module.scale != settings.scale:
            raise UserError(f"{name}: scale {settings.scale}, expected {module.scale}, that of the other matrices")
        device = module.lora_a[last].device
        module.lora_a[last], module.lora_b[last] = update.a.to(device), update.b.to(device)
    elif type(module) is nn.Linear or isinstance(module, PackedLinear):
        layer = LoRALinear(module, settings)
        pairs = ((layer.lora_a, update.a), (layer.lora_b, update.b), (layer.lora_bias, update.bias))
        for parameter, tensor in (*pairs, (layer.magnitude, update.magnitude)):
            if parameter is not None and tensor is not None:
                parameter.copy_(tensor)
        model.set_submodule(owner, layer)
    elif update.bias is not None:
        raise UserError(f"{name}: lora_bias = true on a module without LoRA layers: not supported")
    else:
        weight = module.get_parameter(last).float()
        weight = weight + settings.scale * (update.b @ update.a).to(weight.device)
        if update.magnitude is not None:
            weight *= (update.magnitude.to(weight.device) / weight.norm(dim=1))[:, None]
        replace_weight(model, name, weight)
