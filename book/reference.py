"""Generates the reference pages of the book from the code: library.md (Python functions), knobs.md (recipe fields), models.md
(model families) and the table in README.md.

python book/reference.py          write the pages; tests/golden/test_reference.py compares them with the code
"""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import groundup
from groundup.interop.family_table import COLUMNS, family_rows
from groundup.recipe.explain import knob_table

BOOK = Path(__file__).parent
README = BOOK.parent / "README.md"
TABLE_BEGIN, TABLE_END = "<!-- families: python book/reference.py -->", "<!-- end of families -->"
CHAPTERS = (
    "artifacts", "recipe", "plan", "data", "tokenizer", "model", "interop", "generate", "evaluate", "parallel", "train",
    "finetune", "quantize", "serve", "report",
)  # fmt: skip
LIBRARY_HEAD = """# Library reference

The Python face of groundup, generated from the docstrings by `python book/reference.py`. The first section lists the names that
`import groundup` offers; the chapters follow with all their public names. Each name is imported from its chapter
(`from groundup.tokenizer import Tokenizer`). Only the functions about recipes read a recipe file.
"""
KNOBS_HEAD = """# Recipe reference

All knobs of a recipe, generated from the schema by `python book/reference.py`.
`groundup explain KNOB` prints the same for one knob.
"""
MODELS_HEAD = """# Models

All families of models that groundup reads, from a Hugging Face folder or, where llama.cpp has them, a GGUF file. Generated from
the code by `python book/reference.py`; `groundup models` prints the same. Every configuration that groundup cannot represent is
refused by name. [Adding a family](adding-a-family.md) takes one small file.
"""


def first_paragraph(value: Any) -> str:
    """The summary of a docstring: its text up to the first blank line."""
    text = inspect.getdoc(value) or ""
    return " ".join(text.split("\n\n")[0].split())


def signature(name: str, value: Any) -> str:
    """`name(parameters)` with defaults and without annotations; only the name of a recipe section or a constant."""
    if inspect.isclass(value) and issubclass(value, BaseModel):
        return name
    try:
        parameters = inspect.signature(value).parameters.values()
    except (ValueError, TypeError):
        return name
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in parameters if each.name != "self"]
    text = str(inspect.Signature(plain))
    return f"{name}{re.sub(r'<.*? at 0x[0-9a-f]+>|<[^<>]*>', '...', text)}"


def entry(name: str, value: Any) -> str:
    """One line of the page for a public function, class or constant."""
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"- `{signature(name, value)}`: {first_paragraph(value)}"
    if isinstance(value, dict):
        return f"- `{name}`: {', '.join(str(key) for key in value)}"
    return f"- `{name}`: `{re.sub(r'<function (.*?) at 0x[0-9a-f]+>', r'...', repr(value))}`"


def library_page() -> str:
    parts = [LIBRARY_HEAD, "## groundup\n"]
    parts += [f"- `groundup.{name}`: {first_paragraph(getattr(groundup, name))}" for name in sorted(groundup.__all__)]
    for chapter in CHAPTERS:
        module = importlib.import_module(f"groundup.{chapter}")
        parts.append(f"\n## groundup.{chapter}\n\n{first_paragraph(module)}\n")
        parts += [entry(name, getattr(module, name)) for name in sorted(module.__all__)]
    return "\n".join(parts) + "\n"


def knobs_page() -> str:
    """One table a recipe section: knob, allowed values, default, meaning."""
    parts, section = [KNOBS_HEAD], None
    for name, takes, default, meaning in knob_table():
        if (top := name.partition(".")[0]) != section:
            section = top
            parts.append(f"\n## {section}\n\n| knob | takes | default | meaning |\n|---|---|---|---|")
        cells = (f"`{name}`", takes, default, meaning)
        parts.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


def models_page() -> str:
    """One row a family: what `groundup models` prints, and the differences that parity.md measured."""
    measured = {}
    families, _, _ = (BOOK / "parity.md").read_text(encoding="utf-8").partition("GGUF files in float32")
    for line in families.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        measured[cells[0]] = cells[-2:]
    parts = [MODELS_HEAD, *(f"- {column}: {meaning}" for column, meaning in COLUMNS.items())]
    parts += ["- in, out: the largest difference of a logit from transformers ([parity](parity.md))\n"]
    parts += [f"| {' | '.join((*COLUMNS, 'in', 'out'))} |", "|" + "---|" * (len(COLUMNS) + 2)]
    for row in family_rows():
        figures = measured.get(row["model_type"].split(",")[0], ["", ""])
        parts.append(f"| {' | '.join((*row.values(), *figures))} |")
    return "\n".join(parts) + "\n"


def readme() -> str:
    """README.md with its short table of families, between two marks."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(TABLE_BEGIN)
    _, _, after = rest.partition(TABLE_END)
    lines = ["| answers with | `model_type` | of these also GGUF | fine-tune | quantize |", "|---|---|---|---|---|"]
    rows = family_rows()
    for served in dict.fromkeys(row["serve"] for row in rows):
        same = [row for row in rows if row["serve"] == served]
        names = ", ".join(row["model_type"] for row in same)
        packed = ", ".join(row["model_type"] for row in same if row["gguf"])
        lines.append(f"| {served} | {names} | {packed} | {same[0]['fine-tune']} | {same[0]['quantize'] or 'no'} |")
    return before + TABLE_BEGIN + "\n".join(["", *lines, ""]) + TABLE_END + after


def pages() -> dict[Path, str]:
    """File and text of each generated page."""
    return {
        BOOK / "library.md": library_page(),
        BOOK / "knobs.md": knobs_page(),
        BOOK / "models.md": models_page(),
        README: readme(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path)
