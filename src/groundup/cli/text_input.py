"""Texts from a file: one a line, or JSON lines with a field `text`."""

import json
from dataclasses import dataclass
from pathlib import Path

from groundup.artifacts.errors import UserError


@dataclass(frozen=True)
class InputText:
    id: str
    text: str


def read_text(path: Path) -> str:
    """The content of a UTF-8 file. Raises UserError where there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", hint="expected a UTF-8 text file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, expected a UTF-8 text file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 text file ({error})", hint="convert it with iconv") from None


def read_texts(path: Path) -> list[InputText]:
    """The texts of a file, with the number of the line as id, or the field `id` of a JSON line; blank lines are skipped."""
    texts = []
    for number, line in enumerate(read_text(path).split("\n"), 1):  # texts hold other line breaks
        if not line.strip():
            continue
        if path.suffix == ".jsonl":
            texts.append(_from_json(line, f"{path}:{number}", number))
        else:
            texts.append(InputText(str(number), line.strip()))
    if not texts:
        raise UserError(f"{path}: no text, expected one a line")
    return texts


def texts_to_read(texts: list[str] | None, input: Path | None, command: str) -> list[InputText]:
    """The texts of the command line, then those of a file. Raises UserError if there are none."""
    entries = [InputText(str(number), text) for number, text in enumerate(texts or (), 1)]
    entries += read_texts(input) if input else []
    if not entries:
        raise UserError(
            f"no text to {command}", hint=f"groundup {command} MODEL TEXT, or --input FILE with one text per line"
        )
    if empty := [entry.id for entry in entries if not entry.text.strip()]:
        raise UserError(f"text {empty[0]} is empty: nothing to {command}")
    return entries


def _from_json(line: str, place: str, number: int) -> InputText:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON: {error}", hint="name a file of plain lines .txt") from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{place}: no text, expected a field text", hint='{"id": "a", "text": "..."}')
    return InputText(str(record.get("id", number)), text)
