"""Folders without a tokenizer.json: vocab.json with merges.txt, vocab.txt (WordPiece), tekken.json (Mistral).

Such files hold a vocabulary alone: their rules are those of the tokenizer class that tokenizer_config.json names.
Sources: the tokenizer classes of transformers 5 (gpt2, roberta, qwen2, bert); mistral_common's tekken.py.
"""

import binascii
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.tokenizer.byte_level_vocabulary import MAX_IDS
from groundup.tokenizer.bytes_to_unicode import to_unicode
from groundup.tokenizer.split_patterns import PATTERNS, build_pre_tokenizer
from groundup.tokenizer.tokenizer_folder import CONFIG_FILE, GPT2_RULES, read_tokenizer_config

Json = dict[str, Any]
TiktokenRanks = Mapping[bytes, int]
VOCABULARY_FILE, MERGES_FILE, WORDPIECE_FILE, TEKKEN_FILE = "vocab.json", "merges.txt", "vocab.txt", "tekken.json"
CLASSES = {
    "gpt2": "GPT2",
    "roberta": "Roberta",
    "bart": "Bart",
    "opt": "GPT2",
    "qwen2": "Qwen2",
    "bert": "Bert",
    "t5": "T5",
    "mt5": "T5",
    "xlm-roberta": "XLMRoberta",
    "marian": "Marian",
}
"""The classes of model types, where no file names one."""

TEKKEN_SPECIAL_TOKENS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
"""Those of files that do not list them: up to version 7."""


def byte_level_ranks(
    ranks: TiktokenRanks, regex: str, special_tokens: Mapping[str, int], first_id: int = 0
) -> tokenizers.Tokenizer:
    """The backend of a vocabulary of ranks, as tiktoken's, and its special tokens; the other ids are the ranks plus `first_id`.

    tiktoken merges the pair of neighbours whose concatenation has the lowest rank, so every split of a token into two
    tokens is a merge. A pretoken that is a token is not split (`ignore_merges`).
    Raises ValueError when a byte has no token, and when two tokens have the same rank.
    """
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(f"no token for byte {missing[0]:#04x}")
    if len(set(ranks.values())) < len(ranks):
        raise ValueError("two tokens have the same rank")
    merges = [
        (rank, ranks[left], ranks[right])
        for token, rank in ranks.items()
        for i in range(1, len(token))
        if (left := token[:i]) in ranks and (right := token[i:]) in ranks
    ]
    entries = {rank: to_unicode(token) for token, rank in ranks.items()}
    pairs = [(entries[left], entries[right]) for _, left, right in sorted(merges)]
    vocabulary = {letters: rank + first_id for rank, letters in entries.items()}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary | dict(special_tokens), pairs, ignore_merges=True))
    backend.pre_tokenizer = build_pre_tokenizer(regex)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return backend


