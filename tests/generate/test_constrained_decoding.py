"""Constrained decoding: every text is one of the grammar, whatever the model, the tokenizer and the way to decode."""

import doctest
import json
import re
import time
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers

from groundup.artifacts.errors import UserError
from groundup.generate import BatchingEngine, GrammarCompiler, Request, SamplingParams, generate, generate_reference
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["é", "東京"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
ALPHABET = 'Wait: a "b" c2\n  d.{}[],0123456789éxnmgse-'


def byte_level() -> Tokenizer:
    return train_bpe([ALPHABET * 3, '{"name": "age"}'], 278)


def sentencepiece_bpe() -> Tokenizer:
    """Llama's form: a byte token for what the vocabulary lacks, a letter for the space."""
    entries = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *sorted({*ALPHABET} - {" "}), "▁", "▁a"]
    model = models.BPE(
        {entry: id for id, entry in enumerate(entries)}, [("▁", "a")], byte_fallback=True, unk_token="<unk>"
    )
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<unk>", "</s>"])
    return Tokenizer(backend, eos="</s>")


def unigram() -> Tokenizer:
    entries = [("</s>", 0.0), *((letter, -2.0) for letter in sorted({*ALPHABET, "東", "京"} - {" "})), ("▁", -3.0)]
    backend = tokenizers.Tokenizer(models.Unigram(entries, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend, eos="</s>")


FAMILIES = {"byte-level": byte_level, "sentencepiece": sentencepiece_bpe, "unigram": unigram}


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request) -> Tokenizer:
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def compiler(tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size + 3, hidden_size=32, num_layers=1, num_heads=2, context_length=128
    )
    return build_model(config).eval()


def test_json_of_a_schema(tokenizer, compiler, model):
    grammar = compiler.json_schema(PERSON)
    for seed in range(2):
        sampling = SamplingParams(seed=seed, grammar=grammar)
        prompt, stops = tokenizer.encode("a b"), tokenizer.stop_ids
        ids = generate(model, prompt, max_tokens=120, sampling=sampling, stop_ids=stops)
        assert ids[:9] == list(generate_reference(model, prompt, max_tokens=9, sampling=sampling, stop_ids=stops))
        person = json.loads(tokenizer.decode(ids))
        assert list(person) == ["name", "age", "tags"]
        assert len(person["name"]) <= 4
        assert 0 <= person["age"] <= 99
        assert {*person["tags"]} <= {"é", "東京"}


def test_each_row_of_a_batch_has_its_own_grammar(tokenizer, compiler, model):
    """Rows with and without grammars, log-probabilities too, as alone."""
    patterns = ["[0-9]{3}-[a-z]{2}", "(é|東京){1,3}", None, "a"]
    engine = BatchingEngine(model, max_batch=3)
    requests = [
        Request(
            tokenizer.encode("a b"), 20, SamplingParams(seed=5, grammar=pattern and compiler.regex(pattern)),
            tokenizer.stop_ids, 2
        )
        for pattern in patterns
    ]  # fmt: skip
    for request in requests:
        engine.submit(request)
    outputs = []
    while engine.busy:
        outputs += engine.step()
    for pattern, request in zip(patterns, requests, strict=True):
        of_request = [output for output in outputs if output.request is request]
        alone = generate(
            model, request.prompt_ids, max_tokens=20, sampling=request.sampling, stop_ids=tokenizer.stop_ids
        )
        assert request.tokens == alone
        assert all(
            output.logprob < 0 and len(output.top_logprobs) == 2 for output in of_request if output.token is not None
        )
        if pattern:
            assert re.fullmatch(pattern, tokenizer.decode(request.tokens))
            assert of_request[-1].finish_reason == "stop"


