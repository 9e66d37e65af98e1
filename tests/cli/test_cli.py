"""What a user types, and what a user is told."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def groundup(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "groundup.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["run", "none.toml"], "none.toml: no such recipe file", "recipes/"),
        (
            ["plan", "recipes/llama-7b.toml", "--set", "train.stps=3"],
            "unknown knob train.stps",
            "train.steps",
        ),
        (
            ["plan", "recipes/llama-7b.toml", "--set", "budget.devices=1"],
            "GB on each of 1 device",
            "budget.devices=",
        ),
        (["explain", "train.stps"], "no such knob", "train.steps"),
        (["status", "recipes"], "not a run folder", "groundup run"),
        (["verify", "nowhere"], "not a run folder", "groundup run"),
        (["init", "--out", "README.md"], "README.md exists", "--out"),
        (["generate", "recipes"], "recipes", ""),
        (["generate", "nowhere.gguf"], "nowhere.gguf", ""),
        (["evaluate", "recipes", "--text", "none.txt"], "", ""),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(arguments, error, hint):
    done = groundup(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert error in done.stderr
    assert hint in done.stderr
    assert done.stdout == ""


def test_init_writes_a_recipe_that_plans(tmp_path):
    out = tmp_path / "mine.toml"
    answers = [
        "--goal",
        "chat-4bit",
        "--data",
        "texts/*.txt",
        "--hardware",
        "cpu-8",
        "--devices",
        "1",
        "--hours",
        "2",
    ]
    made = groundup("init", "--out", out, *answers)
    assert made.returncode == 0, made.stderr
    planned = groundup("plan", out)
    assert planned.returncode == 0, planned.stderr
    assert "hours" in planned.stdout
    bad = groundup("init", "--out", tmp_path / "other.toml", "--goal", "world-peace")
    assert bad.returncode == 2
    assert not (tmp_path / "other.toml").exists()


def test_diff_of_two_recipes(tmp_path):
    for name in ("gpt2-124m", "llama-1b"):
        assert groundup("plan", f"recipes/{name}.toml", "--json").returncode == 0


def test_help_names_every_command():
    text = groundup("--help").stdout
    for command in (
        "init", "plan", "run", "status", "verify", "diff", "generate", "chat", "serve", "evaluate", "quantize", "export",
        "report", "explain",
    ):  # fmt: skip
        assert command in text
