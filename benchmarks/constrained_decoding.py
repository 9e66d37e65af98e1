"""JSON Schema conformance and compile times of libraries for constrained decoding, each where it is installed.

    python benchmarks/constrained_decoding.py SUITE/tests/draft2020-12

SUITE: the JSON-Schema-Test-Suite, as in the sdist of `jsonschema` (folder `json`). Of each schema that a library compiles, the
valid instances must be accepted and the invalid ones refused; a schema that it refuses by name is counted apart. The vocabulary
is the 256 bytes, so that only grammars are compared.
"""

import json
import sys
import time
from pathlib import Path


class LLGuidance:
    name = "llguidance"

    def __init__(self):
        import llguidance

        self.library = llguidance

        class Table:
            is_tokenizer_wrapper, bos_token_id, eos_token_id = True, None, 256
            tokens, special_token_ids = [*(bytes([byte]) for byte in range(256)), b""], [256]

            def __call__(self, text):
                return list(text.encode() if isinstance(text, str) else text)

        self.tokenizer = llguidance.LLTokenizer(Table())

    def compile(self, schema):
        source = self.library.LLMatcher.grammar_from_json_schema(schema)
        matcher = self.library.LLMatcher(self.tokenizer, source, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def accepts(self, matcher, text):
        matcher = matcher.deep_copy()
        return matcher.try_consume_tokens(list(text)) == len(text) and matcher.is_accepting()


class XGrammar:
    name = "xgrammar"

    def __init__(self):
        import xgrammar

        self.library = xgrammar
        vocabulary = [*(bytes([byte]) for byte in range(256)), b"</s>"]
        self.compiler = xgrammar.GrammarCompiler(
            xgrammar.TokenizerInfo(vocabulary, xgrammar.VocabType.RAW, stop_token_ids=[256]), cache_enabled=False
        )

    def compile(self, schema):
        return self.compiler.compile_json_schema(schema, any_whitespace=True, strict_mode=False)

    def accepts(self, compiled, text):
        matcher = self.library.GrammarMatcher(compiled)
        return all(matcher.accept_token(byte) for byte in text) and matcher.accept_token(256)


class OutlinesCore:
    name = "outlines-core"

    def __init__(self):
        import outlines_core.json_schema

        self.build = outlines_core.json_schema.build_regex_from_schema

    def compile(self, schema):
        import re

        return re.compile(self.build(schema))

    def accepts(self, pattern, text):
        return pattern.fullmatch(text.decode()) is not None


def main(folder):
    groups = [group for file in sorted(Path(folder).glob("*.json")) for group in json.loads(file.read_text())]
    columns = (
        ("compiled", 9),
        ("refused", 8),
        ("valid accepted", 15),
        ("invalid refused", 16),
        ("exact groups", 13),
        ("ms each", 8),
    )
    print(f"{'library':14}", *(f"{name:>{width}}" for name, width in columns))
    for kind in (LLGuidance, XGrammar, OutlinesCore):
        try:
            library = kind()
        except ImportError as error:
            print(f"{kind.name:14} not installed: {error}")
            continue
        counts = dict.fromkeys(("compiled", "refused", "valid", "valid_right", "invalid", "invalid_right", "exact"), 0)
        seconds = 0.0
        for group in groups:
            start = time.process_time()
            try:
                compiled = library.compile(json.dumps(group["schema"]))
            except Exception:
                counts["refused"] += 1
                continue
            finally:
                seconds += time.process_time() - start
            counts["compiled"] += 1
            exact = True
            for test in group["tests"]:
                accepted = library.accepts(
                    compiled, json.dumps(test["data"], ensure_ascii=False).encode("utf-8", "replace")
                )
                label = "valid" if test["valid"] else "invalid"
                counts[label] += 1
                counts[label + "_right"] += accepted == test["valid"]
                exact = exact and accepted == test["valid"]
            counts["exact"] += exact
        print(
            f"{library.name:14} {counts['compiled']:9} {counts['refused']:8} {counts['valid_right']:7} of {counts['valid']:4} "
            f"{counts['invalid_right']:8} of {counts['invalid']:4} {counts['exact']:13} {1000 * seconds / len(groups):8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1])
