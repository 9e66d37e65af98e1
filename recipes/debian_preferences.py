"""Write preferences.jsonl from Debian's package descriptions: for recipes/preferences.toml.

    apt-get update -o Acquire::Languages=en          # fetches Translation-en
    python recipes/debian_preferences.py /var/lib/apt/lists/*_main_i18n_Translation-en.lz4 --count 180

A pair by a rule that can be checked: to a paragraph that describes a program, the better answer is the one line that its
maintainer wrote as the summary, the worse one is the paragraph's first sentence, copied.
"""

import argparse
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ENTRY = re.compile(r"^Description-en: (.+)\n((?: .*\n?)*)", re.MULTILINE)
SENTENCE = re.compile(r"(.{20,400}?[.!])(?=\s|$)")
MAX_CHARACTERS = 110
"""Of a paragraph, so that a model of 135 million parameters learns from them in minutes."""


def pairs(text: str) -> Iterator[dict[str, str]]:
    """The preference of each description whose first paragraph is short."""
    known = set()
    for entry in text.split("\n\n"):
        found = ENTRY.search(entry)
        if not found:
            continue
        lines = [line[1:].strip() for line in found[2].splitlines()]
        paragraph = " ".join(lines[: lines.index(".")] if "." in lines else lines)
        first = SENTENCE.match(paragraph)
        if first is None or len(paragraph) > MAX_CHARACTERS or paragraph in known or first[1] == found[1].strip():
            continue
        known.add(paragraph)
        prompt = f"Describe this software in one line:\n\n{paragraph}"
        yield {"prompt": prompt, "chosen": found[1].strip(), "rejected": first[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", help="Translation-en, in any compression that apt uses")
    parser.add_argument("--count", type=int, default=180)
    parser.add_argument("--out", type=Path, default=Path("preferences.jsonl"))
    options = parser.parse_args()
    command = ["/usr/lib/apt/apt-helper", "cat-file", options.file]
    text = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    rows = sorted(pairs(text), key=lambda row: hashlib.sha256(row["prompt"].encode()).digest())[: options.count]
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{options.out}: {len(rows)} preferences")


if __name__ == "__main__":
    main()
