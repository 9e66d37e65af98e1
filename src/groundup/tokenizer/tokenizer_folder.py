"""The files beside a vocabulary in a Hugging Face folder: roles of tokens, added tokens, rules, the chat template.

Tokens may be named only here, not in tokenizer.json: they are added in the order of transformers, which decides their ids.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, pre_tokenizers, processors

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.tokenizer.split_patterns import identify_pattern

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
MAP_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
EXTRA = ("extra_special_tokens", "additional_special_tokens")
GPT2_RULES = ("GPT2", "Roberta", "Bart", "Longformer", "LED")
"""Beginnings of the names of classes with the rules of GPT-2, which follow `add_prefix_space`, whatever tokenizer.json says."""


def read_tokenizer_folder(
    folder: Path, backend: tokenizers.Tokenizer, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The arguments of `Tokenizer` beside the backend, which gets the tokens and rules that only these files name.

    defaults: the fields of tokenizer_config.json where the folder does not say them.
    Raises UserError for values of another type.
    """
    config = {**(defaults or {}), **read_tokenizer_config(folder)}
    _add_tokens(backend, config, _read_json(folder / ADDED_FILE))
    roles = _read_roles(config, backend)
    if not (folder / TOKENIZER_FILE).is_file():
        _add_around_texts(backend, config, roles)
    _set_space_prefix(backend, config)
    generation = _read_json(folder / "generation_config.json").get("eos_token_id") or []
    stop = config.get("stop_tokens") or []
    if not isinstance(stop, list):
        raise UserError(f"{folder / CONFIG_FILE}: stop_tokens = {stop!r}, expected a list of tokens")
    stop = [*stop, *(generation if isinstance(generation, list) else [generation])]
    if wrong := [token for token in stop if type(token) not in (int, str) or (type(token) is int and token < 0)]:
        raise UserError(f"{folder}: stop token {wrong[0]!r}, expected a token or its id")
    return {**roles, "stop": stop, **_chat_templates(folder, config)}


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; in folders without `added_tokens_decoder`, special_tokens_map.json names the roles."""
    config, older = _read_json(folder / CONFIG_FILE), _read_json(folder / MAP_FILE)
    if "added_tokens_decoder" in config:
        return {key: value for key, value in older.items() if key not in EXTRA} | config
    return config | {key: value for key, value in older.items() if key not in EXTRA or not set(EXTRA) & config.keys()}


def _add_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any], older: Mapping[str, Any]) -> None:
    """Add the tokens that the backend lacks: by id, then the roles, then the other special ones."""
    listed = config.get("added_tokens_decoder") or {}
    extra = next((config[key] for key in EXTRA if config.get(key)), [])
    if not isinstance(listed, Mapping) or not isinstance(extra, list | Mapping):
        raise UserError(
            f"{CONFIG_FILE}: added_tokens_decoder and additional_special_tokens, expected an object and a list"
        )
    extra = [_token(token) for token in (extra.values() if isinstance(extra, Mapping) else extra)]
    roles = {role: _token(value) for role in ROLES if (value := config.get(f"{role}_token"))}
    special = {token.content for token in (*roles.values(), *extra)}
    by_id = {_id(id): _token(token) for id, token in listed.items()}
    if "added_tokens_decoder" not in config:
        by_id |= {_id(id): AddedToken(token, special=token in special) for token, id in older.items()}
    known = backend.get_added_tokens_decoder().values()
    same, names = {_attributes(token) for token in known}, {token.content for token in known}
    tokens = [token for _, token in sorted(by_id.items(), key=lambda item: item[0]) if _attributes(token) not in same]
    names |= {token.content for token in tokens}
    # A role outside of the vocabulary, such as a padding token that the model has no embedding for, is no token, unless others
    # follow it.
    follow = {token.content for token in extra} - names
    for token in (*roles.values(), *extra):
        is_token = token.content in follow or backend.token_to_id(token.content) is not None
        if token.content not in names and (is_token or any(backend.token_to_id(name) is None for name in follow)):
            tokens.append(AddedToken(token.content, special=True, lstrip=token.lstrip, rstrip=token.rstrip))
            names.add(token.content)
    if tokens:
        backend.add_tokens(tokens)


def _add_around_texts(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], roles: Mapping[str, str | None]
) -> None:
    """Begin and end texts with the tokens that the configuration wants; a tokenizer.json has rules of its own."""
    flags = {role: config.get(f"add_{role}_token") for role in ("bos", "eos")}
    if all(flag is None for flag in flags.values()):
        return
    bos, eos = (roles[role] if flag else None for role, flag in flags.items())
    ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys((bos, eos)) if token]
    first, last = (f"{bos} " if bos else ""), (f" {eos}" if eos else "")
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{first}$A{last}", pair=f"{first}$A{last} {first}$B:1{last}", special_tokens=ids
    )


def _set_space_prefix(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Add a space before the text, or none, for the classes of GPT-2's rules."""
    prefix, name = config.get("add_prefix_space"), str(config.get("tokenizer_class"))
    if isinstance(prefix, bool) and name.startswith(GPT2_RULES):
        by_class = isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel)
        if by_class or identify_pattern(json.loads(backend.to_str())) == "gpt2":
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)  # type: ignore[assignment]


def _read_roles(config: Mapping[str, Any], backend: tokenizers.Tokenizer) -> dict[str, str | None]:
    """The tokens of the roles of `Tokenizer`; tokens that are not in the vocabulary are ignored."""
    roles: dict[str, str | None] = {}
    for role in ("bos", "eos", "pad"):
        value = config.get(f"{role}_token")
        token = _token(value).content if value else None
        roles[role] = token if token and backend.token_to_id(token) is not None else None
    return roles


def _token(value: Any) -> AddedToken:
    """A token of the files: its text, or an object with its attributes."""
    if isinstance(value, str):
        return AddedToken(value, special=True)
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise UserError(f"{CONFIG_FILE}: {value!r}, expected a token")
    flags = {flag: bool(value[flag]) for flag in ("lstrip", "rstrip", "single_word", "normalized") if flag in value}
    return AddedToken(value["content"], special=bool(value.get("special", False)), **flags)


def _attributes(token: AddedToken) -> tuple[Any, ...]:
    return token.content, token.special, token.lstrip, token.rstrip, token.single_word, token.normalized


def _id(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UserError(f"{CONFIG_FILE}: the id {value!r} of an added token, expected an integer") from None


def _chat_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str | None]:
    """chat_template and tool_template: files of their own (newer), or in the configuration, single or in a list of named ones."""
    file, tool_file = folder / "chat_template.jinja", folder / "additional_chat_templates" / "tool_use.jinja"
    found = config.get("chat_template") or _read_json(folder / "chat_template.json").get("chat_template")
    named: dict[str, Any] = {"default": found}
    if isinstance(found, list):
        named = {str(each.get("name")): each.get("template") for each in found if isinstance(each, dict)}
    named |= {name: _read_text(path) for name, path in (("default", file), ("tool_use", tool_file)) if path.is_file()}
    templates = {"chat_template": named.get("default"), "tool_template": named.get("tool_use")}
    if templates["chat_template"] is None:
        templates["tool_template"] = None
    for template in templates.values():
        if template is not None and not isinstance(template, str):
            raise UserError(f"{folder}: chat_template is {type(template).__name__}, expected a text")
    return templates


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8: {error}", hint="create or download it again") from None


def _read_json(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}
