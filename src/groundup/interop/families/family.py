"""What a family is: a name, and two maps, each read both ways: of the configuration and of the tensors."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from groundup.artifacts.errors import UserError
from groundup.interop.weight_map import TensorMap
from groundup.recipe import ModelConfig

Json = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """A model family as Hugging Face folders store it.

    Attributes:
        name: `model_type` in config.json.
        architecture: the class in `transformers` that we write for.
        headless: that class for an encoder that only embeds.
        keys: our knobs and their names in config.json, where the values are the same.
        defaults: what a silent config.json means: the values of the family's class in transformers.
        kind: which of the three transformers it is.
        moe: whether it has experts.
        fixed: the value that a key must have, where transformers knows others and we do not.
        read: config.json (defaults filled in) -> the knobs of ModelConfig beyond `keys`.
        write: ModelConfig -> the keys of config.json beyond `keys`, for a model that the family can hold.
        pairs: our tensors beside theirs, for a model of this configuration whose tensors have these names.
        embedding, head: their names of the two matrices that may be tied.
        masked_head: a tensor that only encoders with a masked-language head have.
        prefix: what names start with in the class `architecture` and lack in files of the bare model.
        ignored: patterns of tensors that such files may hold and that carry nothing of the model.
    """

    name: str
    architecture: str
    keys: Mapping[str, str]
    defaults: Json
    read: Callable[[Json], Json]
    write: Callable[[ModelConfig], Json]
    weight_map: Callable[[ModelConfig, Sequence[str]], Iterable[TensorMap]]
    headless_architecture: str = ""
    kind: str = "decoder"
    moe: bool = False
    fixed: Json = field(default_factory=dict)
    embedding: str = "model.embed_tokens.weight"
    head: str = "lm_head.weight"
    masked_head: str | None = None
    prefix: str = "model."
    ignored: tuple[str, ...] = ()

    def read_config(self, json: Json, path: Path | str = "config.json") -> ModelConfig:
        """The model that `json`, a parsed config.json, describes; `where` it came from.

        Raises UserError for a value that is missing, or that we cannot follow.
        """
        json = {**self.defaults, **json}
        try:
            for key, value in self.fixed.items():
                if (json.get(key, value) or None) != (value or None):  # null and false say the same
                    raise UserError(f"{key} = {json[key]!r}, expected {value!r} in a {self.name} model")
            knobs = {ours: json[theirs] for ours, theirs in self.keys.items() if json[theirs] is not None}
            return ModelConfig(**knobs | self.read(json))
        except UserError as error:
            raise UserError(f"{path}: {error.message}", hint=error.hint) from None
        except KeyError as error:
            raise UserError(f"{path}: {error} is missing, expected in a {self.name} model") from None
        except ValidationError as error:
            raise UserError(f"{path}: {first_validation_error(error, self.keys)}") from None

    def write_config(self, config: ModelConfig) -> Json:
        """A config.json for `config`. Whether it says all of `config` shows when it is read again."""
        same = {theirs: getattr(config, ours) for ours, theirs in self.keys.items()}
        architecture = (
            self.architecture
            if config.masked_lm_head or not self.headless_architecture
            else self.headless_architecture
        )
        names = {"architectures": [architecture], "model_type": self.name}
        return names | self.fixed | same | self.write(config)


def first_validation_error(error: ValidationError, names: Mapping[str, str]) -> str:
    """The first thing that a configuration lacks or has wrong, by the name that the file has for it."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{names.get(field, field) or 'model'}: {first['msg']}"


def map_value(json: Json, key: str, meanings: Mapping[Any, Any]) -> Any:
    """What `json[key]` means in our words. Raises UserError for a word without a meaning here."""
    if json[key] not in meanings:
        known = ", ".join(repr(word) for word in meanings)
        raise UserError(f"{key} = {json[key]!r} is not supported, expected one of {known}")
    return meanings[json[key]]


def inverse_map_value(meanings: Mapping[Any, Any], value: Any) -> Any:
    """The first word that means `value`; where there is none, any: reading it again shows the difference."""
    return next((word for word, meaning in meanings.items() if meaning == value), next(iter(meanings)))
