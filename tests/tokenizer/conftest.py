"""A small tokenizer, shared by the tests of this chapter."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundup.tokenizer.chat_template import FIXED_DATE
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for hard_texts


@pytest.fixture(scope="session")
def prose() -> list[str]:
    from hard_texts import PROSE

    recipe = HERE.parents[1] / "src" / "groundup" / "recipe"
    code = [path.read_text(encoding="utf-8") for path in sorted(recipe.glob("*.py"))]
    return [PROSE, *code]


@pytest.fixture(scope="session")
def tokenizer(prose: list[str]) -> Tokenizer:
    return train_bpe(prose, 700)


@pytest.fixture
def fixed_date(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """transformers renders templates with the date of ours."""
    import transformers.utils.chat_template_utils as theirs

    class Date:
        now = staticmethod(lambda: FIXED_DATE)

    monkeypatch.setattr(theirs, "datetime", Date)
    theirs._compile_jinja_template.cache_clear()
    yield
    theirs._compile_jinja_template.cache_clear()
