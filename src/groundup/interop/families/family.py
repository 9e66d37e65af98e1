"""The description of a Hugging Face model family: its config.json and its tensors, mapped both ways."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from groundup.artifacts.errors import UserError
from groundup.interop.weight_map import TensorMap
from groundup.model.classification_head import HeadSettings
from groundup.recipe import ModelConfig
from groundup.recipe.model_checks import MAX_LAYERS

Json = dict[str, Any]


@dataclass(frozen=True)
class ClassifierTensors:
    """The head of a classifier as the files of a family store it.

    Attributes:
        output: start of the last layer's tensors.
        dense, norm: the same of a square layer and a norm before it; empty: there is none.
        activation: after the square layer.
        pooling: of a text.
        read: config.json (with defaults) -> fields of HeadSettings beyond these.
        write: the settings -> the keys of config.json.
    """

    output: str = "classifier."
    dense: str = ""
    norm: str = ""
    activation: str = "tanh"
    pooling: str = "cls"
    read: Callable[[Json], Json] = lambda json: {}
    write: Callable[[HeadSettings], Json] = lambda settings: {}


@dataclass(frozen=True)
class Family:
    """A model family as Hugging Face folders store it.

    Attributes:
        name: `model_type` in config.json.
        aliases: other values of `model_type` for the same architecture.
        architecture: the class in transformers to export for.
        headless_architecture: the same for an encoder without a head.
        keys: our knobs and their names in config.json, where the values are the same.
        defaults: values of keys that config.json leaves out: those of the family's class in transformers.
        key_aliases: other names of keys in config.json, and those names.
        kind: our `architecture`: decoder, encoder or encoder_decoder.
        moe: whether it has experts.
        fixed: keys with only one supported value.
        read: config.json (with defaults) -> the knobs of ModelConfig beyond `keys`.
        write: ModelConfig -> the keys of config.json beyond `keys`.
        weight_map: tensor maps for a configuration and the names of its native tensors.
        logit_bias: foreign name of the bias of logits, which files may lack.
        embedding, head: foreign names of the two matrices that may be tied.
        masked_head: a foreign tensor that only encoders with a masked-LM head have.
        prefix: start of tensor names in the class `architecture`, absent in files of the headless model.
        text_classifier, token_classifier: heads that the files of classifiers have in place of one of tokens.
        ignored: patterns of foreign tensors that are no part of the model; {num_layers} stands for their number.
    """

    name: str
    architecture: str
    keys: Mapping[str, str]
    defaults: Json
    read: Callable[[Json], Json]
    write: Callable[[ModelConfig], Json]
    weight_map: Callable[[ModelConfig, Sequence[str]], Iterable[TensorMap]]
    headless_architecture: str = ""
    key_aliases: Mapping[str, str] = field(default_factory=dict)
    kind: str = "decoder"
    moe: bool = False
    fixed: Json = field(default_factory=dict)
    embedding: str = "model.embed_tokens.weight"
    head: str = "lm_head.weight"
    masked_head: str | None = None
    logit_bias: str | None = None
    prefix: str = "model."
    ignored: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    text_classifier: ClassifierTensors | None = None
    token_classifier: ClassifierTensors | None = None

    def ignored_tensors(self, config: ModelConfig) -> tuple[str, ...]:
        """`ignored` for a configuration."""
        return tuple(pattern.replace("{num_layers}", str(config.num_layers)) for pattern in self.ignored)

    def read_config(self, json: Json, path: Path | str = "config.json") -> ModelConfig:
        """The configuration of a parsed config.json at `path`. Raises UserError for missing and unsupported values."""
        json = {**self.defaults, **{self.key_aliases.get(key, key): value for key, value in json.items()}}
        try:
            for key in ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"):
                if (value := json.get(key)) is not None and not (type(value) is int and 0 < value <= MAX_LAYERS):
                    raise UserError(f"{key} = {value!r}, expected 1 to {MAX_LAYERS:,} layers")
            for key, value in self.fixed.items():
                if (json.get(key, value) or None) != (value or None):  # null and false are equivalent
                    raise UserError(f"{key} = {json[key]!r}, expected {value!r} in a {self.name} model")
            knobs = {native: json[foreign] for native, foreign in self.keys.items() if json[foreign] is not None}
            return ModelConfig.model_validate(knobs | self.read(json))
        except UserError as error:
            raise UserError(f"{path}: {error.message}", hint=error.hint) from None
        except KeyError as error:
            raise UserError(f"{path}: {error} is missing, expected in a {self.name} model") from None
        except ValidationError as error:
            raise UserError(f"{path}: {first_validation_error(error, self.keys)}") from None
        except (TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as error:
            raise UserError(f"{path}: a value has another type than in a {self.name} model: {error}") from None

    def write_config(self, config: ModelConfig) -> Json:
        """A config.json for `config`, without a check that it preserves all of `config` (see select_family.py)."""
        same = {foreign: getattr(config, native) for native, foreign in self.keys.items()}
        headless = "" if config.masked_lm_head else self.headless_architecture
        names = {"architectures": [headless or self.architecture], "model_type": self.name}
        return names | self.fixed | same | self.write(config)


def first_validation_error(error: ValidationError, names: Mapping[str, str]) -> str:
    """The first validation error, with the file's name of the field."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{names.get(field, field) or 'model'}: {first['msg']}"


def map_value(json: Json, key: str, meanings: Mapping[Any, Any]) -> Any:
    """`meanings[json[key]]`. Raises UserError for an unsupported value."""
    if json[key] not in meanings:
        known = ", ".join(repr(key) for key in meanings)
        raise UserError(f"{key} = {json[key]!r} is not supported, expected one of {known}")
    return meanings[json[key]]


def inverse_map_value(meanings: Mapping[Any, Any], value: Any) -> Any:
    """The first key of `meanings` with `value`; if there is none, the first key."""
    return next((key for key, meaning in meanings.items() if meaning == value), next(iter(meanings)))
