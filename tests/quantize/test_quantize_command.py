"""`groundup quantize` and `groundup export` with odd values: one line and exit code 2, never a traceback."""

import json

import pytest

from groundup.model import save_model
from groundup.recipe.output_config import QuantizeConfig

VARIED = " ".join(f"{number} times {number % 7} is {number * (number % 7)}." for number in range(300))


@pytest.fixture
def folder(make_decoder, byte_tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(make_decoder(num_layers=1), tmp_path / "plain")
    byte_tokenizer.save(tmp_path / "plain")
    (tmp_path / "empty").mkdir()
    for name, text in {
        "text.txt": VARIED, "hello.txt": "hello world " * 500, "nothing.txt": "", "bad.jsonl": "{", "other.jsonl": '{"a": 1}\n',
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x81" * 99)
    return tmp_path


RTN = "quantize plain --out small --method rtn --calibration text.txt --eval-tokens 512"
REFUSED = {
    f"{RTN} --group-size 0": "group_size = 0",
    f"{RTN} --group-size 1": "group_size = 1",
    f"{RTN} --group-size 15": "group_size = 15",
    f"{RTN} --group-size -2": "group_size = -2",
    f"{RTN} --bits 0": "bits = 0",
    f"{RTN} --bits 1": "bits = 1",
    f"{RTN} --bits 9": "bits = 9",
    f"{RTN} --bits -4": "bits = -4",
    "quantize plain --out small --method nf4 --bits 3": "quantize.bits = 3 with quantize.method = nf4",
    "quantize plain --out small --method smoothquant --group-size 64": "quantize.group_size = 64",
    "quantize plain --out small --method gptq --rounding-steps 9": "quantize.rounding_steps = 9",
    "quantize plain --compare --methods nf4-3": "--methods nf4-3: unknown",
    "quantize plain --out small --method fast": "method = 'fast'",
    "quantize plain --out small --damp-percent 0": "damp_percent = 0",
    "quantize plain --out small --damp-percent nan": "damp_percent = nan",
    "quantize plain --out small --damp-percent -1": "damp_percent = -1",
    f"{RTN} --calibration-tokens 0": "calibration_tokens = 0",
    f"{RTN} --calibration-tokens -1": "calibration_tokens = -1",
    "quantize plain --out small --eval-tokens 0": "eval_tokens = 0",
    f"{RTN} --no-act-order": "act_order",
    "quantize plain --out small --method awq --damp-percent 0.5": "quantize.damp_percent = 0.5 with quantize.method = awq",
    "quantize plain --out small --calibration none.txt": "none.txt: no such file",
    "quantize plain --out small --calibration empty": "empty: a folder without files",
    "quantize plain --out small --calibration binary.txt": "binary.txt: not a UTF-8 text file",
    "quantize plain --out small --calibration nothing.txt": "0 tokens of calibration text",
    "quantize plain --out small --calibration bad.jsonl": "bad.jsonl, line 1: damaged",
    "quantize plain --out small --calibration other.jsonl": "other.jsonl, line 1: neither text nor messages",
    "quantize plain --out small --calibration hello.txt": "different runs of 4 tokens, expected at least",
    "quantize plain --out plain": "exists and is not empty",
    "quantize plain": "no folder to write the model to",
    "quantize plain --compare --method rtn": "both --compare and --method",
    "quantize plain --compare --methods rtn-4,best": "--methods best: unknown",
    "quantize plain --compare --methods rtn,": "--methods : unknown",
    "quantize plain --methods rtn --out small": "--methods without --compare",
    "quantize plain --compare --out plain": "exists and is not empty",
    "quantize nowhere --out small": "nowhere: no such file",
    "export plain --format gptq --dtype q4_0 --out x": "q4_0",
    "export plain --format gptq --out x": "not quantized",
    "export plain --format exl2 --out x": "format 'exl2'",
    "export plain --dtype int3 --out x": "int3",
}


def test_odd_values_are_one_line(folder, cli):
    before = sorted(path.name for path in folder.iterdir())
    for command, words in REFUSED.items():
        code, out, err = cli(command)
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert (code, out, len(errors)) == (2, "", 1), f"{command}: {err}"
        assert words in errors[0], f"{command}: {err}"
        assert sorted(path.name for path in folder.iterdir()) == before, command


@pytest.mark.parametrize("flags", ["--group-size -1 --bits 3", "--group-size 99999 --asymmetric --bits 2"])
def test_odd_values_that_are_right(folder, cli, flags):
    code, out, err = cli(f"{RTN} {flags} --json")
    assert code == 0, err
    summary = json.loads(out)
    assert summary["held_out"]["rtn"]["kl_divergence"] > 0
    assert summary["bits"] == int(flags.split()[flags.split().index("--bits") + 1])


@pytest.mark.parametrize("method", ["float8", "nf4"])
def test_methods_with_one_scheme(folder, cli, method):
    code, out, err = cli(f"quantize plain --out small --method {method} --calibration text.txt --eval-tokens 512")
    assert code == 0, err
    assert f"{method}, {'8 bits, a scale for each row' if method == 'float8' else '4 bits, groups of 64'}" in out
    assert "rounding alone" in out


def test_every_knob_has_a_flag(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = cli("quantize --help")
    for knob in QuantizeConfig.model_fields:
        assert f"--{knob.replace('_', '-')}" in out, knob


def test_a_model_without_quantization_says_so_with_null(folder, cli):
    assert cli("export plain --out hf")[0] == 0
    path = folder / "hf" / "config.json"
    for value, works in ((None, True), ([], False), (5, False), ({}, False), ("x", False)):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": value}))
        code, _, err = cli("export hf --out again")
        assert (code == 0) == works, (value, err)
        assert works or [line for line in err.splitlines() if line.startswith("error: ")], value
