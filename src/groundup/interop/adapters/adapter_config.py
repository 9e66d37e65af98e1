"""adapter_config.json of PEFT: every key is read, known to be without effect, or refused with its value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.artifacts.bounded_regex import RegexTimeout, regex_matches
from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.interop.adapters.lora_layer import LoRASettings

ADAPTER_CONFIG = "adapter_config.json"

WITHOUT_EFFECT = {
    "task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "runtime_config", "megatron_core",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "bias",
    "fan_in_fan_out", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size",
    "use_dora", "lora_bias", "lora_dropout", "ensure_weight_tying",
}  # fmt: skip
"""Without effect on an adapter that is opened: the tensors in its file say the same, or the key concerns training alone."""

HARMLESS_INITS = ("gaussian", "eva", "orthogonal", "mica")
"""Initial values of A and B beside the defaults that leave the base model as it is."""
CHANGED_BASE_INITS = ("pissa", "olora")
"""Initial values that are taken out of the base's weights, in a way that can be repeated."""

CONVERSION = (
    "in Python: peft_model.save_pretrained(FOLDER, path_initial_model_for_weight_conversion=...) writes a plain LoRA"
)


@dataclass(frozen=True)
class AdapterConfig:
    """What adapter_config.json says.

    Attributes:
        path: of the file.
        rank_pattern, alpha_pattern: rank and alpha of modules whose name ends with a key, a regular expression.
        init: "pissa" or "olora": initial factors that were subtracted from the base; None: the base is unchanged.
        token_ids: trained token rows by the last part of the module's name; None: of the input embedding.
        tied: what replaces the embedding replaces a tied head too.
        base: name or path of the base model.
    """

    path: Path
    rank: int
    alpha: float
    rank_stabilized: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    init: str | None = None
    token_ids: Mapping[str | None, list[int]] = field(default_factory=dict)
    tied: bool = False
    base: str | None = None

    def settings(self, module: str, rank: int, *, dora: bool, bias: bool) -> LoRASettings:
        """How `module`, whose file has `rank`, is updated. Raises UserError if the file says another rank."""
        expected = self._of_pattern("rank_pattern", module, self.rank)
        if rank != expected:
            raise UserError(f"{self.path}: rank {expected} for {module}, but its tensors have rank {rank}")
        alpha = self._of_pattern("alpha_pattern", module, self.alpha)
        return LoRASettings(rank, alpha, rank_stabilized=self.rank_stabilized, dora=dora, bias=bias)

    def _of_pattern(self, key: str, module: str, default: Any) -> Any:
        """The value of the first pattern that `module` ends with, as in PEFT. Raises UserError for one that takes too long."""
        patterns: Mapping[str, Any] = getattr(self, key)
        for pattern, value in patterns.items():
            try:
                if regex_matches(rf"(.*\.)?({pattern})", module, whole=True):
                    return value
            except RegexTimeout as error:
                raise UserError(
                    f"{self.path}: {key}.{pattern} takes more than {error} to compare with {module}",
                    hint="expected a pattern without a repetition inside of another",
                ) from None
        return default


def read_adapter_config(folder: Path) -> AdapterConfig:
    """adapter_config.json of `folder`. Raises UserError for a key or value that is not supported."""
    path = folder / ADAPTER_CONFIG
    fields = read_json_object(path, hint=f"expected {ADAPTER_CONFIG} and adapter_model.safetensors")
    reader = _Fields(path, fields)
    if (kind := fields.get("peft_type")) != "LORA":
        reader.refuse("peft_type", kind, "expected LORA")
    init = fields.get("init_lora_weights", True)
    if not (init is None or isinstance(init, bool) or init in (*HARMLESS_INITS, *CHANGED_BASE_INITS)):
        reader.refuse("init_lora_weights", init, "which changed the weights of the base", CONVERSION)
    config = AdapterConfig(
        path=path,
        rank=reader.number("r", 8, whole=True),
        alpha=reader.number("lora_alpha", 8),
        rank_stabilized=reader.flag("use_rslora"),
        rank_pattern=reader.pattern("rank_pattern", whole=True),
        alpha_pattern=reader.pattern("alpha_pattern"),
        init=init if init in CHANGED_BASE_INITS else None,
        token_ids=reader.token_ids(),
        tied=reader.flag("ensure_weight_tying"),
        base=reader.text("base_model_name_or_path"),
    )
    known = WITHOUT_EFFECT | {
        "peft_type", "init_lora_weights", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern",
        "trainable_token_indices", "base_model_name_or_path",
    }  # fmt: skip
    for key, value in fields.items():  # an option that is off has no effect, known or not
        if key not in known and value not in (None, False, [], {}, ""):
            reader.refuse(key, value, "not supported")
    return config


class _Fields:
    """Checked values of the file's fields."""

    def __init__(self, path: Path, fields: dict[str, Any]):
        self.path, self.fields = path, fields

    def refuse(self, key: str, value: Any, reason: str, hint: str | None = None) -> None:
        raise UserError(f"{self.path}: {key} = {value!r}: {reason}", hint=hint)

    def number(self, key: str, default: float, *, whole: bool = False) -> Any:
        return self._checked_number(key, self.fields.get(key, default), whole)

    def pattern(self, key: str, *, whole: bool = False) -> dict[str, Any]:
        values = self.fields.get(key) or {}
        if not isinstance(values, dict):
            self.refuse(key, values, "expected an object")
        for name, value in values.items():
            try:
                re.compile(name)
            except re.error as error:
                self.refuse(key, name, f"not a regular expression: {error}")
            self._checked_number(f"{key}.{name}", value, whole)
        return values

    def flag(self, key: str) -> bool:
        value = self.fields.get(key) or False
        if not isinstance(value, bool):
            self.refuse(key, value, "expected true or false")
        return value

    def text(self, key: str) -> str | None:
        value = self.fields.get(key)
        if value is not None and not isinstance(value, str):
            self.refuse(key, value, "expected a text")
        return value

    def token_ids(self) -> dict[str | None, list[int]]:
        key = "trainable_token_indices"
        value = self.fields.get(key) or {}
        lists = value if isinstance(value, dict) else {None: value}
        for ids in lists.values():
            if not isinstance(ids, list) or any(type(id) is not int or id < 0 for id in ids):
                self.refuse(key, value, "expected token ids, or an object of them by module")
        return {None if name is None else name.rpartition(".")[2]: ids for name, ids in lists.items() if ids}

    def _checked_number(self, key: str, value: Any, whole: bool) -> Any:
        numeric = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not numeric or not abs(value) < float("inf") or (whole and not 1 <= value <= 1 << 16):
            self.refuse(key, value, "expected a whole number from 1 to 65,536" if whole else "expected a number")
        return value
