"""The command line as a subprocess: errors, help pages, and the commands that need no trained model."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from groundup.cli import COMMANDS, extras
from groundup.pipeline import RECIPE_FILE
from groundup.recipe import load_recipe
from groundup.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart.toml"


def groundup(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "groundup.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd)


def run_code(code, *arguments, cwd=ROOT):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (
            "run none.toml",
            "none.toml: no such recipe file",
            "init --recipe NAME copies one of calculator, corpus, encoder",
        ),
        ("init --recipe fast", "fast: no such recipe", "one of calculator, corpus, encoder"),
        ("init --recipe encoder --hours 2", "--recipe with answers", "--set KNOB=VALUE"),
        ("plan recipes/llama-7b.toml --set train.stps=3", "unknown knob train.stps", "train.steps"),
        ("plan recipes/llama-7b.toml --set budget.devices=1", "GB on each of 1 device", "budget.devices="),
        ("plan recipes/quickstart.toml --set train.steps=many", "train.steps = 'many'", "explain train.steps"),
        ("run recipes/quickstart.toml --from bse", "bse: no such stage", "base, scores"),
        ("launch recipes/llama-7b.toml --on mars", "--on mars: unknown system", "slurm, kubernetes"),
        ("sweep recipes/quickstart.toml", "no knob has several values", "train.learning_rate="),
        ("explain train.stps", "unknown knob", "train.steps"),
        ("watch recipes", "recipes: ", "groundup run"),
        ("watch nowhere --page", "nowhere: no such folder", "groundup run"),
        ("status recipes", "recipes: not a run folder", "groundup run"),
        ("verify nowhere", "nowhere: not a run folder", "groundup run"),
        ("diff nowhere recipes/quickstart.toml", "nowhere: not a run folder", "groundup run"),
        ("report nowhere", "nowhere: not a run folder", "groundup run"),
        ("trace recipes", "either a text or --task", "groundup trace RUN"),
        ("trace recipes words", "recipes: no 03-tokens/train.json", "--until tokens"),
        ("trace recipes words --memory much", "--memory 'much'", "such as 2GB"),
        ("inspect recipes", "recipes: ", "--until data"),
        ("inspect recipes --show lost", "--show lost: unknown", "kept, dropped"),
        ("init --out README.md", "README.md exists", "--out"),
        ("generate recipes", "recipes: ", "04-base"),
        ("generate nowhere.gguf", "nowhere.gguf: no such file", "groundup run"),
        ("evaluate recipes --text none.txt", "none.txt: no such file", "UTF-8"),
        ("quantize recipes --out small --calibration none.txt", "none.txt: no such file", "UTF-8"),
        ("statsu runs", "statsu: no such command", "groundup status?"),
        ("worker runs", "worker: no such command", "one of init, plan"),
        ("train recipe.toml", "train: no such command", "groundup run RECIPE --until"),
    ],
)
def test_user_error_is_one_line_with_a_hint(cli, monkeypatch, arguments, error, hint):
    monkeypatch.chdir(ROOT)
    code, out, err = cli(arguments)
    assert (code, out) == (2, ""), err
    first, second = err.splitlines()
    assert first.startswith(f"error: {error}") or (first.startswith("error: ") and error in first)
    assert second.startswith("hint: ")
    assert hint in second
    assert "_worker" not in err


def test_missing_package_names_its_extra(tmp_path):
    (tmp_path / RECIPE_FILE).write_text("{}")
    code = (
        "import sys; sys.modules['starlette'] = None; sys.argv = ['groundup', 'watch', sys.argv[1], '--page']; "
        "from groundup.cli import main; main()"
    )
    done = run_code(code, tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: starlette is not installed\nhint: pip install 'groundup[serve]'\n"
    assert extras.missing_package_error(ModuleNotFoundError("no", name="groundup.nothing")) is None


def test_extras_match_pyproject():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, packages in extras.EXTRAS.items():
        names = {re.split(r"[\[<>=]", line)[0].replace("-", "_") for line in listed[extra]} - {"groundup"}
        assert names <= set(packages), extra
        assert set(packages) - names <= {"pyarrow"}, extra


def test_interrupted_run_can_continue(tmp_path):
    (tmp_path / "text.txt").write_text("some words\n" * 20)
    (tmp_path / "r.toml").write_text('[[data.sources]]\nname = "t"\nkind = "text"\npath = "text.txt"\n')
    code = (
        "import sys; from groundup import pipeline; from groundup.cli import main\n"
        "def interrupt(*a, **k): raise KeyboardInterrupt\n"
        "pipeline.build_stage = interrupt; sys.argv = ['groundup', 'run', 'r.toml']; main()"
    )
    done = run_code(code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "stopped; the same command continues\n")
    (tmp_path / "runs" / "r" / "01-data.partial").mkdir()
    status = groundup("status", "runs/r", cwd=tmp_path)
    assert "01-data        interrupted" in status.stdout
    assert status.stderr == "interrupted: groundup run RECIPE continues it\n"


def test_text_and_conversations_of_another_machine_are_planned_and_refused_by_the_run(tmp_path):
    sets = [f"--set=data.sources=[{{name = 'text', kind = 'text', path = '{tmp_path}/none/*.txt'}}]"]
    sets += [f"--set=finetune.conversations=[{{name = 'chat', kind = 'messages', path = '{tmp_path}/none.jsonl'}}]"]
    planned = groundup("plan", QUICKSTART, *sets)
    assert (planned.returncode, planned.stderr) == (0, ""), planned.stderr
    sets[0] = f"--set=data.sources=[{{name = 'text', kind = 'text', path = '{ROOT}/README.md'}}]"
    refused = groundup("run", QUICKSTART, *sets, "--runs", tmp_path / "runs")
    assert refused.returncode == 2
    assert "source chat: no file matches" in refused.stderr


def test_plan_as_json():
    done = groundup("plan", QUICKSTART, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "quickstart"


def test_diff_of_a_run_and_a_recipe(tmp_path):
    values = load_recipe(QUICKSTART).model_dump(mode="json", exclude_none=True)
    (tmp_path / RECIPE_FILE).write_text(json.dumps(values))
    same = groundup("diff", tmp_path, QUICKSTART)
    assert (same.returncode, same.stdout) == (0, f"{tmp_path} and {QUICKSTART}: no differences\n"), same.stderr
    changed = groundup("diff", tmp_path, QUICKSTART, "--set", "train.learning_rate=0.0123")
    assert changed.returncode == 0, changed.stderr
    (line,) = [line for line in changed.stdout.splitlines() if line.startswith("train.learning_rate: ")]
    assert line.endswith(" -> 0.0123")


def test_help_lists_every_command_and_stage():
    text = groundup("--help").stdout
    for panel, (_, names) in COMMANDS.items():
        assert panel in text
        for name in names:
            assert re.search(rf"│ {name} ", text), name
    assert "_worker" not in text
    run_help = groundup("run", "--help").stdout
    assert "run [OPTIONS] RECIPE" in run_help
    assert "<" not in run_help, "type names look like placeholders"
    assert all(stage.name in run_help for stage in STAGES)


def test_a_recipe_of_the_package_is_copied(tmp_path):
    done = groundup("init", "--recipe", "t5-translate", cwd=tmp_path)
    assert done.stdout == "wrote t5-translate.toml\nnext: groundup plan t5-translate.toml\n"
    assert (tmp_path / "t5-translate.toml").read_text() == (ROOT / "recipes" / "t5-translate.toml").read_text()


def test_version():
    assert groundup("--version").stdout.startswith("groundup 0.")


@pytest.mark.slow
def test_the_wheel_works_outside_the_repository(tmp_path):
    """Everything that is no Python code is in the wheel: recipes, templates, pages."""
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "site"), str(ROOT)]
    subprocess.run(install, check=True, timeout=600)
    (work := tmp_path / "work").mkdir()

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=work, env=environment).stdout

    assert str(tmp_path) in run("-c", "import groundup; print(groundup.__file__)")
    assert run("-m", "groundup.cli", "--version").startswith("groundup 0.")
    run("-m", "groundup.cli", "init", "--recipe", "quickstart")
    run("-m", "groundup.cli", "plan", "quickstart.toml", "--pdf", "plan.pdf")
    assert (work / "plan.pdf").read_bytes().startswith(b"%PDF")
    installed = {path.relative_to(tmp_path / "site") for path in (tmp_path / "site" / "groundup").rglob("*.*")}
    in_git = subprocess.run(["git", "ls-files", "src"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    missing = {Path(path).relative_to("src") for path in in_git.splitlines()} - installed
    assert missing <= {Path("groundup/recipes")}, "a link to the folder of the repository"


def test_a_crash_in_compiled_code_names_the_line_that_led_to_it():
    done = run_code("import ctypes, groundup.cli as cli; cli.app = lambda: ctypes.string_at(0); cli.main()")
    assert done.returncode < 0
    assert "Segmentation fault" in done.stderr
    assert "in string_at" in done.stderr
