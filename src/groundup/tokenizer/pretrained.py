"""Load a pretrained tokenizer: a Hugging Face folder or `tokenizer.json`, a tiktoken file, a SentencePiece model.

Ids equal those of the original library. The format is detected by content, not by name: Llama 3's `tokenizer.model` is a
tiktoken file.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine
from groundup.recipe.tokenizer_config import TokenizerConfig
from groundup.tokenizer.bytes_to_unicode import to_unicode
from groundup.tokenizer.library_errors import check_rules, library_errors
from groundup.tokenizer.sentencepiece import load_sentencepiece
from groundup.tokenizer.split_patterns import PATTERNS, build_pre_tokenizer
from groundup.tokenizer.tiktoken_vocabularies import tiktoken_vocabulary
from groundup.tokenizer.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer

TiktokenRanks = dict[bytes, int]
MODEL_FILE = "tokenizer.model"


def tokenizer_files(path: Path | str) -> list[Path]:
    """The files that define the tokenizer at `path`. Raises UserError when there is none."""
    path = Path(path).expanduser()
    if path.is_file() and path.name != TOKENIZER_FILE:
        return [path]
    folder = path.parent if path.name == TOKENIZER_FILE else path
    names = (TOKENIZER_FILE, CONFIG_FILE, "special_tokens_map.json", "generation_config.json")
    names = (*names, "chat_template.jinja", "chat_template.json")
    if (folder / TOKENIZER_FILE).is_file():
        return [folder / name for name in names if (folder / name).is_file()]
    if (folder / MODEL_FILE).is_file():
        return [folder / MODEL_FILE]
    raise UserError(
        f"tokenizer {path}: no such tokenizer",
        hint=f"expected a folder with {TOKENIZER_FILE} or {MODEL_FILE}, a .json, a .tiktoken or a .model file",
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
    data = file.read_bytes()
    if data.lstrip()[:1] == b"{":
        with library_errors(f"{file}: not a readable tokenizer", "make or fetch it again"):
            backend = tokenizers.Tokenizer.from_str(data.decode())
        check_rules(backend, file)
        return Tokenizer(backend)
    ranks = _parse_tiktoken(data)
    hint = "expected a tokenizer.json, a tiktoken file or a SentencePiece model"
    with library_errors(f"{file}: not a supported tokenizer", hint):  # a damaged model can raise anything
        return load_sentencepiece(data) if ranks is None else from_tiktoken(ranks, pretokenizer)


def from_tiktoken(ranks: TiktokenRanks, pretokenizer: str) -> Tokenizer:
    """A tiktoken vocabulary, token -> rank, as byte-level BPE.

    tiktoken merges the pair of neighbours whose concatenation has the lowest rank, so every split of a token into two
    tokens is a merge. A pretoken that is a token is not split (`ignore_merges`).
    Raises ValueError when a byte has no token, and when two tokens have the same rank.
    """
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(f"no token for byte {missing[0]:#04x}")
    if len(set(ranks.values())) < len(ranks):
        raise ValueError("two tokens have the same rank")
    merges = [
        (rank, ranks[token[:i]], ranks[token[i:]])
        for token, rank in ranks.items()
        for i in range(1, len(token))
        if token[:i] in ranks and token[i:] in ranks
    ]
    entries = {rank: to_unicode(token) for token, rank in ranks.items()}
    pairs = [(entries[left], entries[right]) for _, left, right in sorted(merges)]
    vocabulary = {letters: rank for rank, letters in entries.items()}
    published = tiktoken_vocabulary(ranks)
    vocabulary |= published.special_tokens
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=True))
    backend.pre_tokenizer = build_pre_tokenizer(PATTERNS[pretokenizer].regex)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in published.special_tokens]
    )
    return Tokenizer(
        backend, bos=published.bos, eos=published.eos, pad=published.pad, chat_template=published.chat_template
    )


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
