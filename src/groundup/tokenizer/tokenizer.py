"""`Tokenizer`: encode and decode text and conversations, with any backend of the `tokenizers` library."""

import contextlib
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from groundup.artifacts.arguments import check_choice, check_text, iter_texts
from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import fingerprint
from groundup.artifacts.json_file import shorten
from groundup.tokenizer.assistant_turns import TurnForm, training_text
from groundup.tokenizer.byte_level_vocabulary import bpe_from_merges, is_byte_level, merges_of, vocabulary_of
from groundup.tokenizer.chat_template import Message, Span, render, render_unfinished
from groundup.tokenizer.library_errors import check_rules, encoding_errors, library_errors
from groundup.tokenizer.long_texts import encode_text
from groundup.tokenizer.special_token_escaping import SpecialTokenEscaper
from groundup.tokenizer.special_tokens import CHANNEL, CHAT_STOP_TOKENS, MESSAGE_END, check_special_tokens, named_roles
from groundup.tokenizer.split_patterns import PATTERNS
from groundup.tokenizer.stream_encoding import CutRule, cut_rule, encode_pieces
from groundup.tokenizer.token_bytes import entry_bytes
from groundup.tokenizer.tokenizer_folder import CONFIG_FILE, TOKENIZER_FILE, read_tokenizer_folder

HINT = "is its tokenizer.json intact? create or download it again"
HUGE_ID = re.compile(rb'(?<!\\)(?<!max_length)(?<!stride)(?<!pad_to_multiple_of)"\s*:\s*(\d{9,})')
"""An id in tokenizer.json for which the library would allocate gigabytes."""
PROBE = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."})
"""A conversation that every chat template renders."""


