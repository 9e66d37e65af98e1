"""Load a pretrained tokenizer: a Hugging Face folder with any of its vocabulary files, a tiktoken file, a SentencePiece model.

Ids equal those of the original library. The format is detected by content, not by name: Llama 3's `tokenizer.model` is a
tiktoken file.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import tokenizers

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine
from groundup.recipe.tokenizer_config import TokenizerConfig
from groundup.tokenizer.library_errors import check_rules, library_errors
from groundup.tokenizer.sentencepiece import load_sentencepiece
from groundup.tokenizer.sentencepiece_folders import (
    FAIRSEQ_FILE,
    SENTENCEPIECE_READERS,
    SOURCE_FILE,
    SPIECE_FILE,
    TARGET_FILE,
)
from groundup.tokenizer.split_patterns import KIMI, PATTERNS
from groundup.tokenizer.tiktoken_vocabularies import tiktoken_vocabulary
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_folder import (
    ADDED_FILE,
    CONFIG_FILE,
    MAP_FILE,
    TOKENIZER_FILE,
    read_tokenizer_config,
    read_tokenizer_folder,
)
from groundup.tokenizer.vocabulary_files import (
    MERGES_FILE,
    READERS,
    TEKKEN_FILE,
    VOCABULARY_FILE,
    WORDPIECE_FILE,
    byte_level_ranks,
)

TiktokenRanks = dict[bytes, int]
MODEL_FILE, KIMI_FILE = "tokenizer.model", "tiktoken.model"
MAIN_FILES = (
    TOKENIZER_FILE, TEKKEN_FILE, MODEL_FILE, KIMI_FILE, SPIECE_FILE, FAIRSEQ_FILE, SOURCE_FILE, VOCABULARY_FILE,
    WORDPIECE_FILE,
)  # fmt: skip
"""The file that decides the format, the first that a folder has."""
KIMI_SPECIAL = 256
NEEDED = {VOCABULARY_FILE: MERGES_FILE, SOURCE_FILE: VOCABULARY_FILE}
"""Beside some, another one."""
BESIDE = (
    MERGES_FILE, CONFIG_FILE, MAP_FILE, ADDED_FILE, "generation_config.json", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
)  # fmt: skip
"""Files beside the vocabulary that decide ids or templates."""


def tokenizer_files(path: Path | str) -> list[Path]:
    """The files that define the tokenizer at `path`. Raises UserError when there is none."""
    path = Path(path).expanduser()
    if path.is_file() and path.name != TOKENIZER_FILE:
        return [path]
    folder = path.parent if path.name == TOKENIZER_FILE else path
    for main in MAIN_FILES:
        if (folder / main).is_file() and (main not in NEEDED or (folder / NEEDED[main]).is_file()):
            pieces = (VOCABULARY_FILE, TARGET_FILE) if main == SOURCE_FILE else ()
            return [folder / name for name in (main, *pieces, *BESIDE) if (folder / name).is_file()]
    raise UserError(
        f"tokenizer {path}: no such tokenizer",
        hint=f"expected a folder with {TOKENIZER_FILE}, {MODEL_FILE}, {TEKKEN_FILE}, {VOCABULARY_FILE} and {MERGES_FILE}, or "
        f"{WORDPIECE_FILE}; a .json, a .tiktoken or a .model file",
    )


def hash_tokenizers(section: TokenizerConfig, machine: Machine) -> dict[str, Any]:
    """SHA-256 of each file of the tokenizers that the recipe names. Raises UserError when one does not exist."""
    named = [*section.compare.values(), *([section.pretrained] if section.pretrained else [])]
    return {f"{name}: {file.name}": hash_file(file) for name in named for file in tokenizer_files(Path(name))}


def load_pretrained_tokenizer(path: Path | str, pretokenizer: str = "gpt4") -> Tokenizer:
    """The tokenizer at `path`: a folder, a tokenizer.json, a tiktoken file or a SentencePiece model.

    A tiktoken file contains neither its pretokenizer (`pretokenizer`, a name of PATTERNS) nor its special tokens (see
    tiktoken_vocabularies.py). Raises UserError when the path is no readable tokenizer.

    >>> load_pretrained_tokenizer("Llama-3.2-1B/original/tokenizer.model").encode("Hello")
    """
    file = tokenizer_files(path)[0]
    if file.name == TOKENIZER_FILE:
        return Tokenizer.load(file.parent)
    is_folder = Path(path).expanduser().is_dir()
    readers = READERS | SENTENCEPIECE_READERS | {KIMI_FILE: read_kimi}
    if is_folder and file.name in readers:
        with library_errors(f"{file}: not a readable tokenizer", "make or fetch it again"):
            backend, roles = readers[file.name](file.parent)
        return Tokenizer(backend, **read_tokenizer_folder(file.parent, backend, roles))
    data = file.read_bytes()
    if data.lstrip()[:1] == b"{":
        with library_errors(f"{file}: not a readable tokenizer", "make or fetch it again"):
            backend = tokenizers.Tokenizer.from_str(data.decode())
        check_rules(backend, file)
        return Tokenizer(backend)
    ranks = _parse_tiktoken(data)
    hint = "expected a tokenizer.json, a tiktoken file or a SentencePiece model"
    with library_errors(f"{file}: not a supported tokenizer", hint):  # a damaged model can raise anything
        loaded = load_sentencepiece(data) if ranks is None else from_tiktoken(ranks, pretokenizer)
    if not (is_folder and (file.parent / CONFIG_FILE).is_file()):
        return loaded
    roles = {
        "bos_token": loaded.bos,
        "eos_token": loaded.eos,
        "pad_token": loaded.pad,
        "chat_template": loaded.chat_template,
    }
    return Tokenizer(loaded.backend, **read_tokenizer_folder(file.parent, loaded.backend, roles))


def from_tiktoken(ranks: TiktokenRanks, pretokenizer: str) -> Tokenizer:
    """A tiktoken vocabulary, token -> rank, as byte-level BPE; a published one is split by its own pattern.

    Raises ValueError when a byte has no token, and when two tokens have the same rank.
    """
    published = tiktoken_vocabulary(ranks)
    regex = published.regex or PATTERNS[pretokenizer].regex
    backend = byte_level_ranks(ranks, regex, published.special_tokens)
    return Tokenizer(
        backend, bos=published.bos, eos=published.eos, pad=published.pad, chat_template=published.chat_template
    )


def read_kimi(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Kimi's tiktoken.model: 256 special tokens follow, named in tokenizer_config.json or reserved.

    Returns the backend and the roles. Raises UserError for another file of the name.
    """
    ranks, config = _parse_tiktoken((folder / KIMI_FILE).read_bytes()), read_tokenizer_config(folder)
    if ranks is None or config.get("tokenizer_class") != "TikTokenTokenizer":
        raise UserError(
            f"{folder / KIMI_FILE}: tokenizer_class = {config.get('tokenizer_class')!r}, expected a tiktoken file and "
            "'TikTokenTokenizer', which names the rules of its vocabulary"
        )
    listed = {int(id): token["content"] for id, token in config.get("added_tokens_decoder", {}).items()}
    names = {listed.get(id, f"<|reserved_token_{id}|>"): id for id in range(len(ranks), len(ranks) + KIMI_SPECIAL)}
    return byte_level_ranks(ranks, KIMI, names), {"bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[PAD]"}


def _parse_tiktoken(data: bytes) -> TiktokenRanks | None:
    """Token -> rank, from lines of a base64 token and its rank; None when the data has another format."""
    ranks: TiktokenRanks = {}
    try:
        for line in data.splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error):
        return None
    return ranks or None
