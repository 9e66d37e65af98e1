"""Golden files: knobs and help pages. `GOLDEN=write make test` rewrites them; read the diff."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.recipe.explain import knob_table

HERE = Path(__file__).parent


def compare(name: str, text: str) -> None:
    path = HERE / name
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{name} changed; if intended: GOLDEN=write make test"


def test_every_knob():
    rows = (f"{name} [{takes}] = {default}\n    {meaning}\n" for name, takes, default, meaning in knob_table())
    compare("knobs.txt", "".join(rows))


@pytest.mark.parametrize("command", ["", "run", "launch", "generate", "serve"])
def test_help(command):
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    arguments = [sys.executable, "-m", "groundup.cli", *([command] if command else []), "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    text = "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"
    compare(f"help{'-' + command if command else ''}.txt", text.replace("python -m groundup.cli", "groundup"))