class Tokenizer:
    """Text to ids and back, and conversations to ids.

    Text never encodes to special tokens; those come only from `add_special_tokens` and chat templates.

    Args:
        backend: any tokenizer of the `tokenizers` library: byte-level BPE, SentencePiece-like, WordPiece, Unigram.
        bos, eos, pad: special tokens with these roles, or None.
        stop: tokens at which generation ends, beside `eos`.
        chat_template: a Jinja template, as in Hugging Face's tokenizer_config.json.
        tool_template: the template for conversations with `tools`, where it is another: named tool_use there.

    Raises UserError when a role names a token that is not in the vocabulary.

    >>> tokenizer = train_tokenizer(texts, vocab_size=1000)
    >>> tokenizer.decode(tokenizer.encode("Hello world"))
    'Hello world'
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        stop: Iterable[str | int] = (),
        chat_template: str | None = None,
        tool_template: str | None = None,
    ):
        # Truncation and padding rules of a tokenizer.json would change the ids of a text, and dropout at each call.
        if getattr(backend.model, "dropout", None) is not None:
            backend.model.dropout = None  # type: ignore[attr-defined]
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self.backend = backend
        self.chat_template, self.tool_template = chat_template, tool_template
        self.bos, self.eos, self.pad = bos, eos, pad
        self.bos_id, self.eos_id, self.pad_id = (
            self._role_id(name, token) for name, token in (("bos", bos), ("eos", eos), ("pad", pad))
        )
        self._stop = tuple(stop)
        self._end_of_turn: tuple[str | None, int | None] = (None, None)
        """A chat template and its end-of-turn token."""

    def __repr__(self) -> str:
        return f"Tokenizer({type(self.backend.model).__name__}, vocab_size={self.vocab_size}, eos={self.eos!r})"

    # ---- text

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """The ids of `text`; special tokens spelled in it are encoded as text.

        add_special_tokens applies the tokenizer's post-processor, such as Llama's <s> or BERT's [CLS] and [SEP]; tokenizers
        of `train_tokenizer` have none.
        """
        check_text(text)
        with encoding_errors([text]):
            return encode_text(self.backend, text, add_special_tokens=add_special_tokens).ids

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = False) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        texts = list(iter_texts(texts))
        with encoding_errors(texts):
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[int]:
        """The ids of a text that arrives in pieces, such as the lines of an open file: those of `encode` of the whole.

        Pieces may end inside of a word, number, emoji or spelled special token. Memory is bounded by the longest stretch
        without a space. Raises UserError for a tokenizer whose rules are not known to allow this.

        >>> ids = array.array("I", tokenizer.encode_iterable(open("book.txt", encoding="utf-8", newline="")))
        """
        return encode_pieces(self.encode, iter_texts(texts), self._cut_rule)

    @cached_property
    def _cut_rule(self) -> CutRule:
        return cut_rule(json.loads(self.backend.to_str()))

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of `ids`; invalid UTF-8, such as an incomplete character, becomes U+FFFD.

        Raises UserError on an id outside of the vocabulary.
        """
        try:
            ids = [operator.index(id) for id in ids]
        except TypeError:
            raise UserError(f"ids is {shorten(ids)}, expected a list of integers") from None
        if outside := next((id for id in ids if not 0 <= id < self.vocab_size), None):
            raise UserError(
                f"token id {outside}, expected 0 to {self.vocab_size - 1}",
                hint="were the ids made by another tokenizer?",
            )
        with library_errors("the tokenizer cannot decode ids", HINT):
            return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def token(self, id: int) -> str | None:
        """The vocabulary entry with this id, or None."""
        return self.backend.id_to_token(id)

    def token_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, or None."""
        return self.backend.token_to_id(token)

    @cached_property
    def vocabulary(self) -> dict[int, bytes]:
        """The bytes of each id, by id. Raises UserError unless the tokenizer is byte-level."""
        return vocabulary_of(json.loads(self.backend.to_str()))

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token adds to a text, perhaps a part of a character; b"" of an unknown id."""
        token = self.token(id)
        if token is None:
            return b""
        if id in self._added_ids:
            return token.encode()
        return entry_bytes(token, byte_level=self._is_byte_level)

    @cached_property
    def _is_byte_level(self) -> bool:
        return is_byte_level(json.loads(self.backend.to_str()))

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self.backend.get_added_tokens_decoder())

    @cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The merges of byte-level BPE, in order. Raises UserError for any other tokenizer."""
        return merges_of(json.loads(self.backend.to_str()))

    @cached_property
    def vocab_size(self) -> int:
        """The highest id plus one: the smallest valid number of embeddings."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens."""
        return frozenset(id for id, token in self.backend.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids at which generation ends: end of text, and end of turn in the chat template and in known formats."""
        named = {self.token_id(stop) if isinstance(stop, str) else stop for stop in self._stop}
        named |= {id for token in CHAT_STOP_TOKENS if (id := self.token_id(token)) in self.special_ids}
        if self.token_id(CHANNEL) in self.special_ids:  # of gpt-oss: thoughts and the answer are messages of one turn
            named.discard(self.token_id(MESSAGE_END))
        with contextlib.suppress(UserError):  # a broken template, which generation from text does not need
            named.add(self.end_of_turn_id)
        return frozenset(id for id in named | {self.eos_id} if id is not None)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of vocabulary, rules and special tokens: equal if and only if the ids mean the same."""
        rules = json.loads(self.backend.to_str())
        return fingerprint(
            {key: rules[key] for key in sorted(rules) if key not in ("truncation", "padding", "version")}
        )

    # ---- conversations

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **names: Any,
    ) -> list[int]:
        """The ids of a conversation: [{"role": "user", "content": "Hello"}, ...].

        add_generation_prompt appends the beginning of an assistant turn; continue_final_message leaves out the end of the last
        one. `names` are template variables (tools, ...).
        Special tokens spelled in messages stay text. Raises UserError without a chat template, or when it fails.
        """
        text = self._render(messages, add_generation_prompt, continue_final_message, names)
        with encoding_errors([text]):
            return self._escaper.encode(text)[0]

    def chat_text(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, continue_final_message: bool = False
    ) -> str:
        """The conversation of `render_chat` as text, in which special tokens of messages look like those of the template."""
        return self._escaper.unescape(self._render(messages, add_generation_prompt, continue_final_message, {}))

    def parse_text(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """`encode`, but special tokens spelled in the text are special, as in most other software: for trusted text only."""
        check_text(text)
        with encoding_errors([text]):
            return self._escaper.parse(text, add_special_tokens=add_special_tokens).ids

    def _render(
        self, messages: Sequence[Message], generation_prompt: bool, unfinished: bool, names: dict[str, Any]
    ) -> str:
        """A conversation with escaped special tokens of messages."""
        template, messages, names = self._escape_inputs(messages, names)
        if unfinished:
            return render_unfinished(template, messages, **names)
        return render(template, messages, add_generation_prompt=generation_prompt, **names)[0]

    def render_chat_with_mask(
        self, messages: Sequence[Message], *, last_turn_only: bool = False, **names: Any
    ) -> tuple[list[int], list[int]]:
        """The ids of a conversation to train on, and for each 1 inside an assistant turn, its end included, else 0.

        An answer with weight 0 has no 1, as in OpenAI's format. last_turn_only: 1 inside the last assistant turn only.
        The ids are those of `render_chat`, unless the template renders earlier answers in another way than the last one:
        `training_form`.
        """
        ids, mask, _ = self._render_to_train(messages, last_turn_only, names)
        return ids, mask

    def training_form(self, messages: Sequence[Message], **names: Any) -> TurnForm:
        """How `render_chat_with_mask` knows the answers of a conversation: see assistant_turns.py."""
        return self._render_to_train(messages, False, names)[2]

    def _render_to_train(
        self, messages: Sequence[Message], last_turn_only: bool, names: dict[str, Any]
    ) -> tuple[list[int], list[int], TurnForm]:
        template, messages, names = self._escape_inputs(messages, names)
        found = training_text(template, messages, self._escaper.pattern, last_turn_only, **names)
        with encoding_errors([found.text]):
            ids, offsets = self._escaper.encode(found.text)
        return ids, _token_mask(offsets, found.spans), found.form

    @property
    def end_of_turn_id(self) -> int | None:
        """The special token with which the chat template ends an answer, or the end-of-text token; None without either."""
        if self._end_of_turn[0] != self.chat_template:
            ids, mask = self.render_chat_with_mask(PROBE)
            ends = self.special_ids | {self.eos_id}
            last = next((id for id, inside in zip(ids[::-1], mask[::-1], strict=True) if inside and id in ends), None)
            self._end_of_turn = self.chat_template, last
        return self._end_of_turn[1]

    @cached_property
    def _escaper(self) -> SpecialTokenEscaper:
        return SpecialTokenEscaper(self.backend)

    def _escape_inputs(
        self, messages: Sequence[Message], names: dict[str, Any]
    ) -> tuple[str, list[Message], dict[str, Any]]:
        if self.chat_template is None:
            raise UserError("the tokenizer has no chat template", hint="this is a base model: use generate, not chat")
        roles = {"bos_token": self.bos or "", "eos_token": self.eos or "", "pad_token": self.pad or ""}
        template = self.tool_template if self.tool_template and names.get("tools") else self.chat_template
        return template, self._escaper.escape(messages), roles | self._escaper.escape(names)

    def _role_id(self, role: str, token: str | None) -> int | None:
        if token is None:
            return None
        id = self.backend.token_to_id(token)
        if id is None:
            raise UserError(
                f"{role} token {token!r} is not in the vocabulary", hint=f"correct or remove it in {CONFIG_FILE}"
            )
        return id

    # ---- files

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json and tokenizer_config.json for transformers, vLLM and llama.cpp's converter."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rules = json.loads(self.backend.to_str())
        (folder / TOKENIZER_FILE).write_text(json.dumps(rules, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos,
            "eos_token": self.eos,
            "pad_token": self.pad,
            "stop_tokens": sorted(filter(None, map(self.token, self.stop_ids))),
            "clean_up_tokenization_spaces": False,
            "model_max_length": 10**9,
            "chat_template": self.chat_template,
        }
        if self.tool_template:
            named = (("default", self.chat_template), ("tool_use", self.tool_template))
            config["chat_template"] = [{"name": name, "template": template} for name, template in named]
        config = {key: value for key, value in config.items() if value is not None}
        (folder / CONFIG_FILE).write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_merges(
        cls,
        vocabulary: Mapping[int, bytes],
        merges: Iterable[tuple[bytes, bytes]],
        *,
        pretokenizer: str = "gpt4",
        special_tokens: Sequence[str] = (),
        byte_fallback: bool = False,
        eos: str | None = None,
        pad: str | None = None,
        chat_template: str | None = None,
    ) -> "Tokenizer":
        """Byte-level BPE from its vocabulary and merges, as `Tokenizer.vocabulary` and `Tokenizer.merges` give them.

        Args:
            vocabulary: the bytes of each id; special tokens, if it has them, as UTF-8.
            merges: pairs of tokens, first merge first.
            pretokenizer: "gpt2", "gpt4" or "qwen2".
            special_tokens: those that the vocabulary lacks get the next ids.
            byte_fallback: append the bytes that the vocabulary lacks; otherwise such a vocabulary is refused.
            eos, pad: as in `train_tokenizer`.

        >>> Tokenizer.from_merges(tokenizer.vocabulary, tokenizer.merges, special_tokens=["<|endoftext|>"])
        """
        check_choice("pretokenizer", pretokenizer, PATTERNS)
        special_tokens = check_special_tokens(special_tokens)
        roles = named_roles(special_tokens, eos, pad)
        regex = PATTERNS[pretokenizer].regex
        backend = bpe_from_merges(vocabulary, merges, regex, special_tokens, byte_fallback)
        return cls(backend, **roles, chat_template=chat_template)

    def with_rules(self, rules: Mapping[str, Any]) -> "Tokenizer":
        """A tokenizer with another tokenizer.json; the roles of tokens and the chat template stay."""
        return Tokenizer(
            tokenizers.Tokenizer.from_str(json.dumps(rules)),
            bos=self.bos, eos=self.eos, pad=self.pad, stop=sorted(self.stop_ids), chat_template=self.chat_template,
            tool_template=self.tool_template,
        )  # fmt: skip

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Load a folder in Hugging Face's layout. Raises UserError without a valid tokenizer.json.

        >>> Tokenizer.load("runs/small/02-tokenizer")
        """
        folder = Path(folder)
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise UserError(f"{folder}: no {TOKENIZER_FILE}", hint="expected the folder of a tokenizer or of a model")
        if match := HUGE_ID.search(path.read_bytes()):
            raise UserError(
                f"{path}: a token has the id {match[1][:20].decode()}, expected ids below 100,000,000",
                hint="create or download it again",
            )
        with library_errors(f"{path}: not a readable tokenizer", HINT):
            backend = tokenizers.Tokenizer.from_file(str(path))
        check_rules(backend, path)
        return cls(backend, **read_tokenizer_folder(folder, backend))


def _token_mask(offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """1 for each token that has a letter in one of `spans`, which are sorted and disjoint: as in transformers."""
    mask = [0] * len(offsets)
    following = iter(spans)
    span = next(following, None)
    for position, (begin, end) in enumerate(offsets):
        while span is not None and begin >= span[1]:
            span = next(following, None)
        mask[position] = int(span is not None and begin < end and span[0] < end)
    return mask
