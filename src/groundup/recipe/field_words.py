"""Words of the field that are no names of knobs, and the knobs that they stand for: for `groundup explain` and for hints.

Values of knobs (dpo, qlora, muon) need no entry. The names of arguments are those of transformers, PEFT and TRL.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

TUNING_TABLES = ("finetune", "preference", "reinforcement")


def _tuning(name: str) -> tuple[str, ...]:
    return tuple(f"{table}.{name}" for table in TUNING_TABLES)


SOURCES = ("finetune.conversations", "preference.sources", "reinforcement.sources", "data.sources")
KNOBS_OF_WORDS: dict[str, tuple[str, ...]] = {
    "sft": ("finetune",), "instruction tuning": ("finetune",), "rlhf": ("preference", "reinforcement"),
    "rlvr": ("reinforcement",), "ppo": ("reinforcement.loss",), "reward model": ("preference.loss",),
    "rewardmodel": ("preference.loss",), "preferences": ("preference",), "alignment": ("preference",),
    "distillation": ("finetune.teacher",), "kl": ("reinforcement.kl_coefficient", "preference.beta"),
    "peft": _tuning("method"), "adapter": _tuning("method"), "adapters": _tuning("method"), "4bit": ("finetune.method",),
    "load_in_4bit": _tuning("method"), "rslora": _tuning("lora_rank_stabilized"), "use_rslora": _tuning("lora_rank_stabilized"),
    "dora": _tuning("lora_dora"), "use_dora": _tuning("lora_dora"), "lora+": _tuning("lora_plus_ratio"),
    "loraplus_lr_ratio": _tuning("lora_plus_ratio"), "r": _tuning("lora_rank"), "rank": _tuning("lora_rank"),
    "alpha": _tuning("lora_alpha"), "target_modules": _tuning("lora_targets"), "modules_to_save": _tuning("lora_token_rows"),
    "num_train_epochs": _tuning("epochs"), "num_epochs": _tuning("epochs"),
    "lr": (*_tuning("learning_rate"), "train.learning_rate"),
    "batch_size": (*_tuning("batch_tokens"), "train.batch_tokens"),
    "per_device_train_batch_size": (*_tuning("batch_tokens"), "train.batch_tokens"),
    "gradient_accumulation_steps": (*_tuning("batch_tokens"), "train.batch_tokens"),
    "max_length": _tuning("sequence_length"), "max_seq_length": _tuning("sequence_length"),
    "max_seq_len": _tuning("sequence_length"), "max_prompt_length": _tuning("sequence_length"),
    "max_completion_length": ("reinforcement.max_answer_tokens",), "max_new_tokens": ("reinforcement.max_answer_tokens",),
    "num_generations": ("reinforcement.group_size",), "num_iterations": ("reinforcement.updates_per_rollout",),
    "reward_funcs": ("reinforcement.rewards",), "epsilon": ("reinforcement.clip_range",),
    "beta": ("reinforcement.kl_coefficient",), "loss_type": ("preference.loss", "reinforcement.loss"),
    "gamma": ("preference.simpo_gamma",), "bf16": _tuning("precision"), "dtype": _tuning("precision"),
    "test_size": _tuning("validation_fraction"), "load_best_model_at_end": _tuning("keep_best_weights"),
    "model_name_or_path": ("base.model",), "base_model": ("base.model",), "pretrained": ("base.model",),
    "sources": SOURCES, "dataset": SOURCES, "datasets": SOURCES, "data_files": SOURCES, "conversations": SOURCES,
    "problems": ("reinforcement.sources",),
}  # fmt: skip

VALUES_OF_WORDS = {
    **dict.fromkeys(("sharegpt", "alpaca", "openai", "chatml", "conversations", "chat", "jsonl", "json", "csv", "parquet",
                     "prompt_completion", "instruction"), "messages"),
    **dict.fromkeys(("sigmoid", "preference"), "dpo"), **dict.fromkeys(("rm", "reward_model", "bradley_terry"), "reward"),
    "ppo": "grpo", "reinforce": "rloo", "peft": "lora", "4bit": "qlora", "bf16": "bfloat16", "fp32": "float32",
    "adamw_torch": "adamw", "exact_match": "answer", "accuracy": "answer", "code": "tests", "unit_tests": "tests",
    "regexp": "regex", "python": "function", "embeddings": "embedding", "labels": "classification",
}  # fmt: skip
"""Values that people try, and the value of the knob that does it."""


def knobs_of_word(word: str, known: Mapping[str, Any]) -> list[str]:
    """The knobs, of `known` fields by name, that a word of the field stands for, or that take it as a value."""
    word = word.lower().replace("-", "_")
    named = next((KNOBS_OF_WORDS[each] for each in (word, word.replace("_", " ")) if each in KNOBS_OF_WORDS), ())
    values = {word} if named else {word, VALUES_OF_WORDS.get(word)}
    taken = [name for name, field in known.items() if values & literal_values(field.annotation)]
    return list(dict.fromkeys([*named, *taken]))


def nearest_knob(name: str, known: Mapping[str, Any]) -> str | None:
    """The knob that an unknown `name`, without indices, may stand for: of its own table, then by words, then by spelling."""
    table, _, last = name.rpartition(".")
    own = {knob.rpartition(".")[2]: knob for knob in known if knob.rpartition(".")[0] == table}
    by_word = KNOBS_OF_WORDS.get(last.lower(), ())
    for candidates in (
        [own[each] for each in difflib.get_close_matches(last, own, n=1, cutoff=0.75)],
        [knob for knob in by_word if knob.rpartition(".")[0] == table],
        [own[each] for each in difflib.get_close_matches(last, own, n=1, cutoff=0.6)],
        by_word,
        [knob for knob in known if knob.rpartition(".")[2] == last],
        difflib.get_close_matches(name, known, n=1, cutoff=0.75),
    ):
        if candidates:
            return candidates[0]
    return None


def nearest_value(value: Any, annotation: Any) -> str | None:
    """The value of a closed choice that `value` may stand for."""
    known = [each for each in literal_values(annotation) if isinstance(each, str)]
    if not isinstance(value, str):
        return None
    word = value.lower().replace("-", "_")
    if VALUES_OF_WORDS.get(word) in known:
        return VALUES_OF_WORDS[word]
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), None)


def literal_values(annotation: Any) -> set[Any]:
    """The values of the closed choices in a type."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return {value for part in get_args(annotation) for value in literal_values(part)}
