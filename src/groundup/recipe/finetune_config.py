"""[finetune]: fine-tuning of the base model: on conversations, or on text pairs for an encoder_decoder."""

from typing import Literal

from pydantic import model_validator

from groundup.recipe.base_config import BaseConfig, knob
from groundup.recipe.data_config import PackageConfig

BY_SIZE = "derived: {} for a model of a few million parameters to {} for 7 billion"


class ConversationSourceConfig(BaseConfig):
    """One source of conversations."""

    name: str = knob(meaning="name in tables and reports")
    kind: Literal["chatterbot", "chatterbot_answers", "messages", "gettext"] = knob(
        meaning="chatterbot: YAML, lines are turns; chatterbot_answers: YAML, lines after the first are alternative answers; "
        "messages: JSON lines with a `messages` list; gettext: .po catalogues, messages with their translations"
    )
    path: str | None = knob(None, "path, as in data.sources[].path", unset="all members of `package`")
    package: PackageConfig | None = knob(None, "read `path` from the archive of this package", unset="off")
    topics: tuple[str, ...] = knob((), "chatterbot: names of the files to read, without .yml; empty: all")
    repeats: float = knob(1.0, "times that each conversation occurs in one epoch", gt=0)

    @model_validator(mode="after")
    def _check_location(self) -> "ConversationSourceConfig":
        if self.path is None and self.package is None:
            raise ValueError("needs a path or a package")
        return self


class FinetuneConfig(BaseConfig):
    """[finetune]: conversations or text pairs, and how the base model is trained on them."""

    conversations: tuple[ConversationSourceConfig, ...] = knob(meaning="sources of conversations", min_length=1)
    method: Literal["lora", "full"] = knob("lora", "lora: low-rank adapters (Hu et al. 2021); full: all weights")
    lora_rank: int | None = knob(None, "rank of the adapters", unset=BY_SIZE.format("32", "16"), ge=1)
    lora_alpha: float = knob(32.0, "adapters are scaled by lora_alpha / lora_rank", gt=0)
    epochs: float | None = knob(None, "passes over the conversations", unset=BY_SIZE.format("15", "3"), gt=0)
    batch_tokens: int | None = knob(None, "tokens per optimizer step", unset=BY_SIZE.format("1,024", "16,384"), ge=1)
    learning_rate: float | None = knob(
        None, "peak learning rate", unset=BY_SIZE.format("5e-3", "2e-4") + "; a tenth of it for method = full", gt=0
    )
    precision: Literal["float32", "bfloat16"] = knob("bfloat16", "precision of matrix products")
    augment_user_turns: bool = knob(True, "add copies of user turns in lower case and without final punctuation")
    validation_fraction: float = knob(
        0.05, "fraction of conversations for validation, chosen by a hash of their beginning", ge=0, lt=1
    )
    keep_best_weights: bool | None = knob(
        None,
        "result: the weights that predict the validation answers best, not the last ones; training stops when 3 evaluations "
        "in a row are no better",
        unset="derived: on for text pairs and for more than 5,000 conversations; fewer are to be known by heart",
    )
    prompts: tuple[str, ...] = knob(("Hello", "What is AI?"), "prompts of the samples in log and report")
