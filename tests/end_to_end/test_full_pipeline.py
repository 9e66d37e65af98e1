"""All stages of a tiny recipe through the command line, and the same run with kills and a full disk."""

import errno
import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from faulted_runs import ForkedRun, check_report, differences, finish

from groundup.artifacts.directory import DEFAULT_FILE_MODE
from groundup.artifacts.manifest import Manifest

FOLDERS = (
    "01-data", "02-tokenizer", "03-tokens", "04-base", "05-scores", "06-chat", "09-quantized", "10-export", "11-report",
)  # fmt: skip


def groundup(*arguments, **options):
    """Run the command line; returns the finished process."""
    command = [sys.executable, "-m", "groundup.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def test_all_stages_are_complete_and_verify(tiny_run):
    assert [folder.name for folder in sorted(tiny_run.glob("[01]*"))] == list(FOLDERS)
    done = groundup("verify", tiny_run)
    assert done.returncode == 0, done.stderr
    assert "9 complete stages" in done.stdout
    states = {row["stage"]: row["state"] for row in json.loads(groundup("status", tiny_run, "--json").stdout)}
    assert set(states.values()) == {"complete"}
    modes = {path: path.stat().st_mode & 0o777 for path in tiny_run.rglob("*") if path.is_file()}
    assert {path: oct(mode) for path, mode in modes.items() if mode != DEFAULT_FILE_MODE} == {}


def test_trace_finds_a_training_text(tiny_run, tmp_path):
    """The text of one document of the code, with its name; and nothing of words that are nowhere."""
    tiny_run = shutil.copytree(tiny_run, tmp_path / "tiny")  # the index is written into the run
    text = "def dumps(obj, *, skipkeys=False, ensure_ascii=True, check_circular=True,"
    found = json.loads(groundup("trace", tiny_run, f"Zebras ride bicycles. {text}", "--json").stdout)
    (span,) = found["spans"]
    assert span["text"].strip() in text
    assert "skipkeys=False, ensure_ascii=True" in span["text"]
    assert [(each["source"], each["id"].partition("#")[0]) for each in span["documents"]] == [
        ("code", "json___init__.py")
    ]
    lines = groundup("trace", tiny_run, text)
    assert "100% of the text" in lines.stdout
    assert lines.stderr == "", "the index is kept"
    assert groundup("trace", tiny_run, "check_circular", "--count").stdout.strip().isdigit()
    assert groundup("verify", tiny_run).returncode == 0


def test_second_run_builds_nothing_and_changed_knob_is_an_error(tiny_recipe, tiny_run):
    done = groundup("run", tiny_recipe, "--runs", tiny_run.parent)
    assert done.returncode == 0
    assert "nothing to do" in done.stdout
    changed = groundup("run", tiny_recipe, "--runs", tiny_run.parent, "--set", "train.learning_rate=0.02")
    assert changed.returncode == 2
    assert "train.learning_rate: 0.01 -> 0.02" in changed.stderr
    assert "hint: --replace" in changed.stderr
    assert "Traceback" not in changed.stderr


def test_verify_finds_a_flipped_byte(tiny_run):
    path = tiny_run / "04-base" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        done = groundup("verify", tiny_run)
    finally:
        path.write_bytes(whole)
    assert done.returncode == 2
    assert "04-base/model.safetensors: changed" in done.stdout


def test_training_loss_falls(tiny_run):
    metrics = Manifest.read(tiny_run / "04-base").metrics
    losses = [json.loads(line)["loss"] for line in (tiny_run / "04-base" / "steps.jsonl").read_text().splitlines()]
    assert len(losses) == 40
    assert losses[0] > 6.0
    assert metrics["final_loss"] < 5.0


def test_exported_model_has_equal_logits_in_transformers(tiny_run):
    import transformers

    from groundup.quantize import open_model

    model, tokenizer = open_model(tiny_run / "06-chat", device="cpu")
    exported = transformers.AutoModelForCausalLM.from_pretrained(tiny_run / "10-export", dtype=torch.float32)
    exported_tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_run / "10-export")
    text = "The value of an integer is a number. Über 1234!"
    assert exported_tokenizer(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
    tokens = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, exported(tokens).logits, rtol=1e-4, atol=1e-4)
    messages = [{"role": "user", "content": "Hello"}]
    expected = exported_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.render_chat(messages, add_generation_prompt=True) == expected


@pytest.mark.parametrize("artifact", ["", "04-base", "06-chat", "09-quantized", "10-export"])
def test_generate_from_every_kind_of_model(tiny_run, artifact):
    done = groundup(
        "generate", tiny_run / artifact, "--prompt", "The", "--max-tokens", 5, "--seed", 1, "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The")


def test_chat_reads_messages_from_a_pipe(tiny_run):
    done = groundup("chat", tiny_run, "--max-tokens", 8, "--seed", 1, input="Hello\nThank you\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2  # so small a model may answer with nothing but spaces


def test_report_is_pdf_and_html(tiny_run):
    assert (tiny_run / "11-report" / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert "tiny" in (tiny_run / "11-report" / "report.html").read_text()


def test_evaluate_quantize_export_commands(tiny_run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("A list is a sequence of values. " * 20)
    score = groundup("evaluate", tiny_run, "--text", text, "--json")
    assert score.returncode == 0, score.stderr
    assert 0 < json.loads(score.stdout)["bits_per_byte"] < 8
    made = groundup("quantize", tiny_run, "--method", "rtn", "--group-size", 32, "--out", tmp_path / "small")
    assert made.returncode == 0, made.stderr
    assert groundup("generate", tmp_path / "small", "--max-tokens", 3).returncode == 0
    written = groundup("export", tiny_run, "--format", "gguf", "--out", tmp_path / "gguf")
    assert written.returncode == 0, written.stderr
    (file,) = (tmp_path / "gguf").glob("*.gguf")
    assert groundup("generate", file, "--max-tokens", 3).returncode == 0


def test_killed_run_with_a_full_disk_equals_straight_run(tiny_recipe, tiny_run, tmp_path):
    """Four moments that have cost a training or left files behind; test_kills.py and test_storage_faults.py have all others."""
    for only, at in (("01-data/work", 0), ("04-base.partial/checkpoints/step-", 0), ("09-quantized/", 0)):
        code, stderr = finish(ForkedRun(tiny_recipe, tmp_path, fault={"only": only, "at": at, "action": "kill group"}))
        assert code == -signal.SIGKILL, f"{only}: {stderr}"
    full = {"only": "10-export", "at": 6, "action": errno.ENOSPC}
    code, stderr = finish(ForkedRun(tiny_recipe, tmp_path, fault=full))
    assert check_report(code, stderr) is None
    assert "10-export" in stderr
    code, stderr = finish(ForkedRun(tiny_recipe, tmp_path))
    assert code == 0, stderr
    assert differences(tmp_path / "tiny", tiny_run) == []