def read_merges_folder(folder: Path) -> tuple[tokenizers.Tokenizer, Json]:
    """vocab.json and merges.txt of byte-level BPE. Returns the backend and the roles of the class.

    Raises UserError for a class with rules other than those of GPT-2, RoBERTa and Qwen2.
    """
    name = name_tokenizer_class(folder)
    lines = (folder / MERGES_FILE).read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    vocabulary = read_json_object(folder / VOCABULARY_FILE)
    if wrong := [token for token, id in vocabulary.items() if type(id) is not int or not 0 <= id < MAX_IDS]:
        raise UserError(f"{folder / VOCABULARY_FILE}: {wrong[0]!r}: {vocabulary[wrong[0]]!r}, expected an id")
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))  # type: ignore[arg-type]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    if name.startswith("Qwen2"):
        backend.normalizer = normalizers.NFC()  # type: ignore[assignment]
        backend.pre_tokenizer = build_pre_tokenizer(PATTERNS["qwen2"].regex)  # type: ignore[assignment]
        return backend, {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    if not name.startswith(GPT2_RULES):
        raise UserError(
            f"{folder}: {VOCABULARY_FILE} with the rules of {name}, expected GPT2Tokenizer, RobertaTokenizer or "
            "Qwen2Tokenizer",
            hint="AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes a tokenizer.json",
        )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    if name.startswith("GPT2"):
        return backend, dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    begin, end = (_special(folder, role, default) for role, default in (("cls", "<s>"), ("sep", "</s>")))
    ids = [(token, vocabulary[token]) for token in (end, begin)]
    backend.post_processor = processors.RobertaProcessing(*ids, add_prefix_space=False)  # type: ignore[assignment]
    mask = {"content": "<mask>", "lstrip": True, "special": True, "normalized": True}
    roles = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": mask}
    return backend, {f"{role}_token": token for role, token in roles.items()}


def read_wordpiece_folder(folder: Path) -> tuple[tokenizers.Tokenizer, Json]:
    """BERT's vocab.txt. Returns the backend and the roles of the class. Raises UserError for another class."""
    name = name_tokenizer_class(folder, "BertTokenizer")
    if not name.startswith(("Bert", "DistilBert", "Electra", "MobileBert", "Funnel")) or name.startswith(
        "BertJapanese"
    ):
        raise UserError(f"{folder}: {WORDPIECE_FILE} with the rules of {name}, expected BertTokenizer")
    config = read_tokenizer_config(folder)
    lines = (folder / WORDPIECE_FILE).read_text(encoding="utf-8").split("\n")
    vocabulary = {line.rstrip("\r"): id for id, line in enumerate(lines[:-1] if lines[-1] == "" else lines)}
    unknown = _special(folder, "unk", "[UNK]")
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(  # type: ignore[assignment]
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    backend.decoder = decoders.WordPiece(prefix="##")  # type: ignore[assignment]
    begin, end = (_special(folder, role, default) for role, default in (("cls", "[CLS]"), ("sep", "[SEP]")))
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{begin} $A {end}", pair=f"{begin} $A {end} $B:1 {end}:1",
        special_tokens=[(token, vocabulary[token]) for token in (begin, end)],
    )  # fmt: skip
    return backend, {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}


def read_tekken(folder: Path) -> tuple[tokenizers.Tokenizer, Json]:
    """Mistral's tekken.json: special tokens first, then a vocabulary of ranks. Returns the backend and the roles."""
    fields = read_json_object(folder / TEKKEN_FILE)
    config = fields["config"]
    listed = fields.get("special_tokens")
    if listed is None:
        names = list(TEKKEN_SPECIAL_TOKENS)
    else:
        names = [token["token_str"] for token in sorted(listed, key=lambda token: token["rank"])]
        if [token["rank"] for token in listed] != list(range(len(listed))):
            raise UserError(f"{folder / TEKKEN_FILE}: the ranks of special tokens, expected 0 to {len(listed) - 1}")
    count = config.get("default_num_special_tokens") or len(names)
    names += [f"<SPECIAL_{id}>" for id in range(len(names), count)]
    size = config.get("default_vocab_size")
    entries = fields["vocab"][: size - count] if size else fields["vocab"]
    ranks = {binascii.a2b_base64(entry["token_bytes"]): rank for rank, entry in enumerate(entries)}
    backend = byte_level_ranks(ranks, config["pattern"], {name: id for id, name in enumerate(names)}, count)
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", names.index("<s>"))]
    )
    return backend, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


READERS: dict[str, Callable[[Path], tuple[tokenizers.Tokenizer, Json]]] = {
    VOCABULARY_FILE: read_merges_folder, WORDPIECE_FILE: read_wordpiece_folder, TEKKEN_FILE: read_tekken,
}  # fmt: skip
"""By the file that a folder has."""


def name_tokenizer_class(folder: Path, default: str | None = None) -> str:
    """The tokenizer class that the folder's files name. Raises UserError when none does."""
    config = folder / "config.json"
    model_type = read_json_object(config).get("model_type") if config.is_file() else None
    name = read_tokenizer_config(folder).get("tokenizer_class") or CLASSES.get(str(model_type)) or default
    if not isinstance(name, str):
        raise UserError(f"{folder}: no tokenizer_class in {CONFIG_FILE}, which names the rules of its vocabulary")
    return name


def _special(folder: Path, role: str, default: str) -> str:
    value = read_tokenizer_config(folder).get(f"{role}_token") or default
    return value["content"] if isinstance(value, Mapping) else value
