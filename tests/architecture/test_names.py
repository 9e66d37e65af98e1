"""Names: one meaning a word, one class a name, no private dialect, complete reading orders, a glossary that matches the code."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "groundup"

BANNED = {
    "absent", "elsewhere", "essence", "goodness", "heap", "hear", "kin", "licence", "mine", "riddle", "sees", "sight",
    "sights", "speech", "story", "tell", "telling", "tells", "theirs", "told", "verdict", "verdicts", "wish", "wishes",
    "wording", "worth",
}  # fmt: skip
"""Parts of identifiers that this project once used for other things; the standard term is in book/glossary.md."""

STANDARD_METHODS = {"tell"}
"""Of Python's file objects."""

REPEATED_MODULES = {"__init__", "__main__", "stage"}
"""Module names that mean the same thing in each folder."""


def python_files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def packages() -> list[Path]:
    return sorted(path.parent for path in SOURCE.rglob("__init__.py"))


def name_parts(identifier: str) -> set[str]:
    """The lower-case words of a snake_case or CamelCase name."""
    return {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)}


def identifiers(tree: ast.AST) -> set[str]:
    """Names that are bound or used in a module: variables, attributes, arguments, keywords, functions, classes."""
    found = set()
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name"):
            if isinstance(value := getattr(node, field, None), str):
                found.add(value)
    return found


def test_no_banned_word_in_an_identifier():
    found = {}
    for path in python_files():
        names = (identifiers(ast.parse(path.read_text())) | {path.stem}) - STANDARD_METHODS
        found[str(path.relative_to(SOURCE))] = sorted(name for name in names if name_parts(name) & BANNED)
    assert {path: names for path, names in found.items() if names} == {}


def test_class_names_are_unique():
    modules = defaultdict(list)
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(str(path.relative_to(SOURCE)))
    assert {name: found for name, found in modules.items() if len(found) > 1} == {}


def test_module_names_are_unique():
    modules = defaultdict(list)
    for path in python_files():
        if path.stem not in REPEATED_MODULES:
            modules[path.stem].append(str(path.relative_to(SOURCE)))
    assert {name: found for name, found in modules.items() if len(found) > 1} == {}


def test_reading_orders_name_every_module():
    for package in packages():
        text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
        members = [path.name for path in package.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
        members += [path.name for path in package.iterdir() if (path / "__init__.py").is_file()]
        missing = [name for name in members if not re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text)]
        assert missing == [], f"{package}: not in the reading order"
        gone = [
            name
            for name in re.findall(r"^ {4}(\w+\.py)\b", text, re.MULTILINE)
            if name not in [*members, "__main__.py"]
        ]
        assert gone == [], f"{package}: the reading order names modules that do not exist"


def test_glossary_matches_the_code():
    rows = re.findall(
        r"^\| ([^|]+) \| [^|]+ \| `([^`|]+)` \|$", (ROOT / "book" / "glossary.md").read_text(), re.MULTILINE
    )
    assert len(rows) >= 50
    assert [term for term, _ in rows] == sorted((term for term, _ in rows), key=str.lower)
    for term, place in rows:
        module, _, name = place.partition(":")
        assert (SOURCE / module).exists(), f"{term}: {module} does not exist"
        if name:
            assert name in identifiers(ast.parse((SOURCE / module).read_text())), f"{term}: {name} is not in {module}"
