"""Constrained decoding: only tokens with which the text can still become one of a JSON schema, regular expression or grammar.

Before each token, a parser gives the mask of the tokens that may follow. Parsing and masks are those of llguidance, an
optional package (`groundup[grammar]`); the mask excludes tokens before the filters of sampling.
"""

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

MAX_GRAMMAR_CHARACTERS = 200_000
MAX_PROPERTIES = 1000
"""Of a schema; compilation is quadratic in them: 1000 take a second."""
MAX_MULTIPLE_OF = 1000
"""Automata for multiples are as large as the number."""
MAX_INTERSECTED = 8
"""Patterns of a schema with `allOf`, or terminals joined by & in a grammar: automata of intersections grow exponentially."""
LEXER_FUEL = 100_000
"""Steps to build the automata of a grammar, and half of it at each token: a tenth of a second, which other requests wait."""
COMPILED_GRAMMARS = 64
"""Compiled grammars that a compiler keeps."""
MAX_ERROR = 200

WHITESPACE = r"[ ]|\n[ ]{0,32}"
"""White space between the parts of JSON: unbounded, a small model may write nothing else."""

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')

PROBE = 'Wait: a "b" c2\n  d.'
"""A text whose tokens must spell it; without them, masks over the bytes of tokens would be wrong."""


class GrammarState:
    """The place of one text in its grammar."""

    def __init__(self, matcher: "llguidance.LLMatcher"):
        self._matcher = matcher

    def allowed(self, vocab_size: int, stop_ids: Collection[int]) -> Bool[Tensor, "V"]:
        """The tokens that may follow; those of `stop_ids` where the text is complete.

        Raises UserError when the grammar is too complex to go on.
        """
        mask = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) > 0
        self._check()
        allowed = torch.zeros(vocab_size, dtype=torch.bool)
        known = min(vocab_size, len(mask) - 1)
        allowed[:known] = mask[:known]
        allowed[[token for token in stop_ids if token < vocab_size]] = mask[-1]  # the end of every grammar
        return allowed

    def accept(self, token: int) -> None:
        """Go on after a token of the text."""
        self._matcher.consume_token(token)
        self._check()

    def copy(self) -> "GrammarState":
        """A state that goes on from here."""
        return GrammarState(self._matcher.deep_copy())

    @property
    def complete(self) -> bool:
        """The text is complete, and no token can follow."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UserError(
                f"the grammar cannot go on: {_one_line(self._matcher.get_error())}",
                hint="a simpler grammar, or one whose characters are in the vocabulary",
            )


class Grammar:
    """A compiled grammar, for any number of texts: the field `grammar` of `SamplingParams`."""

    def __init__(self, matcher: "llguidance.LLMatcher"):
        self._matcher = matcher

    def start(self) -> GrammarState:
        """The state at the beginning of a text."""
        return GrammarState(self._matcher.deep_copy())


class GrammarCompiler:
    """Compiles grammars for the vocabulary of a tokenizer; keeps the last ones. Safe to call from several threads.

    >>> compiler = GrammarCompiler(tokenizer)
    >>> sampling = SamplingParams(grammar=compiler.json_schema({"type": "object", "properties": {"age": {"type": "integer"}}}))
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._compile = lru_cache(COMPILED_GRAMMARS)(self._compile_grammar)

    def json_schema(self, schema: Any) -> Grammar:
        """JSON that is valid by a JSON schema (draft 2020-12), given as a dict, a bool or JSON text; properties in its order.

        Raises UserError for a schema that cannot be compiled: too large, contradictory, or with a keyword that is unknown
        to llguidance, such as `not` or `uniqueItems`.
        """
        schema = _parse_schema(schema) if isinstance(schema, str) else schema
        if not isinstance(schema, Mapping | bool):
            raise UserError(f"a JSON schema of type {type(schema).__name__}, expected an object")
        try:
            text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"the JSON schema is not JSON: {error}") from None
        _check_schema(schema, text)
        return self._compile("json_schema", text)

    def json_object(self) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Grammar:
        """Texts that a regular expression matches as a whole; in Rust's syntax, without look-around."""
        return self._compile("regex", pattern)

    def choice(self, texts: Sequence[str]) -> Grammar:
        """One of several texts."""
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise UserError("choices: expected texts that are not empty")
        forms = " | ".join(json.dumps(text, ensure_ascii=False) for text in dict.fromkeys(texts))
        return self._compile(
            "lark", f"start: CHOICE\nCHOICE: {forms}"
        )  # one terminal: a parser follows 2,000 rules at most

    def lark(self, grammar: str) -> Grammar:
        """Texts of a context-free grammar: in llguidance's variant of Lark's syntax, in which `%json {...}` embeds a JSON
        schema, or in GBNF, llama.cpp's."""
        from llguidance.gbnf_to_lark import any_to_lark

        for embedded in re.finditer(r"%json\s*(?=\{)", grammar):
            with contextlib.suppress(ValueError, RecursionError):  # llguidance says what is wrong
                schema, end = json.JSONDecoder().raw_decode(grammar, embedded.end())
                _check_schema(schema, grammar[embedded.end() : end])
        if (joined := STRING.sub("", grammar).count("&")) > MAX_INTERSECTED:
            raise UserError(f"the grammar has {joined} intersections (&), expected at most {MAX_INTERSECTED}")
        try:
            lark = any_to_lark(grammar)
        except Exception as error:  # the library raises Exception itself
            raise UserError(f"the grammar is not GBNF: {_one_line(str(error))}") from None
        return self._compile("lark", lark)

    def _compile_grammar(self, kind: str, text: str) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        if len(text) > MAX_GRAMMAR_CHARACTERS:
            raise UserError(f"the {kind} has {len(text)} characters, expected at most {MAX_GRAMMAR_CHARACTERS}")
        try:
            text.encode()
            if kind == "json_schema":
                options: Any = {"whitespace_pattern": WHITESPACE, "lenient": False}
                source = LLMatcher.grammar_from_json_schema(text, overrides=options)
            else:
                source = (LLMatcher.grammar_from_regex if kind == "regex" else LLMatcher.grammar_from_lark)(text)
        except ValueError as error:
            raise UserError(f"the {kind} cannot be compiled: {_one_line(str(error))}") from None
        limits = LLParserLimits(
            max_grammar_size=100_000,
            initial_lexer_fuel=LEXER_FUEL,
            step_lexer_fuel=LEXER_FUEL // 2,
            verbose_errors=False,
        )
        matcher = LLMatcher(self._vocabulary, source, log_level=0, limits=limits)
        matcher.compute_bitmask()  # finds a grammar without texts
        if matcher.is_error() or (matcher.is_stopped() and not matcher.is_accepting()):
            reason = _one_line(matcher.get_error()) or "no text fits"
            raise UserError(f"the {kind} cannot be compiled: {reason}")
        return Grammar(matcher)

    @cached_property
    def _vocabulary(self) -> "llguidance.LLTokenizer":
        """The bytes of every token, and one more token, which stands for the end of the text."""
        from llguidance import LLTokenizer

        tokenizer = self._tokenizer
        spelled = b"".join(map(tokenizer.token_bytes, tokenizer.encode(PROBE)))
        if spelled.strip() != PROBE.encode():
            raise UserError(
                f"the tokens of {tokenizer!r} do not spell texts byte by byte: a grammar cannot constrain them",
                hint="byte-level BPE and SentencePiece do, WordPiece does not",
            )
        tokens = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
        return LLTokenizer(_TokenTable(tokens, tokenizer))  # type: ignore[arg-type]


