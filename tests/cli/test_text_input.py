"""Texts of a file."""

import json

from groundup.cli.text_input import InputText, read_texts


def test_only_a_newline_ends_a_text(tmp_path):
    """Not the separators that Unicode counts as line breaks: JSON lines hold them as they are, and so may plain text."""
    text = "one\u2028two\x0cthree\x85four"
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"id": "a", "text": text}, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert read_texts(path) == [InputText("a", text)]
    path = tmp_path / "texts.txt"
    path.write_bytes(f"first\r\n\r\n{text}".encode())
    assert read_texts(path) == [InputText("1", "first"), InputText("3", text)]