def test_what_cannot_be_compiled_is_one_line(compiler):
    deep = '{"items":' * 3000 + "{}" + "}" * 3000
    loop = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    started = time.process_time()
    for schema, expected in (
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "object", "not": {}}, "not"),
        (loop, "cannot be compiled"),
        ({"$ref": "#"}, "cannot be compiled"),
        (deep, "recursion"),
        ("[1", "not JSON"),
        ([1], "expected an object"),
        (False, "cannot be compiled"),
        ({"$ref": "http://example.com/a"}, "http://example.com/a"),
        ({"multipleOf": 99999989}, "multipleOf = 99999989"),
        (
            {"allOf": [{"type": "integer", "multipleOf": factor} for factor in (991, 997)]},
            "multipleOf of all parts is 988027",
        ),
        ({"allOf": [{"type": "string", "pattern": f".*{index}.*"} for index in range(60)]}, "60 patterns"),
        ({"enum": ["a" * 300_000]}, "characters, expected at most"),
        ({"properties": {f"p{index}": {} for index in range(5000)}}, "5000 properties"),
        ({"enum": [f"value {index}" for index in range(4000)]}, None),
        ({"type": "string", "pattern": "((a{1,999}){1,999}){1,999}"}, None),
        ({"enum": [float("nan")]}, "not JSON"),
        ('{"enum": ["\\ud800"]}', "cannot be compiled"),
    ):
        if expected is None:
            compiler.json_schema(schema)
            continue
        with pytest.raises(UserError) as raised:
            compiler.json_schema(schema)
        assert expected in raised.value.message
        assert "\n" not in raised.value.message
        assert len(raised.value.message) < 400
    assert time.process_time() - started < 30
    for kind, text in (
        ("regex", "(a"),
        ("regex", "(?=a)b"),
        ("lark", "start: x"),
        ("lark", "a\n\n!?"),
        ("lark", 'start: %json {"multipleOf": 99999989}'),
        ("lark", "A: " + " & ".join("/.*x.*/" for _ in range(40))),
        ("choice", []),
    ):
        with pytest.raises(UserError, match=r"^[^\n]+$"):
            getattr(compiler, kind)(text)


def test_choices_and_grammars(tokenizer, compiler, model):
    sums = compiler.lark('start: number (" - " number)*\nnumber: /[0-9]{1,2}/')
    for seed in range(3):
        for grammar, pattern in ((compiler.choice(['"b"', "a c", "é"]), '"b"|a c|é'), (sums, r"\d+( - \d+)*")):
            sampling = SamplingParams(
                seed=seed, grammar=grammar, logit_bias={tokenizer.eos_id: 4.0} if tokenizer.eos_id else {}
            )
            ids = generate(model, tokenizer.encode("a"), max_tokens=60, sampling=sampling, stop_ids=tokenizer.stop_ids)
            assert re.fullmatch(pattern, tokenizer.decode(ids)) or len(ids) == 60


def test_many_choices_one_of_which_begins_another(tokenizer, compiler, model):
    texts = [*(f"{number}b" for number in range(3000)), "7", "7"]
    grammar = compiler.choice(texts)
    found = set()
    for seed in range(8):
        sampling = SamplingParams(seed=seed, grammar=grammar, logit_bias={tokenizer.encode("7")[-1]: 20.0})
        found.add(tokenizer.decode(generate(model, [3], max_tokens=9, sampling=sampling, stop_ids=tokenizer.stop_ids)))
    assert found <= {*texts}


def test_automata_have_a_limit(compiler, tokenizer):
    with pytest.raises(UserError, match="too many expressions"):  # other requests wait while they grow
        compiler.regex("a{50000}").start().accept(tokenizer.encode("a")[-1])


def test_a_schema_inside_of_a_grammar(compiler):
    compiler.lark('start: "x" %json {"type": "integer", "description": "' + "a & b " * 20 + '"}')


def test_special_tokens_are_no_text_and_stop_strings_are_found(tokenizer, compiler, model):
    sampling = SamplingParams(seed=0, grammar=compiler.regex("[^x]*"))
    ids = generate(model, tokenizer.encode("a"), max_tokens=40, sampling=sampling)
    assert not tokenizer.special_ids & {*ids}
    assert "x" not in tokenizer.decode(ids)


def test_what_the_vocabulary_cannot_write_is_an_error_of_the_request(tokenizer, compiler, model):
    sampling = SamplingParams(grammar=compiler.regex("a+京€"), logit_bias={tokenizer.encode("x")[-1]: 1.0})
    if tokenizer.token_id("<0xE2>") or tokenizer.token_id("â"):
        assert tokenizer.decode(generate(model, [3], max_tokens=100, sampling=sampling)).endswith("京€")
        return
    engine = BatchingEngine(model)
    engine.submit(Request([3], 40, sampling))
    while engine.busy:
        outputs = engine.step()
    assert outputs[-1].finish_reason in ("error", "length")


def test_a_tokenizer_whose_tokens_do_not_spell_texts_is_refused():
    vocabulary = {token: id for id, token in enumerate(["[UNK]", "wait", ":", "a", '"', "b", "c", "##2", "d", "."])}
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    with pytest.raises(UserError, match="do not spell texts byte by byte"):
        GrammarCompiler(Tokenizer(backend)).regex("a")


def test_examples_of_the_book_run():
    book = Path(__file__).parents[2] / "book" / "sampling.md"
    result = doctest.testfile(str(book), module_relative=False)
    assert result.attempted > 5
    assert not result.failed