class _TokenTable:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: list[bytes], tokenizer: Tokenizer):
        self.tokens = [*tokens, b""]
        self.eos_token_id = len(tokens)
        self.special_token_ids = [*sorted(tokenizer.special_ids), self.eos_token_id]
        self._tokenizer = tokenizer
        self._id_by_bytes = {token: id for id, token in enumerate(tokens) if token and id not in tokenizer.special_ids}
        self._longest = max(map(len, tokens), default=1)

    def __call__(self, text: str) -> list[int]:
        """The tokens of text that must follow. Some tokenizers put a space before every text: it is encoded after a letter."""
        for before in ("", "\n", "a"):
            ids = self._tokenizer.encode(before + text)
            while ids and before and self.tokens[ids[0]].strip(b" ") in (b"", before.encode()):
                before = before[len(self.tokens[ids.pop(0)].strip(b" ")) :]
            if not before and b"".join(self.tokens[id] for id in ids) == text.encode():
                return ids
        return self._longest_match(text.encode())

    def _longest_match(self, rest: bytes) -> list[int]:
        ids = []
        while rest:
            lengths = range(min(len(rest), self._longest), 0, -1)
            length = next((length for length in lengths if rest[:length] in self._id_by_bytes), None)
            if length is None:  # no token writes it: the mask will be empty
                break
            ids.append(self._id_by_bytes[rest[:length]])
            rest = rest[length:]
        return ids


def _parse_schema(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the JSON schema is not JSON: {error}") from None


def _check_schema(schema: Any, text: str) -> None:
    """Refuse schemas whose compilation would take long. `text`: the schema as JSON, at most as deep as JSON is read."""
    if len(text) > MAX_GRAMMAR_CHARACTERS:
        raise UserError(f"the JSON schema has {len(text)} characters, expected at most {MAX_GRAMMAR_CHARACTERS}")
    properties = patterns = 0
    product, intersects = 1.0, False
    for value in _objects_of(schema):
        patterns += isinstance(value.get("pattern"), str)
        patterns += len(each) if isinstance(each := value.get("patternProperties"), Mapping) else 0
        intersects = (
            intersects or "allOf" in value or "patternProperties" in value or ("$ref" in value and len(value) > 1)
        )
        properties += len(each) if isinstance(each := value.get("properties"), Mapping) else 0
        divisor = value.get("multipleOf", 1)
        if isinstance(divisor, int | float) and not 1 / MAX_MULTIPLE_OF <= abs(divisor) <= MAX_MULTIPLE_OF:
            raise UserError(f"multipleOf = {divisor}, expected {1 / MAX_MULTIPLE_OF} to {MAX_MULTIPLE_OF}")
        product *= max(abs(divisor), 1) if isinstance(divisor, int | float) else 1
    if intersects and patterns > MAX_INTERSECTED:
        raise UserError(
            f"the JSON schema has {patterns} patterns, expected at most {MAX_INTERSECTED} beside allOf or $ref"
        )
    if intersects and product > MAX_MULTIPLE_OF:
        raise UserError(
            f"multipleOf of all parts is {product:.0f}, expected at most {MAX_MULTIPLE_OF} beside allOf or $ref"
        )
    if properties > MAX_PROPERTIES:
        raise UserError(f"the JSON schema has {properties} properties, expected at most {MAX_PROPERTIES}")


def _objects_of(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every object inside of a schema."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield value
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value


def _one_line(message: str) -> str:
    line = " ".join(message.replace("<non-verbose/>", "").split())
    return line if len(line) <= MAX_ERROR else line[:MAX_ERROR] + "..."
