"""[finetune]: how a base model learns to converse; or, with an encoder between, to answer one text by another."""

from typing import Literal

from pydantic import model_validator

from groundup.recipe.base_config import BaseConfig, knob
from groundup.recipe.data_config import PackageConfig


class ConversationSourceConfig(BaseConfig):
    """One place that conversations come from."""

    name: str = knob(meaning="how it is called in tables and reports")
    kind: Literal["chatterbot", "chatterbot_answers", "messages", "gettext"] = knob(
        meaning="chatterbot's YAML, whose lines are turns, or whose lines after the first are answers to choose from; "
        "JSON lines with a `messages` list; or gettext catalogues (.po), whose messages are answered by their translations"
    )
    path: str | None = knob(None, "files, as in data.sources")
    package: PackageConfig | None = knob(None, "take `path` from this package's archive")
    topics: tuple[str, ...] = knob((), "chatterbot: only the files of these names (without .yml); none: all")
    repeats: float = knob(1.0, "times that each conversation is shown in one epoch", gt=0)

    @model_validator(mode="after")
    def _check_location(self) -> "ConversationSourceConfig":
        if self.path is None and self.package is None:
            raise ValueError("needs a path or a package")
        return self


class FinetuneConfig(BaseConfig):
    conversations: tuple[ConversationSourceConfig, ...] = knob(
        meaning="the conversations to learn from", min_length=1
    )
    method: Literal["lora", "full"] = knob(
        "lora", "train low-rank additions to the weights (Hu et al. 2021), or all weights"
    )
    lora_rank: int = knob(16, "rank of the additions", ge=1)
    lora_alpha: float = knob(32.0, "the additions are scaled by alpha / rank", gt=0)
    epochs: float = knob(3.0, "passes over the conversations", gt=0)
    batch_tokens: int = knob(4_096, "tokens in one optimizer step", ge=1)
    learning_rate: float = knob(1e-3, "peak learning rate", gt=0)
    precision: Literal["float32", "bfloat16"] = knob("bfloat16", "of the matrix products")
    augment_user_turns: bool = knob(
        True, "show the user's turns also in lower case and without their last mark, as people type"
    )
    validation_fraction: float = knob(
        0.05, "share of the conversations held out, chosen by a stable hash of how they begin", ge=0, lt=1
    )
    prompts: tuple[str, ...] = knob(
        ("Hello", "What is AI?"), "what the report and the closing lines ask the model"
    )
