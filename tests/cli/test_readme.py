"""The README: its Python example runs, its commands, make targets and recipes exist."""

import re
import subprocess
import sys
from pathlib import Path

from groundup.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_example_runs():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run([sys.executable, "-W", "error", "-c", block], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_readme_names_all_commands_and_only_those():
    known = {each.callback.__name__ for each in app.registered_commands if each.callback and not each.hidden}
    used = set(re.findall(r"groundup (?:--\S+ )?([a-z]+)", " ".join(re.findall(r"^    .*$", README, re.M))))
    assert used <= known
    assert [name for name in sorted(known) if f"`{name}`" not in README and name not in used] == []


def test_make_targets_and_recipes_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make ([a-z]+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for name in re.findall(r"`(\w[\w-]+)`", re.search(r"`recipes/` goes.*?\n\n", README, re.S).group(0)):
        if name not in ("recipes",):
            assert (ROOT / "recipes" / f"{name}.toml").is_file(), name
