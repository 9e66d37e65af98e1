"""Tokenizer files of an export, such that transformers and engines on top of it give the ids of `Tokenizer.encode`."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.processors import TemplateProcessing

from groundup.artifacts.json_file import read_json_object
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.split_patterns import PATTERNS
from groundup.tokenizer.tokenizer import TOKENIZER_FILE
from groundup.tokenizer.tokenizer_folder import CONFIG_FILE

UNLIMITED = 10**9
"""Values of `model_max_length` from here on say nothing."""
QWEN35_REGEX = (
    PATTERNS["qwen2"].regex.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
)
REPLACED_RULES = {"qwen2": PATTERNS["qwen2"].regex, "qwen3_5_moe_text": QWEN35_REGEX}
"""`model_type` -> the regex of the class that transformers 5 takes in place of the rules in tokenizer.json, with NFC."""
CUSTOM_CLASS = {"AutoTokenizer": [None, "tokenizer_json.PreTrainedTokenizerFast"]}
"""A class that is nowhere. transformers does not look for it unless it is told to trust the code of a folder, and then takes the
rules in tokenizer.json instead of those of its own class (transformers 5.24, `AutoTokenizer.from_pretrained`)."""


def save_tokenizer(tokenizer: Tokenizer, config: ModelConfig, out: Path, model_type: str) -> list[Path]:
    """Write the tokenizer files of a model into `out`. Returns them.

    Those of an encoder-decoder get the rule that a text ends with the eos token, as `encode_prompt` adds it.
    """
    tokenizer.save(out)
    if config.architecture == "encoder_decoder" and tokenizer.eos and tokenizer.backend.post_processor is None:
        backend = tokenizers.Tokenizer.from_file(str(out / TOKENIZER_FILE))
        backend.post_processor = TemplateProcessing(
            single=f"$A {tokenizer.eos}", special_tokens=[(tokenizer.eos, tokenizer.eos_id)]
        )
        backend.save(str(out / TOKENIZER_FILE))
    changes: dict[str, Any] = {"model_max_length": config.context_length}
    if model_type in REPLACED_RULES and not _has_rules(tokenizer, REPLACED_RULES[model_type]):
        changes["auto_map"] = CUSTOM_CLASS
    change_tokenizer_config(out, changes)
    return [out / TOKENIZER_FILE, out / CONFIG_FILE]


def change_tokenizer_config(folder: Path, changes: dict[str, Any]) -> None:
    """Set fields of tokenizer_config.json."""
    fields = read_json_object(folder / CONFIG_FILE) | changes
    (folder / CONFIG_FILE).write_text(json.dumps(fields, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def keep_max_length(source: Path, out: Path) -> None:
    """Give the tokenizer of an export the `model_max_length` of the Hugging Face folder that the model was read from."""
    if source.is_dir() and (source / CONFIG_FILE).is_file():
        length = read_json_object(source / CONFIG_FILE).get("model_max_length")
        if isinstance(length, int | float) and 0 < length < UNLIMITED:
            change_tokenizer_config(out, {"model_max_length": int(length)})


def _has_rules(tokenizer: Tokenizer, regex: str) -> bool:
    """Whether the tokenizer normalizes to NFC and splits by `regex`."""
    rules = json.loads(tokenizer.backend.to_str())
    return rules["normalizer"] == {"type": "NFC"} and json.dumps(regex) in json.dumps(rules["pre_tokenizer"])
