"""Encoding of a text that arrives in pieces, to the ids of the whole text, in bounded memory.

The text is cut where a pretoken begins, whatever follows: before white space after a visible character, before a line break
after a letter or digit, and before punctuation after a letter. No match of the known pretokenization regexes continues there, and
none looks ahead past it. Without pretokenization (SentencePiece's BPE) a cut is safe between two characters that no token
contains together: no merge can join them. Other rules are refused.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.tokenizer.split_patterns import PATTERNS

CHUNK_CHARACTERS = 1 << 16
"""Characters that are encoded at once, unless there is no place to cut."""

LETTERS = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u0391-\u03a1\u03a3-\u03c9\u0400-\u0481\u048a-\u052f\u0531-\u0556\u05d0-\u05ea"
    "\u0620-\u063a\u0641-\u064a\u0904-\u0939\u0e01-\u0e30\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
)
ALPHANUMERIC = LETTERS + "0-9"
VISIBLE = LETTERS + "!-~\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f\U0001f300-\U0001faff"
"""Characters that normalizations neither remove nor turn into white space."""

PUNCTUATION = ",.;:!?)\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f"
SPACE = "▁"

UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
KNOWN_ALTERNATIVES = frozenset(
    [
        r"'(?i:[sdmt]|ll|ve|re)", r"'(?:[sdmt]|ll|ve|re)", r"[^\r\n\p{L}\p{N}]?+\p{L}+", r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+", r"\p{N}{1,3}+", r" ?[^\s\p{L}\p{N}]++[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", r" ?[\p{P}\p{S}]+[\r\n]*", r"\s*[\r\n]", r"\s++", r"\s*[\r\n]+",
        r'''[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+''', "[一-龥぀-ゟ゠-ヿ]+",
    ]
    + [rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}{a}{LOWER}{b}{end}" for a, b in ("*+", "+*") for end in ("", CONTRACTIONS + "?")]
)  # fmt: skip
"""Alternatives of published pretokenization regexes, beside those of PATTERNS: no match of one has white space after a VISIBLE
character, except line breaks after symbols, nor PUNCTUATION after a letter."""

LOCAL_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer", "Precompiled")
SPLITS_AT_SPACES = ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Metaspace")


@dataclass(frozen=True)
class CutRule:
    """Where a text may be cut: at the end of a match of `pattern`. drops_space: the normalizer adds the space after a cut."""

    pattern: re.Pattern[str]
    drops_space: bool = False

    def last_cut(self, text: str) -> int:
        """The last position at which `text` may be cut; 0: none."""
        window = 1 << 10
        for start in range(max(len(text) - window, 0), -window, -window):
            matches = list(self.pattern.finditer(text, max(start - 1, 0), min(start + window + 2, len(text))))
            if matches:
                return matches[-1].end()
        return 0


def encode_pieces(encode: Callable[[str], list[int]], texts: Iterable[str], rule: CutRule) -> Iterator[int]:
    """The ids of the concatenation of `texts`."""
    waiting: list[str] = []
    size, limit = 0, CHUNK_CHARACTERS
    is_first = True
    for text in texts:
        for start in range(0, len(text), CHUNK_CHARACTERS):
            waiting.append(text[start : start + CHUNK_CHARACTERS])
            size += len(waiting[-1])
            if size < limit:
                continue
            joined = "".join(waiting)
            cut = rule.last_cut(joined)
            if cut:
                yield from encode(joined[0 if is_first else rule.drops_space : cut])
                is_first = False
            waiting, size = [joined[cut:]], len(joined) - cut
            limit = max(CHUNK_CHARACTERS, 2 * size)
    if rest := "".join(waiting):
        yield from encode(rest[0 if is_first else rule.drops_space :])


def cut_rule(rules: Mapping[str, Any]) -> CutRule:
    """Where texts of a tokenizer.json may be cut. Raises UserError when its rules are not known to be local."""
    model, parts = rules["model"], _steps(rules["pre_tokenizer"], "pretokenizers")
    if model.get("dropout"):
        raise _refusal("its BPE drops merges at random")
    _check_added_tokens(rules["added_tokens"], SPACE if SPACE in str(rules["normalizer"]) + str(parts) else "")
    if not parts or parts == [_SPACES_REPLACED]:
        return _merge_cut_rule(rules)
    _check_normalizer(rules["normalizer"])
    return CutRule(re.compile(_split_cuts(parts)))


def _split_cuts(parts: list[dict[str, Any]]) -> str:
    """The cuts of a sequence of pretokenizers, at least one of which splits at every space."""
    splits_at_spaces = only_spaces = False
    for part in parts:
        kind = part["type"]
        if kind == "Split":
            regex = part["pattern"].get("Regex", "").replace("\r", "\\r").replace("\n", "\\n")
            alternatives = split_alternatives(regex)
            shipped = frozenset(a for pattern in PATTERNS.values() for a in split_alternatives(pattern.regex))
            if unknown := [each for each in alternatives if each not in KNOWN_ALTERNATIVES | shipped]:
                raise _refusal(f"its pretokenizer has an unknown regex: {unknown[0][:80]!r}")
            if part["behavior"] != "Isolated" and not (part["behavior"] == "Removed" and part["invert"]):
                raise _refusal(f"its pretokenizer splits as {part['behavior']}")
            splits_at_spaces |= r"\s+" in alternatives or r"\s++" in alternatives
        elif kind == "ByteLevel":
            splits_at_spaces |= part.get("use_regex", True)
            only_spaces |= part["add_prefix_space"]
        elif kind in SPLITS_AT_SPACES:
            if kind == "Metaspace" and not part.get("split", True):
                raise _refusal("its pretokenizer does not split words")
            splits_at_spaces = only_spaces = True
        elif kind not in ("Digits", "Punctuation"):
            raise _refusal(f"its pretokenizer has the type {kind}")
    if not splits_at_spaces:
        raise _refusal("its pretokenizer does not split words")
    if only_spaces:
        return f"[{VISIBLE}](?= )"
    return f"[{VISIBLE}](?=[ \\t])|[{ALPHANUMERIC}](?=\\n)|[{LETTERS}](?=[{PUNCTUATION}])"


def _merge_cut_rule(rules: Mapping[str, Any]) -> CutRule:
    """Cuts between a character and a space that no token contains together."""
    model, normalizer = rules["model"], _steps(rules["normalizer"], "normalizers")
    if model["type"] != "BPE" or model.get("ignore_merges"):
        raise _refusal(f"its {model['type']} model sees the whole text at once")
    prepends = normalizer[:1] == [{"type": "Prepend", "prepend": SPACE}]
    if normalizer[prepends:] != [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]:
        raise _refusal("its normalizer changes more than spaces")
    if prepends and not all(token["special"] for token in rules["added_tokens"]):
        raise _refusal("its normalizer adds a space after each added token")
    joined = {before for token in model["vocab"] for before, after in pairwise(token) if after == SPACE}
    visible = re.compile(f"[{VISIBLE}]")
    safe = [token for token in model["vocab"] if len(token) == 1 and token not in joined and visible.match(token)]
    if not safe or SPACE not in model["vocab"]:
        raise _refusal("its tokens cross the spaces between words")
    return CutRule(re.compile(f"[{re.escape(''.join(safe))}](?= [\\s\\S])"), drops_space=prepends)


def _check_normalizer(normalizer: Mapping[str, Any] | None) -> None:
    for step in _steps(normalizer, "normalizers"):
        replaces_spaces = step["type"] == "Replace" and step["pattern"] in ({"Regex": " {2,}"}, {"String": " "})
        if step["type"] not in LOCAL_NORMALIZERS and not replaces_spaces:
            raise _refusal(f"its normalizer has the type {step['type']}")


def _check_added_tokens(tokens: list[Mapping[str, Any]], space: str) -> None:
    """Special tokens are not looked for in texts; others are, and must not continue after a cut. `space`: what replaces it."""
    cut = re.compile(rf"[^\s{space}][\s{space}]|[{LETTERS}][{PUNCTUATION}]")
    for token in tokens:
        if not token["special"] and (token["rstrip"] or cut.search(token["content"])):
            raise _refusal(f"its added token {token['content']!r} may contain a place to cut")


def split_alternatives(regex: str) -> list[str]:
    """The alternatives of a regex, outside of groups and classes."""
    parts, depth, is_class, start = [], 0, False, 0
    for match in re.finditer(r"\\.|[()|\[\]]", regex, re.DOTALL):
        token = match[0]
        if is_class:
            is_class = token != "]"
        elif token == "[":
            is_class = True
        elif token in "()":
            depth += 1 if token == "(" else -1
        elif token == "|" and depth == 0:
            parts.append(regex[start : match.start()])
            start = match.end()
    return [*parts, regex[start:]]


def _steps(rule: Mapping[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The parts of a sequence, sequences within it included, or the one rule; [] for None."""
    if rule is None:
        return []
    return [step for part in rule[name] for step in _steps(part, name)] if rule["type"] == "Sequence" else [dict(rule)]


_SPACES_REPLACED = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
"""Gemma's pretokenizer, without effect: its normalizer has replaced all spaces."""


def _refusal(reason: str) -> UserError:
    return UserError(
        f"this tokenizer cannot encode a stream: {reason}", hint="encode each text whole: tokenizer.encode(text)"
    )
