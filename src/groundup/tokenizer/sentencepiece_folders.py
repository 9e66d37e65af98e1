"""Folders of a SentencePiece model whose ids are not those of its tokens: T5, XLM-R, Marian.

    T5      spiece.model; sentinels follow, the last first
    XLM-R   sentencepiece.bpe.model; <s>, <pad>, </s>, <unk> stand in place of the model's first three tokens (fairseq)
    Marian  source.spm cuts texts into pieces, target.spm has those of answers, vocab.json the ids of both

Sources: the tokenizer classes of transformers 5 (t5, xlm_roberta, marian).
"""

import re
from collections.abc import Callable
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, processors

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.tokenizer.sentencepiece import load_sentencepiece, sentencepiece_vocabulary
from groundup.tokenizer.tokenizer_folder import read_tokenizer_config
from groundup.tokenizer.vocabulary_files import VOCABULARY_FILE, Json, name_tokenizer_class

SPIECE_FILE, FAIRSEQ_FILE, SOURCE_FILE, TARGET_FILE = (
    "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm",
)  # fmt: skip
FAIRSEQ_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
ANSWERS_ONLY, RUN_BEGINS, RUN_ENDS, UNKNOWN_LETTER = "\ue000", "\ue002", "\ue003", "\ue001"
"""Letters for private use, in the backend of Marian alone: the first begins pieces that texts are never cut into; two enclose a
run of letters that source.spm lacks, which is one piece; in a text they count as the last, which no model has."""


def read_spiece(folder: Path) -> tuple[tokenizers.Tokenizer, Json]:
    """T5's SentencePiece model. Its sentinels are not in the file: they follow its tokens, the last first.

    Returns the backend and the roles of the class. Raises UserError for another class, which may order the tokens anew.
    """
    _check_class(folder, SPIECE_FILE, "T5", "MT5")
    backend = load_sentencepiece((folder / SPIECE_FILE).read_bytes()).backend
    config = read_tokenizer_config(folder)
    if "added_tokens_decoder" not in config:
        sentinels = [f"<extra_id_{id}>" for id in reversed(range(config.get("extra_ids", 100)))]
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in sentinels])
    _end_texts(backend, pair="$A </s> $B:1 </s>:1")
    return backend, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def read_fairseq(folder: Path) -> tuple[tokenizers.Tokenizer, Json]:
    """XLM-R's model, whose tokens follow fairseq's four, and <mask> after them.

    Returns the backend and the roles of the class. Raises UserError for another class.
    """
    _check_class(folder, FAIRSEQ_FILE, "XLMRoberta")
    backend = load_sentencepiece((folder / FAIRSEQ_FILE).read_bytes(), FAIRSEQ_TOKENS).backend
    backend.add_special_tokens([AddedToken("<mask>", special=True, lstrip=True, normalized=False)])
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    roles = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    return backend, {f"{role}_token": token for role, token in roles.items()}


def read_marian(folder: Path) -> tuple[tokenizers.Tokenizer, Json]:
    """Marian's two models and its vocabulary. A text may begin with the code of the target language, as >>fra<<.

    Returns the backend and the roles of the class. Raises UserError for pieces without an id, and two vocabularies.
    """
    _check_class(folder, SOURCE_FILE, "Marian")
    if read_tokenizer_config(folder).get("separate_vocabs"):
        raise UserError(f"{folder}: separate_vocabs = true, expected one vocabulary for both languages")
    ids = read_json_object(folder / VOCABULARY_FILE)
    if sorted(ids.values()) != list(range(len(ids))):
        raise UserError(f"{folder / VOCABULARY_FILE}: ids, expected each of 0 to {len(ids) - 1} once")
    data = (folder / SOURCE_FILE).read_bytes()
    source = load_sentencepiece(data).backend
    scores, specials = sentencepiece_vocabulary(data)
    if missing := [piece for piece in scores if piece not in ids and piece not in specials]:
        raise UserError(
            f"{folder / SOURCE_FILE}: {len(missing)} pieces, such as {missing[0]!r}, without an id in {VOCABULARY_FILE}"
        )
    low = min(scores.values())
    codes = [token for token in ids if token.startswith(">>") and token.endswith("<<")]
    special = ["</s>", "<unk>", "<pad>"]
    letters = set().union(*scores)

    def spell(token: str) -> str:
        if token in scores or token in (*codes, *special):
            return token
        is_run = not letters & set(token)
        return f"{RUN_BEGINS}{token}{RUN_ENDS}" if is_run else ANSWERS_ONLY + token

    ordered = [(spell(token), scores.get(token, low)) for token in sorted(ids, key=lambda token: ids[token])]
    backend = tokenizers.Tokenizer(models.Unigram(ordered, unk_id=ids["<unk>"], byte_fallback=False))
    unknown = "[^" + "".join(map(re.escape, sorted(letters))) + "]"
    steps = [
        normalizers.Replace(Regex(f"[{ANSWERS_ONLY}{RUN_BEGINS}{RUN_ENDS}]"), UNKNOWN_LETTER),
        source.normalizer,
        normalizers.Replace(Regex(f"(?<!{unknown})(?={unknown})"), RUN_BEGINS),
        normalizers.Replace(Regex(f"(?<={unknown})(?!{unknown})"), RUN_ENDS),
    ]
    backend.normalizer = normalizers.Sequence(steps)  # type: ignore[assignment]
    backend.pre_tokenizer = source.pre_tokenizer
    shown = decoders.Replace(Regex(f"[{ANSWERS_ONLY}{RUN_BEGINS}{RUN_ENDS}]"), "")
    backend.decoder = decoders.Sequence([shown, source.decoder])  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special if token in ids])
    backend.add_tokens([AddedToken(token, normalized=False) for token in codes])
    _end_texts(backend, pair="$A $B </s>")
    return backend, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def _end_texts(backend: tokenizers.Tokenizer, pair: str) -> None:
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="$A </s>", pair=pair, special_tokens=[("</s>", backend.token_to_id("</s>"))]
    )


def _check_class(folder: Path, file: str, *expected: str) -> None:
    name = name_tokenizer_class(folder)
    if not name.startswith(expected):
        raise UserError(
            f"{folder}: {file} with the rules of {name}, expected {expected[0]}Tokenizer",
            hint="AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes a tokenizer.json",
        )


SENTENCEPIECE_READERS: dict[str, Callable[[Path], tuple[tokenizers.Tokenizer, Json]]] = {
    SPIECE_FILE: read_spiece, FAIRSEQ_FILE: read_fairseq, SOURCE_FILE: read_marian,
}  # fmt: skip
"""By the file that a folder has."""
