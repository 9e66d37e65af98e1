"""The code of book/adding-a-family.md runs."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "book" / "adding-a-family.md"


def test_code_of_the_page_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    assert len(blocks) == 3
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {"__name__": "page"})
