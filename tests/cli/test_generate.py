"""The command generate on tiny random models: every way to choose tokens, files of prompts, exit codes."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from groundup.artifacts.errors import UserError
from groundup.cli import app
from groundup.model import build_model, save_model
from groundup.recipe import ModelConfig
from groundup.tokenizer.tokenizer_training import train_bpe


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    tokenizer = train_bpe([], 260)
    found = {}
    for name, seed in (("decoder", 0), ("draft", 1), ("encoder_decoder", 0), ("encoder", 0)):
        torch.manual_seed(seed)
        architecture = "decoder" if name == "draft" else name
        start = {"decoder_start_token_id": 0} if name == "encoder_decoder" else {}
        config = ModelConfig(
            architecture=architecture, vocab_size=260, hidden_size=32, num_layers=1, num_heads=2, context_length=64, **start
        )  # fmt: skip
        found[name] = tmp_path_factory.mktemp(name)
        save_model(build_model(config), found[name])
        tokenizer.save(found[name])
    return found


def run(*arguments):
    return CliRunner().invoke(app, ["generate", *map(str, arguments)])


def texts_of(result):
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line)["text"] for line in result.stdout.splitlines()]


def test_options_reach_the_sampler(folders):
    model = folders["decoder"]
    greedy = run(model, "--prompt", "ab", "--max-tokens", 12, "--temperature", 0).stdout
    assert greedy.startswith("ab")
    options = ["--prompt", "ab", "--max-tokens", 12, "--json"]
    (text,) = texts_of(run(model, *options, "--temperature", 0))
    assert greedy.rstrip("\n") == "ab" + text.rstrip("\n")
    for more in (
        ["--top-k", 1], ["--min-p", 1, "--top-p", "0.5"],
        ["--prompt-lookup", "--temperature", 0], ["--draft", folders["draft"], "--temperature", 0],
    ):  # fmt: skip
        assert texts_of(run(model, *options, *more)) == [text], more
    assert len({*texts_of(run(model, *options, "--n", 3, "--seed", 1))}) == 3
    ranked = run(model, *options, "--n", 2, "--best-of", 4, "--seed", 1, "--logprobs", 2)
    means = [
        sum(token["logprob"] for token in record["logprobs"]) / record["tokens"]
        for record in map(json.loads, ranked.stdout.splitlines())
    ]
    assert means == sorted(means, reverse=True)
    assert texts_of(run(model, *options, "--logit-bias", "65=100")) != [text]
    letter = next(letter for letter in text if letter.isascii() and letter.isalnum())
    banned = texts_of(run(model, *options, "--temperature", 0, "--ban", letter))
    assert letter not in banned[0]
    assert texts_of(run(model, *options, "--temperature", 0, "--stop", letter)) == [text[: text.index(letter)]]
    searched = ["--beams", 3, "--n", 3, "--length-penalty", 1, "--no-repeat-ngram", 2]
    assert len(texts_of(run(model, *options, *searched))) == 3


def test_constrained(folders, tmp_path):
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.gbnf"
    schema.write_text('{"type": "array", "items": {"enum": [1, true]}, "minItems": 1, "maxItems": 2}')
    grammar.write_text('root ::= "x" [0-9] "y"?')
    options = ["--prompt", "ab", "--max-tokens", 40, "--seed", 3, "--json"]
    for more in ([], ["--prompt-lookup"], ["--draft", folders["draft"]]):
        (answer,) = texts_of(run(folders["decoder"], *options, "--json-schema", schema, *more))
        assert {*map(str, json.loads(answer))} <= {"1", "True"}
        (answer,) = texts_of(run(folders["decoder"], *options, "--grammar", grammar, *more))
        assert re.fullmatch("x[0-9]y?", answer)
        (answer,) = texts_of(run(folders["decoder"], *options, "--regex", "[ab]{3}", *more))
        assert re.fullmatch("[ab]{3}", answer)


def test_files_of_prompts(folders, tmp_path):
    lines, records = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    prompts = ["one", "two", "x" * 80, "three"]
    lines.write_text("\n".join(prompts))
    records.write_text("\n".join(json.dumps({"id": f"p{index}", "text": text}) for index, text in enumerate(prompts)))
    result = run(folders["decoder"], "--input", records, "--json", "--temperature", 0, "--max-tokens", 5)
    assert result.exit_code == 1
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["p0", "p1", "p3"]
    assert re.fullmatch(r"error: prompt p2: the prompt has 80 tokens, expected at most \d+[^\n]+\n", result.stderr)
    result = run(folders["decoder"], "--input", lines, "--max-tokens", 5, "--seed", 1)
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 3)
    translated = run(folders["encoder_decoder"], "--input", lines, "--max-tokens", 5, "--beams", 2, "--n", 2, "--json")
    assert [json.loads(line)["id"] for line in translated.stdout.splitlines()] == [each for each in "124" for _ in "ab"]
    source = [folders["encoder_decoder"], "--prompt", "one", "--max-tokens", 5]
    (greedy,) = texts_of(run(*source, "--json", "--temperature", 0))
    assert texts_of(run(*source, "--json", "--stop", "never written")) == [greedy]
    assert run(*source, "--temperature", 0, "--prompt-lookup").stdout == greedy + "\n"


def test_errors_are_one_line(folders, tmp_path):
    model = folders["decoder"]
    latin = tmp_path / "latin.txt"
    latin.write_bytes("né".encode("latin-1"))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in model.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = load_file(damaged / "model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, damaged / "model.safetensors")
    schema = tmp_path / "schema.json"
    schema.write_text('{"not": {}}')
    for arguments, expected in (
        ((model, "--input", latin), "not a UTF-8 text file"),
        ((model, "--input", tmp_path / "none.txt"), "no such file"),
        ((model, "--prompt", "a", "--input", latin), "both --prompt and --input"),
        ((model, "--beams", 2, "--temperature", 1), "both --beams and --temperature"),
        ((model, "--beams", 2, "--regex", "a"), "both --beams and --regex"),
        ((model, "--beams", 2, "--stop", "a"), "both --beams and --stop"),
        ((model, "--beams", 2, "--top-k", 5), "both --beams and --top-k"),
        ((model, "--regex", "a", "--grammar", latin), "both --regex and --grammar|both --grammar and --regex"),
        ((model, "--prompt", "a", "--json-schema", schema), "cannot be compiled"),
        ((model, "--prompt", "a", "--regex", "("), "cannot be compiled"),
        ((model, "--prompt", "a", "--logprobs", 1), "--logprobs without --json"),
        ((model, "--prompt", "a", "--logit-bias", "x"), "expected ID=BIAS"),
        ((model, "--prompt", "a", "--logit-bias", "900=1"), "token id 900, expected 0 to 259"),
        ((model, "--prompt", "a", "--best-of", 1, "--n", 2), "--best-of 1, expected at least --n = 2"),
        ((model, "--prompt", "x" * 99), "the prompt has 99 tokens"),
        ((model, "--prompt", "a", "--draft", folders["encoder_decoder"]), "architecture encoder_decoder"),
        ((folders["encoder"], "--prompt", "a"), "is an encoder"),
        ((folders["encoder_decoder"],), "no text to read"),
        ((damaged, "--prompt", "a"), "not finite"),
        ((damaged, "--prompt", "a", "--json"), "not finite"),
        ((damaged, "--prompt", "a", "--beams", 2), "not finite"),
        ((damaged, "--prompt", "a", "--prompt-lookup"), "not finite"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, UserError), (arguments, result.output, result.exception)
        assert re.search(expected, result.exception.message), (arguments, result.exception.message)
        assert "\n" not in result.exception.message
        assert result.stdout == ""
    result = CliRunner().invoke(app, ["generate", str(model), "--prompt", "-"], input=b"n\xe9")
    assert "standard input is not UTF-8" in result.exception.message
