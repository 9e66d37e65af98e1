"""Take a tokenizer that exists: a Hugging Face folder or `tokenizer.json`, a tiktoken file, a SentencePiece model.

Ids are those of the library that the file comes from. What each file says is read from its content, not its name: Llama
3's `tokenizer.model` is a tiktoken file.
"""

import base64
import binascii
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models

from groundup.artifacts.errors import UserError
from groundup.tokenizer.bytes_to_unicode import to_unicode
from groundup.tokenizer.chat_template import CHATML
from groundup.tokenizer.sentencepiece import load_sentencepiece
from groundup.tokenizer.special_tokens import END_OF_TEXT, PADDING, SPECIAL_TOKENS
from groundup.tokenizer.split_patterns import PATTERNS, build_pre_tokenizer
from groundup.tokenizer.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer

TiktokenRanks = dict[bytes, int]
MODEL_FILE = "tokenizer.model"


def tokenizer_files(path: Path) -> list[Path]:
    """The files that say what the tokenizer at `path` is. Raises UserError when there is none."""
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


def load_pretrained_tokenizer(path: Path, pattern: str = "gpt4") -> Tokenizer:
    """The tokenizer at `path`; `pattern` says how a tiktoken file's text is cut, which the file does not.

    A tiktoken file names no control tokens either: those of special_tokens.py are put behind its last id.
    Raises UserError when there is none, or it cannot be read.
    """
    file = tokenizer_files(path)[0]
    if file.name == TOKENIZER_FILE:
        return Tokenizer.load(file.parent)
    data = file.read_bytes()
    if data.lstrip()[:1] == b"{":
        try:
            return Tokenizer(tokenizers.Tokenizer.from_str(data.decode()))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"{file}: not a readable tokenizer: {error}", hint="make or fetch it again"
            ) from None
    ranks = _parse_tiktoken(data)
    try:
        return load_sentencepiece(data) if ranks is None else from_tiktoken(ranks, pattern)
    except ValueError as error:
        raise UserError(
            f"{file}: no tokenizer that can be taken: {error}",
            hint="expected a tokenizer.json, a tiktoken file or a SentencePiece model",
        ) from None


def from_tiktoken(ranks: TiktokenRanks, pattern: str) -> Tokenizer:
    """A tiktoken vocabulary, token -> rank, as byte-level BPE.

    tiktoken joins the neighbours whose join has the lowest rank, however that token came to be; so every way to make a
    token of two others is a merge. A piece that is a token is taken whole, merges or not.
    Raises ValueError when a byte has no token, and when two tokens share a rank.
    """
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(f"no token for byte {missing[0]:#04x}")
    if len(set(ranks.values())) < len(ranks):
        raise ValueError("two tokens with one rank")
    merges = [
        (rank, ranks[token[:cut]], ranks[token[cut:]])
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    spelling = {rank: to_unicode(token) for token, rank in ranks.items()}
    pairs = [(spelling[left], spelling[right]) for _, left, right in sorted(merges)]
    vocabulary = {letters: rank for rank, letters in spelling.items()}
    vocabulary |= {token: max(ranks.values()) + 1 + place for place, token in enumerate(SPECIAL_TOKENS)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=True))
    backend.pre_tokenizer = build_pre_tokenizer(PATTERNS[pattern].regex)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return Tokenizer(backend, eos=END_OF_TEXT, pad=PADDING, chat_template=CHATML)


def _parse_tiktoken(data: bytes) -> TiktokenRanks | None:
    """Lines of a token in base64 and its rank; None when it is no such file."""
    ranks: TiktokenRanks = {}
    try:
        for line in data.splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error):
        return None
    return ranks or None
