"""Special tokens in conversations: those written by the chat template become ids, those spelled in messages stay text.

Before rendering, the first letter of every special token in a message is replaced by a placeholder, a private-use letter
(which is removed from all messages first). Placeholders keep the length of a text, and templates that slice, trim or
concatenate messages cannot make a special token of them. So every special token in the rendered text is the template's.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import tokenizers

from groundup.artifacts.errors import UserError
from groundup.tokenizer.long_texts import encode_text

FIRST_PLACEHOLDER, LAST_PLACEHOLDER = 0x10FF00, 0x10FFFD
"""The end of the last private-use plane."""

ASSISTANT_BEGIN, ASSISTANT_END, UNTYPABLE, UNFINISHED = (chr(LAST_PLACEHOLDER - index) for index in range(4))
"""Placeholders around the assistant's turns, in the renamed special tokens, and after a message that is continued."""

PLACEHOLDER = re.compile(f"[{chr(FIRST_PLACEHOLDER)}-{chr(LAST_PLACEHOLDER)}]")


class SpecialTokenEscaper:
    """The special tokens of one tokenizer.

    A text with escaped special tokens is encoded by a copy of the tokenizer whose special tokens have names that no text
    contains. So all other rules (normalizer, prefix space, ...) apply unchanged.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        added = backend.get_added_tokens_decoder()
        self.ids = {token.content: id for id, token in added.items() if token.special}
        self.pattern = re.compile("|".join(map(re.escape, sorted(self.ids, key=len, reverse=True))) or r"(?!)")
        firsts = sorted({token[0] for token in self.ids})
        if len(firsts) > LAST_PLACEHOLDER - FIRST_PLACEHOLDER - 4:
            raise UserError(
                f"special tokens begin with {len(firsts)} different letters, expected at most 249",
                hint="tokenizer.json declares ordinary tokens as special",
            )
        self._placeholder_of = {first: chr(FIRST_PLACEHOLDER + index) for index, first in enumerate(firsts)}
        self._letter_of = {ord(mark): first for first, mark in self._placeholder_of.items()}
        self._rules = backend.to_str()
        self._copy: tokenizers.Tokenizer | None = None
        self._renamed: tokenizers.Tokenizer | None = None
        self._original: dict[int, int] = {}

    def escape(self, value: Any) -> Any:
        """`value` with a placeholder in every special token, in all strings of lists and mappings."""
        if isinstance(value, str):
            return self.pattern.sub(
                lambda match: self._placeholder_of[match[0][0]] + match[0][1:], PLACEHOLDER.sub("", value)
            )
        if isinstance(value, Mapping):
            return {self.escape(key): self.escape(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.escape(item) for item in value]
        return value

    def encode(self, rendered: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a rendered text, and the span of characters of each."""
        if not PLACEHOLDER.search(rendered):
            encoding = self.parse(rendered)
            return encoding.ids, encoding.offsets
        return self._encode_escaped(rendered)

    def parse(self, text: str, *, add_special_tokens: bool = False) -> tokenizers.Encoding:
        """The encoding of a text in which special tokens are not escaped."""
        if self._copy is None:
            self._copy = tokenizers.Tokenizer.from_str(self._rules)
        return encode_text(self._copy, text, add_special_tokens=add_special_tokens)

    def unescape(self, rendered: str) -> str:
        """`rendered` with the letters that placeholders stand for."""
        return rendered.translate(self._letter_of)

    def _encode_escaped(self, rendered: str) -> tuple[list[int], list[tuple[int, int]]]:
        if self._renamed is None:
            self._renamed = self._rename()
        segments: list[str] = []
        origin: list[int] = []  # for each character of the renamed text, its position in `rendered`
        last = 0
        for match in self.pattern.finditer(rendered):
            new = _renamed_token(self.ids[match[0]])
            segments += (rendered[last : match.start()].translate(self._letter_of), new)
            origin += range(last, match.start())
            origin += [match.start()] + [match.end() - 1] * (len(new) - 1)
            last = match.end()
        segments.append(rendered[last:].translate(self._letter_of))
        origin += range(last, len(rendered))
        encoding = encode_text(self._renamed, "".join(segments), add_special_tokens=False)
        offsets = [
            (origin[begin], origin[end - 1] + 1) if end > begin else (begin, begin) for begin, end in encoding.offsets
        ]
        return [self._original.get(id, id) for id in encoding.ids], offsets

    def _rename(self) -> tokenizers.Tokenizer:
        rules = json.loads(self._rules)
        new = {token: _renamed_token(id) for token, id in self.ids.items()}
        for token in rules["added_tokens"]:
            token["content"] = new.get(token["content"], token["content"])
        model = rules["model"]
        if isinstance(model["vocab"], list):  # Unigram: pairs of token and score
            model["vocab"] = [[new.get(token, token), score] for token, score in model["vocab"]]
        else:
            model["vocab"] = {new.get(token, token): id for token, id in model["vocab"].items()}
        if model.get("unk_token") in new:
            model["unk_token"] = new[model["unk_token"]]
        rules["post_processor"] = None
        renamed = tokenizers.Tokenizer.from_str(json.dumps(rules))
        # Special tokens outside of the model's vocabulary get new ids when they are added.
        new_ids = ((renamed.token_to_id(_renamed_token(id)), id) for id in self.ids.values())
        self._original = {new_id: id for new_id, id in new_ids if new_id is not None}
        return renamed


def _renamed_token(id: int) -> str:
    return f"{UNTYPABLE}{id}{UNTYPABLE}"
