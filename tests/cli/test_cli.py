"""What a user types, and what a user is told."""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from groundup.cli import extras

PLAN = ["plan", "recipes/quickstart.toml", "--set"]
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
        (
            ["plan", "recipes/quickstart.toml", "--set", "train.steps=many"],
            "expected a whole number",
            "explain train.steps",
        ),
        (
            ["plan", "recipes/quickstart.toml", "--set", "model.num_heads=3"],
            "hidden_size = 256 is not divisible by num_heads = 3",
            "explain model.hidden_size",
        ),
        (["launch", "recipes/llama-7b.toml", "--on", "mars"], "--on mars: not known", "slurm, kubernetes"),
        (["explain", "train.stps"], "unknown knob", "train.steps"),
        (["watch", "recipes"], "neither a run", "groundup run"),
        (["watch", "nowhere", "--page"], "no such folder", "groundup run"),
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


def test_a_missing_package_is_one_line_with_the_extra_that_brings_it():
    code = (
        "import sys; sys.modules['starlette'] = None; sys.argv = ['groundup', 'watch', sys.argv[1], '--page']; "
        "from groundup.cli import main; main()"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, ".lock").touch()
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=False
        )
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "error: this needs starlette, which is not installed\nhint: pip install 'groundup[serve]'\n"
    )
    assert extras.missing_package_error(ModuleNotFoundError("no", name="groundup.nothing")) is None


def test_the_extras_are_those_of_the_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, packages in extras.EXTRAS.items():
        names = {re.split(r"[\[<>=]", line)[0].replace("-", "_") for line in listed[extra]}
        assert names <= set(packages), extra
        assert set(packages) - names <= {"pyarrow"}, extra


def test_an_interrupted_run_says_that_it_continues(tmp_path):
    (tmp_path / "text.txt").write_text("some words\n" * 20)
    (tmp_path / "r.toml").write_text('[[data.sources]]\nname = "t"\nkind = "text"\npath = "text.txt"\n')
    code = (
        "import sys; from groundup import pipeline; from groundup.cli import main\n"
        "def stop(*a, **k): raise KeyboardInterrupt\n"
        "pipeline.build_stage = stop; sys.argv = ['groundup', 'run', 'r.toml']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (130, "stopped; the same command continues\n")
    (tmp_path / "runs" / "r" / "01-data.partial").mkdir()
    told = groundup("status", "runs/r", cwd=tmp_path)
    assert "01-data        interrupted" in told.stdout
    assert told.stderr == "interrupted: groundup run RECIPE continues it\n"


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
        "init", "plan", "run", "launch", "status", "verify", "diff", "generate", "chat", "serve", "evaluate", "quantize",
        "export",
        "report", "explain", "watch", "inspect",
    ):  # fmt: skip
        assert command in text
