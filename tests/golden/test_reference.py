"""The generated reference pages equal the code. `python book/reference.py` writes them anew."""

import importlib.util
from pathlib import Path

import pytest

REFERENCE = Path(__file__).resolve().parents[2] / "book" / "reference.py"


def load_reference():
    spec = importlib.util.spec_from_file_location("reference", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["library.md", "knobs.md", "models.md", "../README.md"])
def test_reference_page_equals_the_code(page):
    path = (REFERENCE.parent / page).resolve()
    assert path.read_text(encoding="utf-8") == load_reference().pages()[path], "run: python book/reference.py"


def test_every_public_function_has_a_docstring():
    text = load_reference().library_page()
    assert [line for line in text.splitlines() if line.endswith("`: ")] == []
