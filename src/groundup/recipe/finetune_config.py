"""[finetune]: fine-tuning of the base model: on conversations, on pairs of texts, or on labelled texts."""

import difflib
from typing import Literal

from pydantic import model_validator

from groundup.recipe.base_config import BaseConfig, knob, refuse_unused
from groundup.recipe.data_config import PackageConfig
from groundup.recipe.tuning_config import TuningConfig

FinetuneTaskName = Literal["generation", "embedding", "classification"]

EXAMPLE_KINDS = {"generation": (), "embedding": ("pairs",), "classification": ("labels", "folders")}
"""Kinds of examples that each task reads."""
GENERATION_KNOBS = (
    "augment_user_turns", "doubled_roles", "long_conversations", "sequence_length", "prompts", "lora_token_rows",
)  # fmt: skip

COLUMN_NAMES = (
    "messages", "prompt", "completion", "chosen", "rejected", "label", "instruction", "input", "output", "history", "system",
    "tools", "query", "text", "role", "content", "answer", "tests",
)  # fmt: skip
"""Fields that `columns` names in the files."""


class FinetuneSourceConfig(BaseConfig):
    """Files of one source."""

    name: str = knob(meaning="name in tables and reports")
    path: str | None = knob(None, "path, as in data.sources[].path", unset="all members of `package`")
    package: PackageConfig | None = knob(None, "read `path` from the archive of this package", unset="off")
    columns: dict[str, str] = knob(
        {},
        'names of the fields in the files, where they are others, by the names used here: {prompt = "Question", '
        'completion = "Answer"}, {messages = "chat.turns", role = "speaker", content = "utterance"}; '
        "if any but role and content is named, the others are not read",
    )

    @model_validator(mode="after")
    def _check_location(self) -> "FinetuneSourceConfig":
        if self.path is None and self.package is None:
            raise ValueError("needs a path or a package")
        for name in self.columns:
            if name not in COLUMN_NAMES:
                near = difflib.get_close_matches(name, COLUMN_NAMES, n=1)
                meant = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"columns: {name} is none of {', '.join(COLUMN_NAMES)}{meant}")
        return self


class ConversationSourceConfig(FinetuneSourceConfig):
    """One source of conversations."""

    kind: Literal["chatterbot", "chatterbot_answers", "messages", "gettext"] = knob(
        meaning="chatterbot: YAML, lines are turns; chatterbot_answers: YAML, lines after the first are alternative answers; "
        "messages: JSON, CSV, Parquet or Arrow in the shapes of OpenAI (`messages`), ShareGPT and Alpaca, prompt and completion, "
        "question and answer, or OpenAssistant's trees, also compressed, and folders of `datasets`; "
        "gettext: .po catalogues, messages with their translations"
    )
    topics: tuple[str, ...] = knob((), "chatterbot: names of the files to read, without .yml; empty: all")
    repeats: float = knob(1.0, "times that each conversation occurs in one epoch", gt=0)

    @model_validator(mode="after")
    def _check_unused(self) -> "ConversationSourceConfig":
        needs = {
            "kind = chatterbot or chatterbot_answers": (self.kind.startswith("chatterbot"), ("topics",)),
            "kind = messages": (self.kind == "messages", ("columns",)),
        }
        refuse_unused(self, needs)
        return self


class ExampleSourceConfig(FinetuneSourceConfig):
    """One source of pairs of texts for search, or of labelled texts."""

    kind: Literal["pairs", "labels", "folders"] = knob(
        meaning="pairs: JSON or CSV with `query` and `text`, the text to be found; labels: JSON or CSV with `text` and "
        "`label`; folders: text files, whose folder is the label"
    )

    @model_validator(mode="after")
    def _check_unused(self) -> "ExampleSourceConfig":
        refuse_unused(self, {"kind = pairs or labels": (self.kind != "folders", ("columns",))})
        return self


class FinetuneConfig(TuningConfig):
    """[finetune]: what the base model learns, and how."""

    task: FinetuneTaskName = knob(
        "generation",
        "generation: answers of conversations, or the second text of a pair (encoder_decoder); embedding: vectors for "
        "search, of any model; classification: a label for a text, by any model",
    )
    conversations: tuple[ConversationSourceConfig, ...] = knob((), "task generation: sources of conversations")
    examples: tuple[ExampleSourceConfig, ...] = knob(
        (), "sources of pairs (task embedding; none: neighbouring passages of the training text) or of labelled texts"
    )
    teacher: str | None = knob(
        None,
        "larger model whose predictions are learnt too (Hinton et al. 2015): a folder, a .gguf file or a run, with the same "
        "vocabulary",
        unset="none",
    )
    teacher_weight: float = knob(
        0.5, "share of the teacher's predictions in the loss; the rest: the answers", ge=0, le=1
    )
    teacher_temperature: float = knob(
        1.0, "logits of both models are divided by it; above 1, unlikely tokens count more", gt=0
    )
    temperature: float = knob(0.05, "task embedding: cosine similarities are divided by it in the loss", gt=0)
    augment_user_turns: bool = knob(
        False,
        "add copies of user turns in lower case and without final punctuation: for models of a few million parameters, to "
        "which other spellings are other words",
    )
    doubled_roles: Literal["merge", "keep", "drop"] = knob(
        "merge",
        "two turns of one role behind each other: merge into one, by an empty line; keep, for chat templates that take them; "
        "drop the conversation",
    )
    long_conversations: Literal["drop", "cut", "split"] = knob(
        "cut",
        "conversations beyond sequence_length: cut after the last answer that fits; split into pieces, each after the system "
        "message and without the turns before it; or drop. No answer is cut within",
    )

    @property
    def one_device_reason(self) -> str | None:
        reasons = {
            "embedding": "a text is compared with all others of its batch",
            "classification": "a classifier of texts is trained in minutes",
        }
        return reasons.get(self.task)

    @model_validator(mode="after")
    def _check_sources(self) -> "FinetuneConfig":
        if self.task == "generation" and not self.conversations:
            raise ValueError("conversations: expected at least one source")
        if self.teacher is not None and self.task != "generation":
            raise ValueError(f"teacher with task = {self.task}, expected generation")
        if self.task == "classification" and not self.examples:
            raise ValueError("examples: expected at least one source of labelled texts for task = classification")
        if self.task != "generation" and self.conversations:
            raise ValueError(f"conversations are for task = generation, not for {self.task}: examples")
        kinds = EXAMPLE_KINDS[self.task]
        if wrong := [source.kind for source in self.examples if source.kind not in kinds]:
            expected = f"expected {' or '.join(kinds)}" if kinds else "expected none: conversations"
            raise ValueError(f"examples of kind {wrong[0]} with task = {self.task}: {expected}")
        needs = {
            "task = generation": (self.task == "generation", GENERATION_KNOBS),
            "task = embedding": (self.task == "embedding", ("temperature",)),
            "a teacher": (self.teacher is not None, ("teacher_weight", "teacher_temperature")),
        }
        refuse_unused(self, needs)
        return self
